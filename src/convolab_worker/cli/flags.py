"""The flags of every command, made from the table of settings."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from convolab_worker._setting_types import Choice, Duration, Kind, Names, Url, Whole
from convolab_worker.cli.commands.cost.flags import add_arguments as add_cost_arguments
from convolab_worker.settings import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

PROGRAM = "convolab-worker"
_BUDGET = Duration(low=0.0, high=24 * 3600.0)
_DELAY = Duration(low=0.0, high=3650 * 24 * 3600.0)
_PRIORITY = Whole(low=0, high=2_097_152)
_ATTEMPTS = Whole(low=1, high=10_000)
_LIMIT = Whole(low=1, high=1_000_000)
_WATCH = Duration(low=0.1, high=24 * 3600.0)

_EVERYWHERE = ("redis_url", "queues", "prefix", "log_level", "log_format")
_WORKING = ("app", "concurrency", "lock_duration", "shutdown_grace")
_IDLING = ("idle_min", "idle_max")
_FLAGS = {"queues": ("--queue",), "concurrency": ("-c", "--concurrency")}


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
        sys.stdout.write(f"{PROGRAM} {installed}\n")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    top = _Parser(
        prog=PROGRAM,
        description="One background worker for BullMQ queues.",
        epilog=f"exit codes: {DONE} done, {FAILED} failed, {MISUSED} wrong usage or configuration",
        allow_abbrev=False,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    _add_run(commands)
    _add_drain(commands)
    _add_enqueue(commands)
    _add_status(commands)
    _add_cancel(commands)
    _add_failed(commands)
    _add_migrate(commands)
    _add_doctor(commands)
    _add_cost(commands)
    return top


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
    command.add_argument(
        "--watch",
        metavar="DURATION",
        nargs="?",
        const=2.0,
        type=_reader(lambda given: _WATCH.check(_WATCH.parse(given)), repr),
        help="print the table anew every so often, until Ctrl-C (default: 2s)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_cancel(commands: Any) -> None:
    summary = (
        "end a job that is running, wherever it runs: at once if its worker has a free slot, "
        "within half a lock's duration otherwise"
    )
    command = _command(commands, "cancel", summary)
    command.add_argument("job_id", metavar="JOB_ID", help="the job to end")
    command.add_argument(
        "--fail", dest="reason", metavar="REASON", help="let it fail for this reason (the default)"
    )
    command.add_argument(
        "--return", dest="send_back", action="store_true", help="put it back into its queue instead"
    )
    _add_flag(command, "--timeout", _DELAY, "wait no longer than this for its end")
    command.add_argument("--no-wait", action="store_true", help="don't wait for its end")


def _add_failed(commands: Any) -> None:
    group = _bare_command(commands, "failed", "list, show, retry or remove failed jobs")
    actions = group.add_subparsers(
        dest="action", metavar="ACTION", required=True, parser_class=_Parser
    )
    listing = _command(actions, "list", "print the newest failed jobs, a line each")
    _add_filters(listing)
    _add_flag(listing, "--limit", _LIMIT, "print so many at most (default: 50)", default=50)
    listing.add_argument("--json", action="store_true", help="print a line of JSON for each")
    showing = _command(actions, "show", "print a failed job with its stack traces")
    showing.add_argument("job_id", metavar="ID", help="the job to look at")
    showing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    for action, summary in (
        ("retry", "put failed jobs back into their queues"),
        ("remove", "remove failed jobs, with their children and all that is known of them"),
    ):
        acting = _command(actions, action, summary)
        acting.add_argument("ids", metavar="ID", nargs="*", help="the jobs that are meant")
        _add_filters(acting)
        acting.add_argument("--all", action="store_true", help="mean every failed job")
        acting.add_argument("--dry-run", action="store_true", help="only say how many are meant")
        if action == "retry":
            acting.add_argument(
                "--reset-attempts", action="store_true", help="give them all their attempts again"
            )


def _add_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--name", dest="names", metavar="NAME", action="append", default=[],
        help="only jobs of that name; may be given again",
    )  # fmt: skip
    _add_flag(command, "--older-than", _DELAY, "only jobs that failed longer ago than this")
    _add_flag(command, "--newer-than", _DELAY, "only jobs that failed within this time")
    command.add_argument(
        "--reason", metavar="TEXT", help="only reasons with this in them; /TEXT/ is a pattern"
    )


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
    add_cost_arguments(_bare_command(commands, "cost", summary))


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


def _add_flag(
    command: argparse.ArgumentParser, flag: str, kind: Kind, text: str, default: Any = None
) -> None:
    command.add_argument(
        flag,
        default=default,
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
