"""A parked job's stalls are counted again when it starts or is returned: once, whatever is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.connection.upkeep.reconnect import Reconnection
from convolab_worker.worker.dispatch.exemptions import Exemptions

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from tests.integration.bullmq.conftest import BackendOfWorker

pytestmark = pytest.mark.asyncio


def exemptions_of(ours: BackendOfWorker) -> Exemptions:
    return Exemptions(ours.backend, Reconnection(ours.backend.connection, where="here"))


async def parked(ours: BackendOfWorker, exemptions: Exemptions) -> ActiveJob:
    """A job that was fetched, and whose stalls are not counted."""
    await ours.add()
    job = await ours.fetched()
    exemptions.begin(job)
    await ours.backend.connection.call(Purpose.STATUS, "PING")  # what was sent before is executed
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
    exemptions, connection = exemptions_of(ours), ours.backend.connection
    job = await parked(ours, exemptions)
    if cut == "before":
        connection.abort("cut")
    if cut == "after":
        await ours.redis.hincrby(ours.keys.job("1"), "stc", 1)
        connection.abort("its reply was lost")

    await exemptions.end_now(job)

    assert await stalls(ours) == "0"


@pytest.mark.parametrize("executed", [False, True])
async def test_a_job_that_starts_as_the_connection_is_cut_is_counted_again_after_the_next(
    ours: BackendOfWorker, *, executed: bool
) -> None:
    """Its handler runs meanwhile; nothing waits for the answer."""
    exemptions, connection = exemptions_of(ours), ours.backend.connection
    job = await parked(ours, exemptions)
    if executed:
        await ours.redis.hincrby(ours.keys.job("1"), "stc", 1)
        connection.abort("its reply was lost")
    exemptions.end(job)
    connection.abort("cut")
    await connection.open()

    await exemptions.catch_up()

    assert await stalls(ours) == "0"


async def test_an_exemption_that_never_began_takes_nothing_back(ours: BackendOfWorker) -> None:
    """The connection was cut as the job was parked: a job must not count a stall for that."""
    exemptions, connection = exemptions_of(ours), ours.backend.connection
    await ours.add()
    job = await ours.fetched()
    connection.abort("cut")
    exemptions.begin(job)
    await connection.open()

    exemptions.end(job)
    await exemptions.catch_up()
    await exemptions.end_now(job)

    assert await stalls(ours) is None


async def test_a_stall_that_was_counted_meanwhile_stays_counted(ours: BackendOfWorker) -> None:
    """A stalled check that found the job's worker dead has the last word."""
    job = await parked(ours, exemptions_of(ours))
    await ours.redis.hincrby(ours.keys.job("1"), "stc", 1)

    await ours.backend.end_exemption_again(job)

    assert await stalls(ours) == "0"
