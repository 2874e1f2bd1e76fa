"""The files for Kubernetes, KEDA, Nomad and systemd: by their schemas, and by how they fit ours."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import hcl2
import jsonschema
import kubernetes_validate
import pytest
import yaml

from convolab_worker.cli.main import parse
from convolab_worker.settings import Settings
from convolab_worker.settings.units import parse_duration
from tests.support.markdown import ROOT, blocks

DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
NOMAD = sorted((DEPLOY / "nomad").glob("*.hcl"))
# What a stop takes beyond the grace: handlers' half a second, lifespans, the last answers.
MARGIN_SECONDS = 5


def documents(path: Path) -> list[dict[str, Any]]:
    """A file's resources."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def of_kind(path: Path, kind: str) -> dict[str, Any]:
    """A file's one resource of a kind."""
    (found,) = [each for each in documents(path) if each["kind"] == kind]
    return found


def fields(required: tuple[str, ...] = (), **known: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": known,
        "required": [*required],
        "additionalProperties": False,
    }


TEXT, COUNT, TEXTS = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "object"}
TRIGGER = fields(
    ("type", "metadata"),
    type=TEXT,
    metadata={"type": "object", "additionalProperties": TEXT},
    authenticationRef=fields(("name",), name=TEXT, kind=TEXT),
    name=TEXT,
    metricType=TEXT,
    useCachedMetrics={"type": "boolean"},
)
TIMEOUT = {"type": "string", "pattern": "^[0-9]+s$"}
KEDA = {
    # https://keda.sh/docs/2.17/reference/scaledobject-spec/
    "ScaledObject": fields(
        ("scaleTargetRef", "triggers"),
        scaleTargetRef=fields(("name",), apiVersion=TEXT, kind=TEXT, name=TEXT),
        pollingInterval=COUNT,
        cooldownPeriod=COUNT,
        initialCooldownPeriod=COUNT,
        idleReplicaCount=COUNT,
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        fallback=TEXTS,
        advanced=TEXTS,
        triggers={"type": "array", "items": TRIGGER},
    ),
    # https://keda.sh/docs/2.17/concepts/authentication/
    "TriggerAuthentication": fields(
        secretTargetRef={
            "type": "array",
            "items": fields(("parameter", "name", "key"), parameter=TEXT, name=TEXT, key=TEXT),
        },
    ),
    # https://keda.sh/http-add-on/0.14/user-guide/
    "InterceptorRoute": fields(
        ("target",),
        target=fields(("service",), service=TEXT, port=COUNT, portName=TEXT),
        rules={"type": "array", "items": fields(hosts={"type": "array", "items": TEXT})},
        scalingMetric=fields(concurrency=fields(("targetValue",), targetValue=COUNT)),
        timeouts=fields(request=TIMEOUT, responseHeader=TIMEOUT, readiness=TIMEOUT),
    ),
}
"""What KEDA's documentation says of its resources' ``spec``: no package for Python has the schemas,
but for one that changes pytest."""


def check(document: dict[str, Any]) -> None:
    """Raise for what is not valid."""
    kind = document["kind"]
    if kind in KEDA:
        metadata = fields(("name",), name=TEXT, namespace=TEXT)
        whole = fields(apiVersion=TEXT, kind=TEXT, metadata=metadata, spec=KEDA[kind])
        jsonschema.validate(document, whole)
    else:
        kubernetes_validate.validate(document, "1.32", strict=True)


def pod_of(path: Path) -> dict[str, Any]:
    """What a file's Deployment or CronJob runs."""
    spec = next(each for each in documents(path) if each["kind"] in ("Deployment", "CronJob"))
    spec = spec["spec"]
    if "jobTemplate" in spec:
        spec = spec["jobTemplate"]["spec"]
    pod: dict[str, Any] = spec["template"]["spec"]
    return pod


def settings_of(variables: dict[str, Any]) -> Settings:
    """What the worker reads of them; the others come from secrets."""
    return Settings.from_env({name: str(value) for name, value in variables.items()})


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_and_keda_know_every_field(path: Path) -> None:
    for document in documents(path):
        check(document)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("Deployment", {"spec": {"template": {"spec": {"terminationGraceSeconds": 30}}}}),
        ("ScaledObject", {"spec": {"minReplicas": 0}}),
        ("ScaledObject", {"spec": {"triggers": [{"type": "x", "metadata": {"a": 1}}]}}),
        ("TriggerAuthentication", {"spec": {"secretTargetReference": []}}),
    ],
)
def test_the_schemas_refuse_a_field_that_is_not_there(kind: str, wrong: dict[str, Any]) -> None:
    def merged(one: Any, other: Any) -> Any:
        if not isinstance(other, dict):
            return other
        return {**one, **{name: merged(one.get(name, {}), part) for name, part in other.items()}}

    document = merged(of_kind(DEPLOY / "kubernetes" / "worker-by-demand.yaml", kind), wrong)

    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(document)


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_starts_what_is_there_and_gives_it_time_to_stop(path: Path) -> None:
    pod = pod_of(path)
    (container,) = pod["containers"]
    plain = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    settings = settings_of(plain)
    given = parse(container["args"])

    assert settings.app
    assert given.command in ("run", "drain")
    assert settings.shutdown_grace + MARGIN_SECONDS <= pod["terminationGracePeriodSeconds"]
    secret = {each["name"] for each in container["env"] if "valueFrom" in each}
    assert secret >= ({"REDIS_URL"} if given.command == "drain" else {"CONVOLAB_WAKE_TOKEN"})


def test_keda_asks_the_api_and_starts_as_many_workers_as_the_jobs_need() -> None:
    """The metrics-api scaler as docs/platforms.md has it, with a bearer token."""
    path = DEPLOY / "kubernetes" / "worker-by-demand.yaml"
    scaled = of_kind(path, "ScaledObject")["spec"]
    (trigger,) = scaled["triggers"]
    (container,) = pod_of(path)["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}

    assert scaled["scaleTargetRef"]["name"] == of_kind(path, "Deployment")["metadata"]["name"]
    assert scaled["minReplicaCount"] == 0
    assert trigger["metadata"]["valueLocation"] == "total"
    assert trigger["metadata"]["targetValue"] == env["CONVOLAB_CONCURRENCY"]
    assert trigger["metadata"]["authMode"] == "bearer"
    auth = of_kind(path, "TriggerAuthentication")
    assert trigger["authenticationRef"]["name"] == auth["metadata"]["name"]
    assert auth["spec"]["secretTargetRef"][0]["parameter"] == "token"
    assert env["CONVOLAB_WAKE_MODE"] == "background"


def test_the_http_add_on_waits_longer_than_the_worker_holds() -> None:
    """The route leads to the worker's Service, and the interceptor's to the route's host."""
    path = DEPLOY / "kubernetes" / "worker-by-request.yaml"
    route = of_kind(path, "InterceptorRoute")
    spec = route["spec"]
    service, proxy = [each for each in documents(path) if each["kind"] == "Service"]
    (container,) = pod_of(path)["containers"]
    plain = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    settings = settings_of(plain)

    assert settings.wake_mode == "held"
    assert settings.wake_hold < parse_duration(spec["timeouts"]["responseHeader"])
    assert spec["target"]["service"] == service["metadata"]["name"]
    assert spec["target"]["port"] == service["spec"]["ports"][0]["port"] == settings.port
    assert spec["rules"] == [{"hosts": [proxy["metadata"]["name"]]}]
    (trigger,) = of_kind(path, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["interceptorRoute"] == route["metadata"]["name"]


def test_a_cron_job_ends_before_its_time_and_never_overlaps() -> None:
    spec = of_kind(DEPLOY / "kubernetes" / "drain.yaml", "CronJob")["spec"]
    job = spec["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]

    assert parse(container["args"]).budget < job["activeDeadlineSeconds"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")


def plain(value: Any) -> Any:
    """What the parser of Nomad's files gives, without its quotes and marks."""
    if isinstance(value, str):
        return value.removeprefix('"').removesuffix('"')
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {plain(k): plain(each) for k, each in value.items() if not k.startswith("__")}
    return value


def nomad_task(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file's job and its one task."""
    with path.open(encoding="utf-8") as file:
        (named,) = plain(hcl2.load(file))["job"]
    (job,) = named.values()
    (group,) = [each for named in job["group"] for each in named.values()]
    (task,) = [each for named in group["task"] for each in named.values()]
    return job, task


@pytest.mark.parametrize("path", NOMAD, ids=lambda path: path.stem)
def test_nomad_starts_what_is_there_and_gives_it_time_to_stop(path: Path) -> None:
    """The secrets come from a template, and a client allows the time that is asked for."""
    job, task = nomad_task(path)
    (env,), (config,), (template,) = task["env"], task["config"], task["template"]
    settings = settings_of({name: v for name, v in env.items() if name != "PORT"})

    assert settings.app
    assert parse(config["args"]).command == ("run" if job["type"] == "service" else "drain")
    assert "REDIS_URL=" in template["data"]
    assert task["kill_signal"] == "SIGTERM"
    kill = parse_duration(task["kill_timeout"])
    assert settings.shutdown_grace + MARGIN_SECONDS <= kill <= 30


def test_systemd_gives_it_time_to_stop() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "convolab-worker.service")

    grace = Settings().shutdown_grace
    assert grace + MARGIN_SECONDS <= parse_duration(unit["Service"]["TimeoutStopSec"])


def test_fly_starts_what_is_there_and_gives_it_time_to_stop() -> None:
    """The page's fly.toml, whose proxy stops machines without an open request."""
    page = blocks(ROOT / "docs" / "platforms.md")
    (file,) = [tomllib.loads(block.text) for block in page if block.kind == "toml"]
    (command,) = file["processes"].values()

    assert parse(shlex.split(command)).wake
    assert Settings().shutdown_grace + MARGIN_SECONDS <= parse_duration(file["kill_timeout"])
    assert file["http_service"]["internal_port"] == Settings().port
    assert file["http_service"]["min_machines_running"] == 0


def test_the_table_of_grace_periods_has_what_the_files_have() -> None:
    """Each row's time to kill is longer than the grace beside it."""
    text = (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")
    section = text.partition("## Grace periods")[2].partition("\n## ")[0]
    rows = {
        cells[0]: cells
        for line in section.splitlines()
        if line.startswith("| ")
        and len(cells := [c.strip(" `") for c in line.split("|")[1:-1]]) == 4
    }
    rows.pop("platform")
    for name, (_, _, kill, grace) in rows.items():
        seconds = [parse_duration(re.sub(r"[^0-9smh]", "", each)) for each in (kill, grace)]
        assert seconds[0] >= seconds[1] + (2 if name == "Cloud Run" else MARGIN_SECONDS), name

    pod = pod_of(DEPLOY / "kubernetes" / "worker-by-demand.yaml")
    assert rows["Kubernetes"][2] == f"{pod['terminationGracePeriodSeconds']}s"
    _, task = nomad_task(DEPLOY / "nomad" / "worker.nomad.hcl")
    assert rows["Nomad"][2:] == [task["kill_timeout"], task["env"][0]["CONVOLAB_SHUTDOWN_GRACE"]]
