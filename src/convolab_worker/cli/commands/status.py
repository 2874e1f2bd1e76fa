"""``status``: prints how many jobs each queue has in each state, or one job."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from convolab_worker._setting_types import Duration
from convolab_worker.bullmq.producer import COMMANDS_PER_QUEUE
from convolab_worker.cli import flags
from convolab_worker.cli.output import as_json, described, remark, result, table
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.flags import Parser
    from convolab_worker.settings import Settings

_INTERVAL = Duration(low=0.1, high=24 * 3600.0)
_CLEAR = "\x1b[H\x1b[J"  # to the upper left corner, and delete what is below


def add_flags(command: Parser) -> None:
    command.add_argument("job_id", metavar="JOB_ID", nargs="?", help="the job to look at")
    command.add_argument(
        "--watch",
        metavar="DURATION",
        nargs="?",
        const=2.0,
        type=flags.reader_of(_INTERVAL),
        help="print the table again and again, this long apart, until Ctrl-C (default: 2s)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    flags.add_settings(command, *flags.CONNECTING)


def main(given: argparse.Namespace) -> int:
    """Print one job, or the counts of each queue; with ``--watch``, print them until Ctrl-C."""
    settings = flags.settings_of(given)
    if given.watch is not None and given.job_id is not None:
        msg = "--watch shows the queues: expected no job id with it"
        raise ConfigurationError(msg)
    from convolab_worker.cli.process import run_client

    if given.watch is not None:
        run_client(settings, _watch(settings, given.watch, as_lines=given.json))
    run_client(settings, _print(settings, given.job_id, as_lines=given.json))
    return 0


async def _print(settings: Settings, job_id: str | None, *, as_lines: bool) -> None:
    from convolab_worker.client.client import JobClient

    async with JobClient(settings) as client:
        if job_id is None:
            counts = await client.counts()
            result(as_json(counts) if as_lines else _table(counts))
        else:
            job = asdict(await client.status(job_id))
            result(as_json(job) if as_lines else described(job))


async def _watch(settings: Settings, interval: float, *, as_lines: bool) -> NoReturn:
    """Print the counts for ever: in place on a terminal, one below the other elsewhere."""
    import asyncio

    from convolab_worker.client.client import JobClient

    in_place = sys.stdout.isatty() and not as_lines
    commands = COMMANDS_PER_QUEUE * len(settings.queues)
    remark(f"every {interval:g} s, for {commands} Redis commands each time; Ctrl-C ends it")
    async with JobClient(settings) as client:
        while True:
            counts = await client.counts()
            text = as_json(counts) if as_lines else _table(counts)
            if not as_lines:
                text = f"{datetime.now(UTC):%H:%M:%SZ}\n{text}"
            result(f"{_CLEAR}{text}" if in_place else text)
            await asyncio.sleep(interval)


def _table(counts: dict[str, dict[str, int]]) -> str:
    states = list(dict.fromkeys(state for queue in counts.values() for state in queue))
    rows = [[queue, *(found.get(state, 0) for state in states)] for queue, found in counts.items()]
    return table([["queue", *states], *rows])
