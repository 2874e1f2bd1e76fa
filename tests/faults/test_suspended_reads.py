"""A suspended worker has no blocking read, whatever was under way when its last hold ended."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.harness import lasting
from tests.faults.stalls import SHORT_LOCK, Stage
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio


async def test_a_probe_that_is_answered_while_a_hold_ends_begins_no_read(stage: Stage) -> None:
    """It would take the marker of the job that goes back, of which no other worker would hear."""
    async with stage.worker(concurrency=2, lock_duration=SHORT_LOCK) as worker:
        ids = await stage.bench.add({"waits": True})
        holding = asyncio.create_task(worker.hold(30))
        await stage.called(*ids)
        stage.proxy.cut(refuse=True)
        await lasting(SHORT_LOCK / 2)  # so long that the probe's answer leads to no other question
        stage.proxy.resume()
        await stage.arrival(b"EXISTS")
        stage.proxy.delay(0.0)
        holding.cancel()
        await asyncio.wait({holding})
        await wait_until(lambda: stage.bench.ids_in("wait") == ids, what="the job's return")

        assert stage.bench.redis.zcard(stage.bench.key("marker")) == 1
        assert (worker.stats()["phase"], worker.stats()["idle"]["until"]) == ("suspended", None)
