"""The command line up to where Redis begins: flags, errors, exit codes, loading of handlers."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convolab_worker.cli import output
from convolab_worker.cli.app_loader import load_app
from convolab_worker.cli.commands.jobs import read_data
from convolab_worker.cli.main import main
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.registry import HandlerRegistry

REGISTRY = """
from convolab_worker.handlers.registry import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("generate-audio")
async def generate_audio(job):
    return {}
"""

WriteModule = Callable[[str, str], Path]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Write Python modules into a current directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "modules", sys.modules.copy())

    def write(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write


def refused(where: str) -> str:
    """Return the message with which load_app refuses a place."""
    with pytest.raises(ConfigurationError) as caught:
        load_app(where)
    return str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["walk"], "invalid choice: 'walk'"),
        (["run", "-c", "0"], "-c/--concurrency: '0': expected a whole number from 1 to 10000"),
        (["run", "--idle-min", "soon"], "--idle-min: 'soon': expected a duration from 10ms to"),
        (["run", "--app", "jobs"], "--app: 'jobs': expected MODULE:REGISTRY"),
        (["run", "--conc", "3"], "unrecognized arguments: --conc 3"),
        (["drain", "--budget", "-1"], "--budget: "),
        (["enqueue"], "the following arguments are required: NAME"),
        (["enqueue", "x", "--attempts", "0"], "--attempts: '0': expected a whole number from 1"),
        (["status", "--queue", "a:b"], "'a:b' has a colon, which BullMQ forbids"),
        (["status", "--redis-url", "http://:pw@x"], "'http://:***@x': expected an address that"),
        (
            ["status", "--log-level", "loud"],
            "expected one of debug, info, warning, error, critical",
        ),
        (["run"], "no handlers: expected --app MODULE:REGISTRY or the variable CONVOLAB_APP"),
        (["run", "--app", "a:b", "--budget", "1m"], "expected --burst beside it"),
        (["run", "--app", "a:b", "--burst", "--reload"], "--reload is for a worker that goes on"),
        (["run", "--idle-min", "2h"], "idle_min=2h: expected no more than idle_max=30m"),
        (["enqueue", "x", "--timeout", "1s"], "expected --wait beside it"),
        (["enqueue", "x", "--queue", "a,b"], "--queue a,b: expected the one queue that the job"),
        (["enqueue", "x", "{'a': 1}"], "JSON: expected a JSON value: Expecting property name"),
        (["enqueue", "x", "NaN"], "JSON: expected a JSON value: NaN is not JSON"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is said in one line on standard error, without a traceback."""
    code = main(arguments)

    written = capsys.readouterr()
    assert code == 2
    assert written.out == ""
    assert written.err.startswith("convolab-worker")
    assert message in written.err
    assert written.err.count("\n") == 1


def test_wrong_variables_are_told_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command refuses a wrong environment with all its problems, and code 2."""
    monkeypatch.setenv("CONVOLAB_CONCURRENCY", "0")
    monkeypatch.setenv("CONVOLAB_QUEUE", "audio")

    code = main(["status"])

    error = capsys.readouterr().err
    assert code == 2
    assert "2 settings are wrong:" in error
    assert "CONVOLAB_CONCURRENCY='0': expected a whole number from 1 to 10000" in error
    assert "CONVOLAB_QUEUE: no such setting; did you mean CONVOLAB_QUEUES?" in error


def test_help_names_each_flag_with_its_variable_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The help of run is made from the table of settings."""
    monkeypatch.setenv("COLUMNS", "200")

    code = main(["run", "--help"])

    shown = capsys.readouterr().out
    assert code == 0
    assert re.search(r"-c(?: N)?, --concurrency N", shown)  # Python 3.13 says N once
    assert "most jobs running at once [CONVOLAB_CONCURRENCY, default: 8]" in shown
    assert "[CONVOLAB_IDLE_MAX, default: 30m]" in shown


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the program's name and version and ends with 0."""
    code = main(["--version"])

    assert code == 0
    assert capsys.readouterr().out.startswith("convolab-worker ")


def test_help_loads_nothing_heavy() -> None:
    """Help and refusals answer without asyncio, redis, structlog or aiohttp."""
    program = (
        "import sys; from convolab_worker.cli.main import main; main(['run', '--help']);"
        "print(*sys.modules, sep='\\n')"
    )

    listed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    loaded = set(listed.stdout.splitlines())
    assert not {"asyncio", "redis", "structlog", "aiohttp", "bullmq", "msgpack"} & loaded


def test_a_registry_is_loaded_from_the_current_directory(write_module: WriteModule) -> None:
    """MODULE:NAME finds a registry in a file of the current directory."""
    write_module("plain_jobs.py", REGISTRY)

    assert isinstance(load_app("plain_jobs:handlers"), HandlerRegistry)


def test_modules_and_attributes_may_have_dots(write_module: WriteModule) -> None:
    """A package's module and an attribute of an attribute are found."""
    write_module("dotted_app/__init__.py", "")
    write_module("dotted_app/jobs.py", f"{REGISTRY}\nclass Box:\n    inner = handlers\n")

    assert isinstance(load_app("dotted_app.jobs:Box.inner"), HandlerRegistry)


def test_a_function_may_make_the_registry(write_module: WriteModule) -> None:
    """A callable without arguments is called, and what it returns is the registry."""
    write_module("factory_jobs.py", f"{REGISTRY}\ndef make():\n    return handlers\n")

    assert isinstance(load_app("factory_jobs:make"), HandlerRegistry)


def test_a_missing_module_is_named_with_where_it_was_looked_for(
    write_module: WriteModule, tmp_path: Path
) -> None:
    """The error has the module and the current directory, and no traceback."""
    write_module("partial/__init__.py", "")

    assert refused("nowhere_jobs:handlers") == (
        f"module nowhere_jobs not found in {tmp_path} or in what is installed"
    )
    assert "module partial.jobs not found" in refused("partial.jobs:handlers")


@pytest.mark.parametrize("written", ["app.py", "./app.py", "app"])
def test_a_file_name_in_place_of_a_module_is_recognised(
    written: str, write_module: WriteModule
) -> None:
    """A path is a common mistake, and the error says which module was meant."""
    write_module("other.py", "")

    message = refused(f"{written}:handlers")

    assert ("did you mean app?" in message) == (written != "app")


def test_a_missing_attribute_lists_the_registries_of_the_module(write_module: WriteModule) -> None:
    """The error says what could have been meant."""
    write_module("two_registries.py", f"{REGISTRY}\nmore = HandlerRegistry()\n")
    write_module("no_registries.py", "handler = 1\n")

    assert refused("two_registries:handler") == (
        "two_registries has no handler; its registries: two_registries:handlers, "
        "two_registries:more"
    )
    assert refused("no_registries:handlers") == (
        "no_registries has no handlers; did you mean handler?"
    )


def test_something_else_in_place_of_a_registry_is_refused(write_module: WriteModule) -> None:
    """The error names the type that was found and what was expected."""
    write_module("wrong_type.py", f"{REGISTRY}\nnumber = 5\nasync def coming():\n    return 1\n")

    message = refused("wrong_type:number")

    assert message.startswith("wrong_type:number is an int: expected a HandlerRegistry or a ")
    assert message.endswith("; its registries: wrong_type:handlers")
    assert "is a coroutine: expected" in refused("wrong_type:coming")


def test_a_registry_without_handlers_is_refused(write_module: WriteModule) -> None:
    """A worker that handles nothing would only fail jobs."""
    write_module("empty_jobs.py", REGISTRY.partition("@")[0])

    assert refused("empty_jobs:handlers") == (
        "empty_jobs:handlers has no handlers: expected at least one"
    )


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("import missing_dependency", "ModuleNotFoundError: No module named 'missing_dependency'"),
        ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError: division by zero"),
        ("def (:", "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ],
)
def test_an_error_inside_the_module_is_shown_with_its_own_traceback(
    text: str, last: str, write_module: WriteModule
) -> None:
    """The traceback starts in the user's code, without the import machinery or ours."""
    file = write_module("broken_jobs.py", text)

    message = refused("broken_jobs:handlers")

    assert message.startswith("importing broken_jobs failed:\n")
    assert str(file) in message
    assert message.endswith(last)
    assert "importlib" not in message
    assert "loading.py" not in message


def test_an_error_inside_the_factory_is_shown_with_its_traceback(
    write_module: WriteModule,
) -> None:
    """A factory that raises, or that wants arguments, is told as what it is."""
    write_module(
        "bad_factories.py", "def fail():\n    raise KeyError('x')\ndef want(a):\n    pass\n"
    )

    assert refused("bad_factories:fail").endswith("KeyError: 'x'")
    assert "missing 1 required positional argument: 'a'" in refused("bad_factories:want")


def test_data_comes_from_the_argument_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON is read from all three places."""
    file = tmp_path / "data.json"
    file.write_text('{"text": "日本"}', encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("[1, 2]"))

    assert read_data('{"a": 1.5}') == {"a": 1.5}
    assert read_data(f"@{file}") == {"text": "日本"}
    assert read_data("-") == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read: No such file or directory"),
        (b"\xff", "can't be read: "),
        (b"{", "expected a JSON value: Expecting property name"),
        (b"[" * 100_000, "expected a JSON value"),
    ],
)
def test_data_that_can_not_be_read_is_named(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    """The error names the file and what is wrong with it."""
    file = tmp_path / "data.json"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        read_data(f"@{file}")

    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_a_table_is_aligned_with_numbers_to_the_right() -> None:
    """Columns are as wide as their widest cell, and no line ends in a space."""
    text = output.table([["queue", "waiting", "note"], ["a", 5, "x"], ["longer", 12345678, ""]])

    assert text.splitlines() == [
        "queue    waiting  note",
        "a              5  x",
        "longer  12345678",
    ]


def test_json_is_readable_where_it_can_be_and_always_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Text is written as it is where the stream can encode it, escaped where not."""
    utf8 = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    monkeypatch.setattr(sys, "stdout", utf8)
    readable, lone = output.as_json("日本"), output.as_json("\ud800")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    escaped = output.as_json("日本")

    assert (readable, lone, escaped) == ('"日本"', '"\\ud800"', '"\\u65e5\\u672c"')
    assert json.loads(escaped) == "日本"


def test_a_reader_that_goes_away_is_no_error() -> None:
    """A closed pipe behind standard output leaves the exit code and standard error alone."""
    program = (
        "import sys; from convolab_worker.cli.output import result\n"
        "sys.stdin.read(); result('x' * 100_000); result('y'); sys.exit(0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None

    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(b"", timeout=20)

    assert process.returncode == 0
    assert errors == b""
