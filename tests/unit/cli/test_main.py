"""The command line up to where Redis begins: flags, errors and exit codes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from convolab_worker.cli.arguments.flags import Parser
from convolab_worker.cli.main import COMMANDS, main, parse, top_parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: expected one of run, drain, enqueue, status, jobs, failed, queue"),
        (["jobs"], "error: expected one of list, show, retry, remove, promote (see convolab-"),
        (["walk"], "no command 'walk'; expected one of run, drain, enqueue, status, jobs, failed"),
        (["statsu"], "no command 'statsu'; did you mean status?"),
        (
            ["jobs", "lits"],
            "no action 'lits'; did you mean list? (see convolab-worker jobs",
        ),
        (["schema", "--draft", "5"], "no --draft '5'; expected one of 2020-12, 7"),
        (
            ["status", "--wach"],
            "unknown option --wach; did you mean --watch? (see convolab-",
        ),
        (["status", "1", "2"], "unexpected argument '2'"),
        (
            ["--queue", "a", "status"],
            "--queue: expected a command first, and its options",
        ),
        (["run", "-c", "0"], "-c/--concurrency: '0': expected a whole number from 1 to 10000"),
        (["run", "--idle-min", "soon"], "--idle-min: 'soon': expected a duration from 10ms to"),
        (["run", "--app", "jobs"], "--app: 'jobs': expected MODULE:REGISTRY"),
        (["run", "--conc=3"], "unknown option --conc; did you mean --concurrency?"),
        (["drain", "--budget", "-1"], "--budget: "),
        (["drain", "--budget", "0"], "--budget: '0': expected a duration from 1ms to"),
        (["enqueue"], "the following arguments are required: NAME"),
        (["enqueue", "x", "--attempts", "0"], "--attempts: '0': expected a whole number from 1"),
        (["status", "--queue", "a:b"], "'a:b' has a colon, which BullMQ forbids"),
        (["status", "--redis-url", "http://:pw@x"], "'http://:***@x': expected an address that"),
        (
            ["status", "--log-level", "loud"],
            "expected one of debug, info, warning, error, critical",
        ),
        (["run"], "no handlers: expected --app MODULE:REGISTRY or the variable CONVOLAB_APP"),
        (["run", "--app", "a:b", "--budget", "1m"], "expected --burst with it"),
        (["run", "--app", "a:b", "--burst", "--reload"], "--reload is for a worker that goes on"),
        (["run", "--idle-min", "2h"], "idle_min=2h: expected no more than idle_max=30m"),
        (["enqueue", "x", "--timeout", "1s"], "expected --wait with it"),
        (["enqueue", "x", "--queue", "a,b"], "--queue a,b: expected the one queue that the job"),
        (["enqueue", "x", "{'a': 1}"], "JSON: expected a JSON value: Expecting property name"),
        (["schedule", "set", "a", "x"], "when is it due? expected either --every DURATION or --cr"),
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
    monkeypatch.setenv("CONVOLAB_QUEUES", "audio,,")

    code = main(["status"])

    error = capsys.readouterr().err
    assert code == 2
    assert "2 settings are wrong:" in error
    assert "CONVOLAB_CONCURRENCY='0': expected a whole number from 1 to 10000" in error
    assert "CONVOLAB_QUEUES='audio,,': expected " in error


def test_help_names_each_flag_with_its_variable_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The help of run is made from the table of settings."""
    monkeypatch.setenv("COLUMNS", "200")

    code = main(["run", "--help"])

    shown = capsys.readouterr().out
    assert code == 0
    assert re.search(r"-c(?: N)?, --concurrency N", shown)  # Python 3.13 says N once
    assert "how many jobs run at once, at most [CONVOLAB_CONCURRENCY, default: 8]" in shown
    assert "[CONVOLAB_IDLE_MAX, default: 30m]" in shown


def leaves(parser: Parser, *path: str) -> Iterator[tuple[tuple[str, ...], Parser]]:
    """Yield every parser below this one, with the words that lead to it."""
    for name, command in parser.commands.items():
        yield (*path, name), command
        yield from leaves(command, *path, name)


ALL = [pytest.param(words, id=" ".join(words)) for words, _ in leaves(top_parser([*COMMANDS]))]


@pytest.mark.parametrize("words", ALL)
def test_help_leads_with_the_commands_own_options_and_ends_with_an_example(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """What every command has stands behind; the usage is one line; the example is the command's."""
    assert main([*words, "--help"]) == 0

    usage, *_, marker, example = capsys.readouterr().out.strip().splitlines()
    assert usage.startswith(f"usage: convolab-worker {' '.join(words)}")
    assert usage.endswith("[OPTION ...]")
    assert marker == "example:"
    assert example.startswith(f"  convolab-worker {' '.join(words)}")
    parse(shlex.split(example)[1:])  # raises SystemExit for what there is not
    assert main(["help", *words]) == 0
    sections = re.findall(r"^(\w.*):$", capsys.readouterr().out, re.MULTILINE)
    assert sections[-2:] == ["common options", "example"]


def test_options_that_every_command_has_are_common_ones(capsys: pytest.CaptureFixture[str]) -> None:
    main(["cancel", "--help"])

    own, _, common = capsys.readouterr().out.partition("common options:")
    assert "--redis-url" not in own
    assert "--fail" in own
    assert re.findall(r"^  (?:-h, )?(--[\w-]+)", common, re.MULTILINE) == [
        "--help", "--redis-url", "--prefix", "--log-level", "--log-format",
    ]  # fmt: skip


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the program's name and version and ends with 0."""
    code = main(["--version"])

    assert code == 0
    assert capsys.readouterr().out.startswith("convolab-worker ")


@pytest.mark.parametrize("command", ["run", "drain", "doctor"])
def test_help_of_a_command_that_adds_no_job_does_not_speak_of_adding(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([command, "--help"])

    assert "added" not in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    """Help and refusals answer without asyncio, redis, structlog or aiohttp."""
    program = (
        "import sys; from convolab_worker.cli.main import COMMANDS, main;"
        "[main([name, '--help']) for name in COMMANDS]; print(*sys.modules, sep='\\n')"
    )

    listed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    loaded = set(listed.stdout.splitlines())
    assert not {"asyncio", "redis", "structlog", "aiohttp", "bullmq", "msgpack"} & loaded
