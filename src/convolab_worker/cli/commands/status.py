"""``status``: prints the queues, with their jobs by state and their workers, or one job."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from convolab_worker.cli.arguments import flags
from convolab_worker.cli.commands.jobs.command import add_full, print_job
from convolab_worker.cli.output import as_json, fits, remark, result, table
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings import OPTIONS
from convolab_worker.settings.kinds import Duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.client.operating.queues import QueueStatus
    from convolab_worker.settings import Settings

EXAMPLE = "status silent"

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
    add_full(command)
    command.add_argument(
        "--app",
        metavar="MODULE:REGISTRY",
        type=flags.reader(OPTIONS["app"].read),
        help="the application's handlers: also say which of them no queue reaches",
    )
    flags.add_json(command)
    flags.add_connection(command, flags.QUEUES_LOOKED_IN)


def main(given: argparse.Namespace) -> int:
    """Print one job, or each queue; with ``--watch``, print the queues until Ctrl-C."""
    settings = flags.settings_of(given)
    if given.watch is not None and given.job_id is not None:
        msg = "--watch shows the queues: expected no job id with it"
        raise ConfigurationError(msg)
    from convolab_worker.cli.process.process import run_client

    if given.watch is not None:
        run_client(settings, _watch(settings, given))
    run_client(settings, _print(settings, given))
    return 0


async def _print(settings: Settings, given: argparse.Namespace) -> None:
    from convolab_worker.cli.process.process import load_handlers

    if given.job_id is not None:
        from convolab_worker.cli.commands.jobs.actions import find
        from convolab_worker.cli.queues import looked_in

        there = await looked_in(settings, given)
        print_job(*await find(there, given.job_id, whole=given.json or given.full), given)
        return
    handlers = None if given.app is None else load_handlers(settings)
    queues = await queues_meant(settings, given)
    if given.json:
        result(as_json(as_rows(queues)))
    else:
        print_queues(queues)
    unreachable = [] if handlers is None else handlers.unreachable([each.name for each in queues])
    for handler in unreachable:
        remark(f"no queue for {handler.place}: it is for {handler.queue}, which is not listed")


async def queues_meant(settings: Settings, given: argparse.Namespace) -> list[QueueStatus]:
    """Return the queues of --queue, or all queues; ``queue list`` prints them, too."""
    from convolab_worker.cli.queues import looked_in
    from convolab_worker.client.client import JobClient

    finds = not flags.names_queues(given)
    if not finds:
        await looked_in(settings, given)  # says which of the named ones nobody uses
    async with JobClient(settings) as client:
        return await client.queues(find=finds)


async def _watch(settings: Settings, given: argparse.Namespace) -> NoReturn:
    """Print the queues for ever: in place on a terminal, one below the other elsewhere."""
    import asyncio

    from convolab_worker.client.client import JobClient
    from convolab_worker.client.operating.queues import MOST_STATUS_COMMANDS

    in_place = sys.stdout.isatty() and not given.json
    async with JobClient(settings) as client:
        names = [queue.name for queue in await client.queues(find=not flags.names_queues(given))]
        commands = MOST_STATUS_COMMANDS * len(names) + 1
        interval = given.watch
        remark(
            f"every {interval:g} s, for up to {commands} Redis commands each time; Ctrl-C ends it"
        )
        while True:
            queues = await client.queues(names) if names else []
            if given.json:
                result(as_json(as_rows(queues)))
            else:
                text = f"{datetime.now(UTC):%H:%M:%SZ}\n{_table(queues)}"
                result(f"{_CLEAR}{text}" if in_place else text)
            await asyncio.sleep(interval)


def print_queues(queues: Sequence[QueueStatus]) -> None:
    result(_table(queues) if queues else "no queue was found: nothing was ever added")


def as_rows(queues: Sequence[QueueStatus]) -> dict[str, dict[str, Any]]:
    """Return the queues as JSON has them: the counts, and what else is known, by name."""
    rows = {}
    for queue in queues:
        rest = {key: value for key, value in asdict(queue).items() if key not in {"name", "counts"}}
        rows[queue.name] = {**queue.counts, **rest}
    return rows


def _table(queues: Sequence[QueueStatus]) -> str:
    """Return the table; on a terminal that is too narrow, without states that no job is in."""
    states = list(dict.fromkeys(state for queue in queues for state in queue.counts))
    text = _table_of(queues, states)
    if fits(text):
        return text
    used = [state for state in states if any(queue.counts.get(state) for queue in queues)]
    return _table_of(queues, used)


def _table_of(queues: Sequence[QueueStatus], states: Sequence[str]) -> str:
    rows = [
        [
            queue.name,
            *(queue.counts.get(state, 0) for state in states),
            _age(queue.oldest_waiting),
            "?" if queue.workers is None else len(queue.workers),
            _note(queue),
        ]
        for queue in queues
    ]
    return table([["queue", *states, "oldest", "workers", ""], *rows])


def _note(queue: QueueStatus) -> str:
    from convolab_worker.cli.job_view import length

    waits = queue.counts.get("waiting", 0) + queue.counts.get("prioritized", 0)
    notes = ["paused"] if queue.paused else []
    if queue.concurrency is not None:
        notes.append(f"at most {queue.concurrency} at once")
    if queue.limited_for:
        notes.append(f"rate limit: no job for {length(queue.limited_for)}")
    if waits and queue.workers is not None and not queue.workers:
        notes.append("no worker is connected")
    return ", ".join(notes)


def _age(since: float | None) -> str:
    from convolab_worker.cli.job_view import length

    return "-" if since is None else length(int(max(time.time() - since, 0.0)))
