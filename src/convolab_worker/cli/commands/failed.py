"""``failed``: the command ``jobs`` for jobs that have failed for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.cli.commands.jobs import command as jobs

if TYPE_CHECKING:
    from convolab_worker.cli.arguments.flags import Parser

EXAMPLE = "failed list --reason voice"

main = jobs.main


def add_flags(command: Parser) -> None:
    jobs.add_actions(command, failed=True)
