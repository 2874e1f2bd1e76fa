"""``schema`` and ``handlers``: the contract of an application, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convolab_worker.cli.main import main

APP = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING
from convolab_worker import Exponential, HandlerRegistry, Job
if TYPE_CHECKING:
    from somewhere import Result

handlers = HandlerRegistry()

@dataclass
class Request:
    text: str
    {field}

@handlers.audio("speak", "say", queue="audio", timeout=90, concurrency=2, attempts=5, backoff=2)
def speak(job: Job[Request]) -> list[int]:
    '''Say it.'''

@handlers.image("draw", rate="30/m")
async def draw(job: Job[None]) -> Result: ...
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Write an application into a folder, and say what its handlers are called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = 0

    def write(field: str = "") -> str:
        nonlocal made
        made += 1
        name = f"schema_app_{abs(hash(request.node.name))}_{made}"
        (tmp_path / f"{name}.py").write_text(APP.replace("{field}", field))
        return f"{name}:handlers"

    return write


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_schema_is_one_json_document(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A handler of any queue is described for each; what is unknown is remarked on."""
    code, out, err = run(capsys, "schema", "--app", app(), "--queue", "images")

    document = json.loads(out)
    assert code == 0
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert [*document["properties"]["audio"]["properties"]] == ["draw", "say", "speak"]
    assert [*document["properties"]["images"]["properties"]] == ["draw"]
    assert "images, draw: the result is not described: draw: can't resolve" in err


def test_an_older_draft(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema", "--app", app(), "--draft", "7")

    assert code == 0
    assert json.loads(out)["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_typescript(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema", "--app", app(), "--typescript")

    assert code == 0
    assert "export interface Request {\n  text: string;\n}" in out
    assert '   * Has 5 attempts, with backoff {"type": "fixed", "delay": 2000}.' in out
    assert "    speak: {\n      data: Request;\n      result: number[];\n    };" in out


def test_a_check_says_what_breaks(
    app: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And exits with 1; with 0 where nothing does."""
    (tmp_path / "jobs.json").write_text(run(capsys, "schema", "--app", app())[1])

    fine, said, _ = run(capsys, "schema", "--app", app("voice: str = ''"), "--check", "jobs.json")
    broken, complaint, _ = run(capsys, "schema", "--app", app("voice: str"), "--check", "jobs.json")

    assert (fine, broken) == (0, 1)
    assert said.splitlines() == [
        "fine  audio draw     unchanged",
        "fine  audio say      payload.voice: new, and may be left out",
        "fine  audio speak    payload.voice: new, and may be left out",
        "fine  convolab draw  unchanged",
        "",
        "compatible: nothing here breaks (jobs.json)",
    ]
    missing = "payload.voice: the worker needs it, the API never sends it"
    assert f"breaks  audio speak    {missing}" in complaint
    assert complaint.endswith("\n2 of these break (jobs.json)\n")


def test_a_check_as_json(app: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.json").write_text(run(capsys, "schema", "--app", app())[1])

    code, out, _ = run(capsys, "schema", "--app", app("a: int"), "--check", "jobs.json", "--json")

    found = json.loads(out)
    assert (code, found["compatible"]) == (1, False)
    assert {
        "queue": "audio",
        "name": "speak",
        "path": "payload.a",
        "breaks": True,
        "text": "the worker needs it, the API never sends it",
    } in found["changes"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--check jobs.json: No such file"),
        ("nonsense", "--check jobs.json: expected JSON: "),
        ("[]", "--check jobs.json: expected a JSON Schema, got list"),
        ("{}", "the document: expected a JSON Schema of an object"),
    ],
)
def test_a_file_that_cannot_be_compared_is_wrong_usage(
    app: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    message: str,
) -> None:
    if content is not None:
        (tmp_path / "jobs.json").write_text(content)

    code, _, err = run(capsys, "schema", "--app", app(), "--check", "jobs.json")

    assert code == 2
    assert message in err


def test_json_is_for_a_check(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "schema", "--app", app(), "--json")[0] == 2


def test_handlers_are_listed(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A line each: where its jobs come from, their types, limits, and policy."""
    code, out, _ = run(capsys, "handlers", "--app", app())

    head, draw, speak = out.splitlines()
    assert code == 0
    assert head.split() == [
        "queue", "names", "kind", "payload", "result", "limits", "retries", "handler",
    ]  # fmt: skip
    assert draw.startswith("any    draw        image  None     ?          30/m")
    assert "speak, say  audio  Request  list[int]  90 s, 2 at once, thread  5 attempts, f" in speak
    assert "schema_app" in speak
    assert speak.endswith(".speak:16")


def test_handlers_as_json(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "handlers", "--app", app(), "--json")

    draw, speak = json.loads(out)
    assert code == 0
    assert (draw["queue"], draw["rate"], draw["result"]) == (None, "30/m", None)
    assert speak["names"] == ["speak", "say"]
    assert (speak["timeout"], speak["concurrency"], speak["thread"]) == (90, 2, True)
    assert speak["defaults"] == {"attempts": 5, "backoff": {"type": "fixed", "delay": 2000}}
