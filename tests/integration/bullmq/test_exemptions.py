"""A parked job's stalls are counted again before it is returned: once, whatever is lost."""

from __future__ import annotations

import pytest

from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.connection.reconnect import Reconnection
from convolab_worker.worker.execution.completer import JobCompleter
from convolab_worker.worker.execution.losses import Isolation
from tests.integration.bullmq.conftest import LOCK_SECONDS, BackendOfWorker

pytestmark = pytest.mark.asyncio


async def parked(ours: BackendOfWorker) -> ActiveJob:
    """A job that was fetched, and whose stalls are not counted."""
    await ours.add()
    job = await ours.fetched()
    await ours.backend.exempt_from_stall_count(job, 1)
    assert await stalls(ours) == "-1"
    return job


async def stalls(ours: BackendOfWorker) -> str | None:
    found: str | None = await ours.redis.hget(ours.keys.job("1"), "stc")
    return found


@pytest.mark.parametrize("cut", ["before", "after", "never"])
async def test_an_exemption_ends_once_although_the_connection_is_cut(
    ours: BackendOfWorker, cut: str
) -> None:
    """Whether the command was executed or not: the counter ends where it began."""
    job, connection = await parked(ours), ours.backend.connection
    completer = JobCompleter(
        ours.backend,
        Reconnection(connection, where="here"),
        lock_duration=LOCK_SECONDS,
        may_reclaim=lambda _: False,
        isolation=Isolation(connection),
        max_size=2**20,
    )
    if cut == "before":
        connection.abort("cut")
    if cut == "after":
        await ours.backend.exempt_from_stall_count(job, -1)
        connection.abort("its reply was lost")
        await connection.open()
        await ours.backend.end_exemption_again(job)
    else:
        await completer.end_exemption(job)

    assert await stalls(ours) == "0"


async def test_a_stall_that_was_counted_meanwhile_stays_counted(ours: BackendOfWorker) -> None:
    """A stalled check that found the job's worker dead has the last word."""
    job = await parked(ours)
    await ours.redis.hincrby(ours.keys.job("1"), "stc", 1)

    await ours.backend.end_exemption_again(job)

    assert await stalls(ours) == "0"
