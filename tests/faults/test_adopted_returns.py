"""A job that was found again after a lost reply, and could not be returned, is found once more."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.harness import lasting
from tests.faults.stalls import Stage

pytestmark = pytest.mark.asyncio


async def test_an_adopted_job_whose_return_was_never_sent_is_run_by_the_next_hold(
    stage: Stage,
) -> None:
    """Its fetch was answered in vain, the hold ended meanwhile, and then the connection breaks."""
    async with stage.worker() as worker:
        lost = stage.proxy.swallow_replies(matching=b"EVALSHA", cut=True)
        # The worker finds the job by its token: begun before the loss, for that may be over soon.
        finding = asyncio.create_task(stage.arrival(b"HGETALL"))
        ids = await stage.bench.add({})
        holding = asyncio.create_task(worker.hold(30))
        await asyncio.to_thread(lost.done.wait, 20)
        link = await finding
        holding.cancel()
        await lasting(0.4)  # the answer has come, and the job's return is on its way
        link.set_mode("hold")
        await lasting(1.0)
        link.cut()
        stage.proxy.resume()
        result = await worker.hold(15)

    assert (result.status, result.remaining) == ("drained", 0)
    assert stage.bench.states() == {"completed": ["1", *ids]}
