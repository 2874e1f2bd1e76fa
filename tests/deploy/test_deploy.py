"""The files of deploy/, by the schemas of those who read them and by our own settings and flags."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from convolab_worker.cli.main import parse
from convolab_worker.settings import Settings
from convolab_worker.settings.units import parse_duration
from tests.support.markdown import ROOT

DEPLOY = ROOT / "deploy"
CLOUD_RUN = sorted((DEPLOY / "cloudrun").glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    """A YAML file's one document."""
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON schema of a resource of Cloud Run's v1 API, unknown fields refused."""
    discovery = files("googleapiclient.discovery_cache.documents").joinpath("run.v1.json")
    described = json.loads(discovery.read_text(encoding="utf-8"))["schemas"]
    return {
        "$ref": f"#/$defs/{kind}",
        "$defs": {name: _converted(schema) for name, schema in described.items()},
    }


def _converted(schema: dict[str, Any]) -> dict[str, Any]:
    """A discovery document's schema as JSON schema has it."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    if schema.get("type") == "array":
        return {"type": "array", "items": _converted(schema["items"])}
    if "additionalProperties" in schema:
        more = _converted(schema["additionalProperties"])
        return {"type": "object", "additionalProperties": more}
    if "properties" in schema:
        known = {name: _converted(part) for name, part in schema["properties"].items()}
        return {"type": "object", "properties": known, "additionalProperties": False}
    plain: dict[str, Any] = {key: schema[key] for key in ("type", "enum") if key in schema}
    return {} if plain.get("type") == "any" else plain


def container_of(document: dict[str, Any]) -> dict[str, Any]:
    """The one container that a resource runs."""
    spec = document["spec"]
    while "template" in spec:
        spec = spec["template"]["spec"]
    (container,) = spec["containers"]
    return dict(container)


@pytest.mark.parametrize("path", CLOUD_RUN, ids=lambda path: path.stem)
def test_cloud_run_knows_every_field(path: Path) -> None:
    """Each file is valid by the schema of Cloud Run's own API."""
    document = read(path)

    jsonschema.validate(document, schema_of(document["kind"]))


def test_the_schema_refuses_a_field_that_is_not_there() -> None:
    """A misspelt field is found, however deep."""
    document = read(DEPLOY / "cloudrun" / "service.yaml")
    container = document["spec"]["template"]["spec"]["containers"][0]
    container["startupProbe"]["httpget"] = container["startupProbe"].pop("httpGet")

    with pytest.raises(jsonschema.ValidationError, match="httpget"):
        jsonschema.validate(document, schema_of("Service"))


@pytest.mark.parametrize("path", CLOUD_RUN, ids=lambda path: path.stem)
def test_cloud_run_starts_what_is_there(path: Path) -> None:
    """The command's flags and the variables are ours, and the address comes from a secret."""
    container = container_of(read(path))
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}

    assert variables.pop("REDIS_URL") is None
    assert Settings.from_env({name: str(value) for name, value in variables.items()}).app
    assert parse(container["args"]).command in ("run", "drain")


def test_the_service_scales_to_zero_and_is_billed_by_the_request() -> None:
    """At most three instances, none at rest, no CPU but for requests, an hour for each."""
    template = read(DEPLOY / "cloudrun" / "service.yaml")["spec"]["template"]
    notes, spec = template["metadata"]["annotations"], template["spec"]
    container = spec["containers"][0]

    assert notes["autoscaling.knative.dev/minScale"] == "0"
    assert notes["autoscaling.knative.dev/maxScale"] == "3"
    assert notes["run.googleapis.com/cpu-throttling"] == "true"
    variables = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    assert parse_duration(variables["CONVOLAB_WAKE_HOLD"]) < spec["timeoutSeconds"] == 3600
    assert "--wake" in container["args"]
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")} == {
        "/health"
    }


def test_a_drain_ends_before_its_time() -> None:
    """The job's budget is below its time-out, and a failed job is not a reason to run again."""
    task = read(DEPLOY / "cloudrun" / "job.yaml")["spec"]["template"]["spec"]["template"]["spec"]
    given = parse(task["containers"][0]["args"])

    assert given.budget < float(task["timeoutSeconds"])
    assert task["maxRetries"] == 0


def commands(name: str) -> list[list[str]]:
    """The commands of deploy/README.md that begin with those words, in words of their own."""
    text = (DEPLOY / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(rf"^\$ ({name} .*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def flag(words: list[str], name: str) -> str:
    """The value of a flag."""
    return words[words.index(name) + 1]


def test_the_scheduler_waits_longer_than_the_worker_holds() -> None:
    """Every five minutes, a deadline that Cloud Scheduler allows, an audience without a path."""
    wake, drain = commands("gcloud scheduler jobs create http")
    uri = flag(wake, "--uri")
    hold = parse_duration(uri.partition("hold=")[2])
    deadline = parse_duration(flag(wake, "--attempt-deadline"))

    assert flag(wake, "--schedule") == "*/5 * * * *"
    assert uri == f"{flag(wake, '--oidc-token-audience')}/wake?hold={hold:g}"
    assert hold < deadline <= 1800
    assert "--oidc-token-audience" not in drain
    assert "--oauth-service-account-email" in drain


def test_compose_starts_an_api_and_a_worker_that_understand_each_other() -> None:
    """Their variables are ours, and the API wakes the worker with the worker's token."""
    services = read(DEPLOY / "compose.yaml")["services"]
    worker, api = (
        Settings.from_env({key: str(value) for key, value in services[name]["environment"].items()})
        for name in ("worker", "api")
    )

    assert api.wake_url == f"http://worker:{worker.port}/wake"
    assert api.wake_token == worker.wake_token
    assert (api.queues, api.redis_url) == (worker.queues, worker.redis_url)
    assert parse(services["worker"]["command"]).command == "run"


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "deploy/examples.Dockerfile"])
def test_images_have_the_byte_code_of_what_they_run(dockerfile: str, tmp_path: Path) -> None:
    stages = (ROOT / dockerfile).read_text(encoding="utf-8").replace("\\\n", " ").split("\nFROM ")
    [command] = re.findall(r"^RUN (python -m compileall .+)$", stages[-1], re.MULTILINE)
    for name in ("json/decoder.py", "idlelib/editor.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")

    arguments = [word for word in shlex.split(command)[1:] if not word.startswith(("$", "/app"))]
    subprocess.run([sys.executable, *arguments, tmp_path], check=True)

    assert [path.parent.parent.name for path in tmp_path.rglob("*.pyc")] == ["json"]


@pytest.mark.parametrize("page", sorted(DEPLOY.glob("*.md")), ids=lambda page: page.stem)
def test_links_of_the_pages_lead_somewhere(page: Path) -> None:
    """Every relative link leads to a file."""
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)

    assert [target for target in targets if not (page.parent / target).exists()] == []
