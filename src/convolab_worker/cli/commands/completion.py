"""``completion``: prints a script that completes the command line in a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.cli.output import result

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.arguments.flags import Parser

EXAMPLE = "completion bash"


def add_flags(command: Parser) -> None:
    command.add_argument(
        "shell",
        metavar="SHELL",
        choices=("bash", "zsh", "fish"),
        help="bash, zsh or fish; the script says in its first lines how to install it",
    )


def main(given: argparse.Namespace) -> int:
    """Print the script."""
    from convolab_worker.cli.arguments.completion import SHELLS, commands_of
    from convolab_worker.cli.main import COMMANDS, top_parser

    result(SHELLS[given.shell]([*commands_of(top_parser([*COMMANDS]))]))
    return 0
