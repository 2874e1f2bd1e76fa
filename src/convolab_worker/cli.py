"""The command line: flags in, exit code out.

A command's code, and what it needs, is imported when that command runs, so that ``--help``
and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from convolab_worker import cost_report
from convolab_worker.errors import ConfigurationError, ConvolabWorkerError
from convolab_worker.options import Choice, Duration, Kind, Names, Url, Whole
from convolab_worker.settings import OPTIONS, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

_PROGRAM = "convolab-worker"
_BUDGET = Duration(low=0.0, high=24 * 3600.0)
_DELAY = Duration(low=0.0, high=3650 * 24 * 3600.0)
_PRIORITY = Whole(low=0, high=2_097_152)
_ATTEMPTS = Whole(low=1, high=10_000)

_EVERYWHERE = ("redis_url", "queues", "prefix", "log_level", "log_format")
_WORKING = ("app", "concurrency", "lock_duration", "shutdown_grace")
_IDLING = ("idle_min", "idle_max")
_FLAGS = {"queues": ("--queue",), "concurrency": ("-c", "--concurrency")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or configuration.

    Without ``arguments``, those of the process. A command that Ctrl-C ended, where it does not
    stop cleanly as ``run`` and ``drain`` do, gives 130, as shells have it.
    """
    parser = _parser()
    try:
        given = parser.parse_args(arguments)
        given.arguments = sys.argv[1:] if arguments is None else [*arguments]
    except SystemExit as leaving:  # argparse, after help, version or an error
        return leaving.code if isinstance(leaving.code, int) else MISUSED
    try:
        return _COMMANDS[given.command](given)
    except ConfigurationError as error:
        _complain(error)
        return MISUSED
    except ConvolabWorkerError as error:
        _complain(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(given: argparse.Namespace) -> int:
    if given.burst:
        for flag in ("wake", "reload"):
            if getattr(given, flag):
                msg = f"--{flag} is for a worker that goes on: expected it without --burst"
                raise ConfigurationError(msg)
        return _drain(given)
    if given.budget is not None:
        msg = "--budget bounds a drain: expected --burst beside it"
        raise ConfigurationError(msg)
    settings = _settings(given)
    if given.reload:
        from convolab_worker.commands import reload

        return reload.run(given.arguments, settings, embedded=given.embedded)
    from convolab_worker.commands import work

    if given.wake:
        return work.serve(settings, embedded=given.embedded, insecure=given.insecure)
    _expect_wake(given, settings)
    return work.run(settings, embedded=given.embedded)


def _expect_wake(given: argparse.Namespace, settings: Settings) -> None:
    """Refuse what means nothing without the wake server."""
    for name, is_given in (
        ("--insecure", given.insecure),
        ("--port", given.port is not None),
        ("CONVOLAB_SLEEP_AFTER", settings.sleep_after is not None),
        ("CONVOLAB_WAKE_MODE=held", settings.wake_mode == "held"),
    ):
        if is_given:
            msg = f"{name} is for the wake server: expected --wake beside it"
            raise ConfigurationError(msg)


def _drain(given: argparse.Namespace) -> int:
    settings = _settings(given)
    from convolab_worker.commands import work

    return work.drain(settings, budget=given.budget, embedded=given.embedded)


def _enqueue(given: argparse.Namespace) -> int:
    settings = _settings(given)
    if given.queues is not None and len(settings.queues) > 1:
        msg = f"--queue {','.join(settings.queues)}: expected the one queue that the job goes to"
        raise ConfigurationError(msg)
    if given.timeout is not None and not given.wait:
        msg = "--timeout bounds a wait: expected --wait beside it"
        raise ConfigurationError(msg)
    from convolab_worker.commands import jobs

    job = jobs.NewJob(
        name=given.name,
        data=jobs.read_data(given.data),
        job_id=given.job_id,
        delay=given.delay,
        priority=given.priority,
        attempts=given.attempts,
    )
    return jobs.enqueue(settings, job, wait=given.wait, timeout=given.timeout)


def _status(given: argparse.Namespace) -> int:
    settings = _settings(given)
    from convolab_worker.commands import jobs

    return jobs.status(settings, given.job_id, as_lines=given.json)


def _migrate(given: argparse.Namespace) -> int:
    if given.queues is None:
        msg = "nothing to move: expected --from QUEUE, once or more often"
        raise ConfigurationError(msg)
    settings = _settings(given)
    from convolab_worker.commands import migrate

    states = [state.strip() for states in given.states for state in states.split(",")]
    return migrate.migrate(
        settings, given.destination, states, execute=given.yes, as_lines=given.json
    )


def _doctor(given: argparse.Namespace) -> int:
    settings = _settings(given)
    from convolab_worker.commands import doctor

    return doctor.doctor(settings, strict=given.strict, as_lines=given.json)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "drain": _drain,
    "enqueue": _enqueue,
    "status": _status,
    "migrate": _migrate,
    "doctor": _doctor,
    "cost": cost_report.main,
}


def _settings(given: argparse.Namespace) -> Settings:
    """Return the settings of flags and environment, the flags going first."""
    flags = {name: getattr(given, name, None) for name in OPTIONS}
    if flags["queues"] is not None:
        flags["queues"] = tuple(name for names in flags["queues"] for name in names)
    return Settings.from_env(**{name: value for name, value in flags.items() if value is not None})


def _complain(error: Exception) -> None:
    sys.stderr.write(f"{_PROGRAM}: error: {error}\n")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Prints the version; a look into the installed metadata that only this flag needs."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            installed = version("convolab_worker")
        except PackageNotFoundError:
            installed = "(from sources, not installed)"
        sys.stdout.write(f"{_PROGRAM} {installed}\n")
        parser.exit()


def _parser() -> _Parser:
    parser = _Parser(
        prog=_PROGRAM,
        description="One background worker for BullMQ queues.",
        epilog=f"exit codes: {DONE} done, {FAILED} failed, {MISUSED} wrong usage or configuration",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    _add_run(commands)
    _add_drain(commands)
    _add_enqueue(commands)
    _add_status(commands)
    _add_migrate(commands)
    _add_doctor(commands)
    _add_cost(commands)
    return parser


def _command(commands: Any, name: str, summary: str, *options: str) -> argparse.ArgumentParser:
    """Add a command with the flags of the named options and those that all that connect have."""
    command = _bare_command(commands, name, summary)
    for option in (*options, *_EVERYWHERE):
        _add_option(command, option)
    return command


def _bare_command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
    )
    return command


def _add_run(commands: Any) -> None:
    command = _command(commands, "run", "work until told to stop", *_WORKING, *_IDLING, "port")
    command.add_argument(
        "--wake", action="store_true", help="serve /wake, /health, /ready and /metrics, too"
    )
    command.add_argument(
        "--insecure",
        action="store_true",
        help="with --wake: anybody who can reach the port may call, without a token",
    )
    command.add_argument("--burst", action="store_true", help="the same as the command drain")
    command.add_argument(
        "--reload", action="store_true", help="start again when a Python file below here changes"
    )
    _add_working(command)


def _add_drain(commands: Any) -> None:
    summary = "process what is there, print the result as one JSON line, and exit"
    _add_working(_command(commands, "drain", summary, *_WORKING))


def _add_working(command: argparse.ArgumentParser) -> None:
    _add_flag(command, "--budget", _BUDGET, "stop fetching in time to be done after this long")
    command.add_argument(
        "--embedded", action="store_true", help="start a private Valkey server to work on"
    )


def _add_enqueue(commands: Any) -> None:
    command = _command(commands, "enqueue", "add a job and print its id")
    command.add_argument("name", metavar="NAME", help="the job's name")
    command.add_argument(
        "data",
        metavar="JSON",
        nargs="?",
        default="{}",
        help="the job's data; @FILE reads a file, - reads standard input (default: {})",
    )
    command.add_argument(
        "--wait", action="store_true", help="show the job's progress, then print its result"
    )
    _add_flag(command, "--timeout", _DELAY, "with --wait: wait no longer than this")
    _add_flag(command, "--delay", _DELAY, "start the job no sooner than after this long")
    _add_flag(command, "--priority", _PRIORITY, "1 goes before 2; 0, the default, before both")
    _add_flag(command, "--attempts", _ATTEMPTS, "how often the job may run (default: 1)")
    command.add_argument("--job-id", metavar="ID", help="an id of your own; added once only")


def _add_status(commands: Any) -> None:
    command = _command(commands, "status", "print the jobs by queue and state, or one job")
    command.add_argument("job_id", metavar="JOB_ID", nargs="?", help="the job to look at")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_migrate(commands: Any) -> None:
    summary = "move jobs from queues to another one; without --yes, only tell which"
    command = _bare_command(commands, "migrate", summary)
    _add_option(command, "queues", "--from")
    for option in ("app", *_EVERYWHERE[:1], *_EVERYWHERE[2:]):
        _add_option(command, option)
    command.add_argument(
        "--to", dest="destination", metavar="NAME", required=True, help="the queue they go to"
    )
    command.add_argument(
        "--state",
        dest="states",
        metavar="STATE",
        action="append",
        default=[],
        help="only those in this state: wait, prioritized, delayed or failed",
    )
    command.add_argument("--yes", action="store_true", help="move them")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_doctor(commands: Any) -> None:
    summary = "check the server, the queues and the settings, and say what to do"
    command = _command(
        commands, "doctor", summary, "app", "idle_max", "lock_duration", "command_timeout"
    )
    command.add_argument("--strict", action="store_true", help="exit with 1 for a warning, too")
    command.add_argument("--json", action="store_true", help="print JSON instead of lines")


def _add_cost(commands: Any) -> None:
    summary = "work out what a workload costs a day and a month, by several ways of working"
    cost_report.add_arguments(_bare_command(commands, "cost", summary))


def _add_option(command: argparse.ArgumentParser, name: str, *more: str) -> None:
    """Add the flag of a setting; everything about it comes from the table of settings.

    ``more`` are other flags that mean the same; the first is the one that help shows first.
    """
    option = OPTIONS[name]
    repeatable: dict[str, Any] = {"action": "append"} if isinstance(option.kind, Names) else {}
    command.add_argument(
        *more,
        *_FLAGS.get(name, (f"--{name.replace('_', '-')}",)),
        dest=name,
        metavar=_metavar(name, option.kind),
        type=_reader(option.read, option.show),
        help=f"{option.help} [{option.variable}, default: {option.default_text}]",
        **repeatable,
    )


def _add_flag(command: argparse.ArgumentParser, flag: str, kind: Kind, text: str) -> None:
    command.add_argument(
        flag,
        metavar=_metavar(flag, kind),
        type=_reader(lambda given: kind.check(kind.parse(given)), repr),
        help=text,
    )


def _reader(read: Callable[[str], Any], show: Callable[[str], str]) -> Callable[[str], Any]:
    """Return ``read`` with its refusals as argparse wants them, secrets masked."""

    def value_of(text: str) -> Any:
        try:
            return read(text.strip())
        except ValueError as error:
            msg = f"{show(text)}: expected {error}"
            raise argparse.ArgumentTypeError(msg) from None

    return value_of


def _metavar(name: str, kind: Kind) -> str:
    if isinstance(kind, Choice):
        return "|".join(kind.names)
    kinds = {Duration: "DURATION", Whole: "N", Url: "URL", Names: "NAME"}
    return "MODULE:REGISTRY" if name == "app" else kinds.get(type(kind), "TEXT")
