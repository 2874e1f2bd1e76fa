"""What ``jobs`` does in Redis: finds jobs, shows them, and retries, removes or promotes them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from convolab_worker.cli.output import Bar
from convolab_worker.cli.queues import job_of
from convolab_worker.client.client import JobClient
from convolab_worker.client.console.client import ConsoleClient
from convolab_worker.client.console.details import only_attempt
from convolab_worker.client.job_status import Seen, seen
from convolab_worker.client.operating.actions import BATCH, DONE, UNPLACED, Action
from convolab_worker.client.operating.jobs import Search
from convolab_worker.client.session import connected
from convolab_worker.errors import JobNotFound

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Coroutine, Sequence

    from convolab_worker.client.console.details import Attempts, JobDetails
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.operating.filters import Wanted
    from convolab_worker.connection.connection import Connection
    from convolab_worker.settings import Settings


async def newest(
    settings: Settings, wanted: Wanted, states: Sequence[str], limit: int
) -> list[JobStatus]:
    """Return the newest jobs of all queues that fit, state by state, at most ``limit``."""
    async with connected(settings) as connection:
        search = Search.of(settings, connection, wanted, time.time())
        return [job async for job in search.jobs(states, limit)]


async def find(
    settings: Settings, job_id: str, states: Collection[str] | None = None, *, whole: bool
) -> tuple[JobDetails, Attempts]:
    """Return a job with everything that is kept of it, if it is in one of those states.

    If a job has started more than once, its queue's events are asked for the times.

    Without ``whole`` only the newest rows of its log are read. Raises JobNotFound.
    """
    async with ConsoleClient(settings) as client:
        job = await job_of(client, job_id)
        if states is not None and job.state not in states:
            wanted = " or ".join(states)
            msg = f"job {job_id!r} on {job.queue} is {job.state}, not {wanted}"
            raise JobNotFound(msg)
        details = await client.details(job_id, job.queue)
        if whole:
            details = replace(details, logs=await client.logs(job_id, job.queue))
        if details.job.starts > 1:
            return details, await client.attempts(job_id, job.queue)
        return details, only_attempt(details.job)


async def carry_out(
    settings: Settings,
    wanted: Wanted,
    states: Sequence[str],
    ids: Sequence[str],
    action: Action,
    outcomes: Counter[str],
    *,
    dry_run: bool,
) -> None:
    """Act on the jobs that fit, and count in ``outcomes`` what became of them.

    The oldest goes first, so that the jobs keep their order. Jobs that come meanwhile are left
    alone.
    """
    async with connected(settings) as connection:
        search = Search.of(settings, connection, wanted, time.time(), oldest_first=True)
        if ids:
            meant = await _named(settings, search, states, ids, outcomes)
            await _all(connection, meant, action, outcomes, dry_run=dry_run)
            return
        for keys in search.queues:
            for state in states:
                meant = [job async for job in search.places(keys, state)]
                with Bar(f"{keys.queue}, {state}", len(meant)) as bar:
                    await _all(connection, meant, action, outcomes, dry_run=dry_run, bar=bar)


async def _named(
    settings: Settings,
    search: Search,
    states: Sequence[str],
    ids: Sequence[str],
    outcomes: Counter[str],
) -> list[Seen]:
    """Return the jobs of these ids that fit, and count those that are not there."""
    meant = []
    async with JobClient(settings) as client:
        for job_id in dict.fromkeys(ids):
            try:
                job = seen(await job_of(client, job_id))
            except JobNotFound as error:
                outcomes[str(error)] += 1
                continue
            if job.state not in (*states, UNPLACED):
                outcomes[f"{job_id} is {job.state}"] += 1
            elif search.wanted.fits(job, search.now):
                meant.append(job)
            else:
                outcomes[f"{job_id} does not fit the filter"] += 1
    return meant


async def _all(
    connection: Connection,
    meant: Sequence[Seen],
    action: Action,
    outcomes: Counter[str],
    *,
    dry_run: bool,
    bar: Bar | None = None,
) -> None:
    for start in range(0, len(meant), BATCH):
        batch = meant[start : start + BATCH]
        if dry_run:
            outcomes[DONE] += len(batch)
        else:
            await _count(action.run(connection, batch), outcomes)
        if bar is not None:
            bar.step(len(batch))


async def _count(batch: Coroutine[Any, Any, list[str]], outcomes: Counter[str]) -> None:
    """Count what became of a batch. After Ctrl-C the batch that was sent is still awaited."""
    sent = asyncio.create_task(batch)
    try:
        await asyncio.shield(sent)
    finally:
        outcomes.update(await sent)
