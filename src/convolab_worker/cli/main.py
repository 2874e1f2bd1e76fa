"""The command line: flags in, exit code out.

A command's module defines its flags and imports what the command needs when it runs, so that
``--help`` and a mistyped flag answer at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from convolab_worker.cli.commands import cancel, drain, enqueue, migrate, run, status
from convolab_worker.cli.commands.cost import command as cost
from convolab_worker.cli.commands.doctor import command as doctor
from convolab_worker.cli.commands.failed import command as failed
from convolab_worker.cli.flags import (
    DONE,
    FAILED,
    INTERRUPTED,
    MISUSED,
    PROGRAM,
    Parser,
    VersionAction,
    add_subcommands,
)
from convolab_worker.errors import ConfigurationError, ConvolabWorkerError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_COMMANDS = (run, drain, enqueue, status, cancel, failed, migrate, doctor, cost)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or configuration.

    Without ``arguments`` it takes those of the process. ``run`` and ``drain`` stop cleanly on
    Ctrl-C; any other command then returns 130, as shells do.
    """
    try:
        given: argparse.Namespace = parser().parse_args(arguments)
        given.arguments = sys.argv[1:] if arguments is None else [*arguments]
    except SystemExit as end:  # argparse raises it after help, version and an error
        return end.code if isinstance(end.code, int) else MISUSED
    try:
        code: int = given.main(given)
    except ConvolabWorkerError as error:
        sys.stderr.write(f"{PROGRAM}: error: {error}\n")
        return MISUSED if isinstance(error, ConfigurationError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        prog=PROGRAM,
        description="One background worker for BullMQ queues.",
        epilog=f"exit codes: {DONE} done, {FAILED} failed, {MISUSED} wrong usage or configuration",
        allow_abbrev=False,
    )
    top.add_argument("--version", action=VersionAction, nargs=0, help="print the version")
    commands = add_subcommands(top, "command")
    for command in _COMMANDS:
        command.add_to(commands)
    return top
