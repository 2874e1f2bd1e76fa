"""A parked job that is cancelled while Redis is away is not worse off than one that runs."""

from __future__ import annotations

import asyncio

import pytest

from convolab_worker import JobClient
from tests.faults.harness import lasting
from tests.faults.stalls import STALL_SECONDS, Stage
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio


async def test_a_cancelled_parked_job_whose_end_was_never_written_is_ended_by_the_next_hold(
    stage: Stage,
) -> None:
    """The connection stalls at its end and breaks; the hold is over before Redis is back."""
    async with (
        stage.worker(concurrency=2) as worker,
        JobClient(stage.bench.settings()) as client,
    ):
        _, parked = await stage.bench.add({"waits": True}, {"waits": True}, name="one-at-a-time")
        holding = asyncio.create_task(worker.hold(30))
        await wait_until(lambda: worker.stats()["parked"] == 1, what="the parking")
        await wait_until(stage.bench.blocked, what="the wait for what comes next")
        commands = stage.proxy.links[0]  # the first connection of a worker sends its commands
        commands.set_mode("hold")
        await client.cancel(parked, reason="asked", wait=False)
        await wait_until(lambda: worker.stats()["parked"] == 0, what="the request's hearing")
        holding.cancel()
        await asyncio.wait({holding})
        await lasting(STALL_SECONDS)
        commands.cut()
        stage.work.gate.set()
        result = await worker.hold(15)

        assert (result.status, result.remaining) == ("drained", 0)
        assert stage.bench.ids_in("active") == []
        assert (await client.status(parked)).state in {"failed", "completed"}
