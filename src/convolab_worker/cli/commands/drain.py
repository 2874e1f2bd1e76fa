"""``drain``: processes what is there and ends. ``run --burst`` is the same command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.cli.arguments.flags import (
    add_connection,
    add_flag,
    add_json,
    add_settings,
    settings_of,
)
from convolab_worker.settings.kinds import Duration

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.settings import Settings
    from convolab_worker.worker.worker import Worker

EXAMPLE = "drain --app lessons:handlers --queue audio --budget 10m"

_BUDGET = Duration(low=0.001, high=24 * 3600.0)


def add_flags(command: Parser) -> None:
    add_json(command)  # every command has it; this result is always JSON
    add_work_flags(command)


def add_work_flags(command: Parser) -> None:
    """Add the flags of a worker's process; ``run`` has them too."""
    add_settings(command, "app", "concurrency", "lock_duration", "shutdown_grace")
    add_settings(command, "keep_completed", "keep_failed")
    add_flag(
        command,
        "--budget",
        _BUDGET,
        "end after this long; a job that still runs goes back to its queue",
    )
    command.add_argument(
        "--embedded",
        action="store_true",
        help="start a private Valkey server for the worker, and print a line that makes other "
        "terminals use it",
    )
    add_connection(command, "the queues to work on (default: convolab)")


def main(given: argparse.Namespace) -> int:
    """Work until nothing is left or the budget is over; return 1 if a job failed for good."""
    import asyncio
    from dataclasses import asdict

    from convolab_worker.cli.output import as_json, result
    from convolab_worker.cli.process.process import prepared, run_worker

    async def work(worker: Worker) -> int:
        outcome = await worker.drain(budget=given.budget)
        result(as_json(asdict(outcome)))
        return int(outcome.failed > 0)

    with prepared(settings_of(given), embedded=given.embedded) as (handlers, settings):
        # A worker waits for a server that is away. A drain is to end, so it tries once before.
        asyncio.run(_connect(settings))
        return run_worker(handlers, settings, work)


async def _connect(settings: Settings) -> None:
    from convolab_worker.client.session import connected

    async with connected(settings):
        pass
