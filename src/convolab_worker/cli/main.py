"""The command line: flags in, exit code out.

Only the module of the command that is named is imported, and it imports what the command needs
when it runs, so that ``--help`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from convolab_worker.cli import streams
from convolab_worker.cli.arguments.flags import (
    DONE,
    FAILED,
    INTERRUPTED,
    MISUSED,
    PROGRAM,
    Parser,
    VersionAction,
    add_command,
    add_subcommands,
)
from convolab_worker.cli.process.ending import leave
from convolab_worker.cli.process.signals import SIGNALS, Stopped, become_init
from convolab_worker.errors import ConfigurationError, ConvolabWorkerError
from convolab_worker.telemetry.log_stream import flush_log

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

COMMANDS = {
    "run": "work until told to stop",
    "drain": "process what is there, print the result as one JSON line, and exit",
    "enqueue": "add a job and print its id",
    "status": "print the jobs by queue and state, paused queues and workers, or one job",
    "jobs": "list, show, retry, remove or promote jobs",
    "failed": "list, show, retry or remove failed jobs",
    "queue": "list, pause, resume or clean queues",
    "schedule": "list, write or remove schedules, whose jobs are added again and again",
    "cancel": "end a job wherever it is: remove one that has not started, or end one that runs, "
    "which takes half a lock's duration if its worker has no free slot",
    "migrate": "move jobs from queues to another one; without --yes, only list them",
    "handlers": "list the registered handlers: queues, names, limits and types",
    "schema": "write the payloads and results of all jobs as JSON Schema or TypeScript, or compare "
    "them with those of an API",
    "console": "serve the console alone, without handlers, for an operator's machine",
    "doctor": "check the server, the queues and the settings, and say what to do",
    "completion": "print a script that completes the command line in bash, zsh or fish",
    "cost": "compute what a workload costs a day and a month, by several ways of working",
}
_FOLDERS = ("run", "jobs", "doctor", "cost")
"""The commands whose modules are folders."""


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Be the process of a command: handle its signals, run it, and end with its exit code."""
    streams.open_missing()
    become_init()
    SIGNALS.install()
    try:
        code = main(arguments)
    except Stopped as stopped:
        code = stopped.code if isinstance(stopped.code, int) else FAILED
    except KeyboardInterrupt:  # between the two
        code = INTERRUPTED
    leave(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or configuration.

    Without ``arguments`` it takes those of the process. ``run`` and ``drain`` stop cleanly on
    Ctrl-C; any other command then returns 130, as shells do.
    """
    arguments = sys.argv[1:] if arguments is None else [*arguments]
    try:
        given = parse(arguments)
    except SystemExit as end:  # argparse raises it after help, version and an error
        return end.code if isinstance(end.code, int) else MISUSED
    try:
        code: int = given.main(given)
    except ConvolabWorkerError as error:
        flush_log()  # the log's lines come first, then the error
        from convolab_worker.cli.output import printable  # a job's own text may be in it

        streams.tell(f"{PROGRAM}: error: {printable(str(error))}")
        return MISUSED if isinstance(error, ConfigurationError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the values of the flags; only the command that is named has its flags added.

    Raises SystemExit after help, the version and an error.
    """
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    first = next(iter(arguments), "")
    top = top_parser([first], only=first in COMMANDS)
    if first.startswith("-") and first not in ("-h", *top.options):
        top.error(f"{first}: expected a command first, and its options behind it")
    given, unknown = top.parse_known_args(arguments)
    if unknown:
        given.parser.refuse(unknown)
    given.arguments = arguments
    return given


def top_parser(names: Sequence[str], *, only: bool = False) -> Parser:
    """Return the parser of all commands, of which those that are named have their flags.

    With ``only`` it has no others: a start need not make what only help and an error show.
    """
    top = Parser(
        prog=PROGRAM,
        description="One background worker for BullMQ queues.",
        epilog=f"exit codes: {DONE} done, {FAILED} failed, {MISUSED} wrong usage or configuration",
    )
    top.common.add_argument(
        "--version", action=VersionAction, nargs=0, help="print the version and exit"
    )
    commands = add_subcommands(top, "command")
    for name, summary in COMMANDS.items():
        if only and name not in names:
            continue
        command = add_command(commands, name, summary)
        if name in names:
            path = f"{name}.command" if name in _FOLDERS else name
            module = import_module(f"convolab_worker.cli.commands.{path}")
            command.example = f"{PROGRAM} {module.EXAMPLE}"
            module.add_flags(command)
            command.set_defaults(main=module.main)
    top.example = f"{PROGRAM} status --help"
    return top
