"""Jobs that are removed while a worker has them: nothing that it writes brings a key back.

A hash that is left of a job, with whatever in it, would swallow a later job: BullMQ adds no job
whose id is there already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Worker
from convolab_worker.embedded import EmbeddedServer
from tests.faults.harness import Bench
from tests.support.proxy import TcpProxy
from tests.support.waiting import wait_until

Removal = Callable[[Bench], Awaitable[None]]
# Long enough that no lock is renewed, and found lost, before the test has looked.
LOCK_SECONDS = 30.0
# Each way through the slow network, within which a job is removed.
DELAY_SECONDS = 0.2


async def _flush(bench: Bench) -> None:
    bench.redis.flushdb()


async def _obliterate(bench: Bench) -> None:
    from bullmq import Queue  # as the harness does it

    queue = Queue(bench.queue, {"connection": bench.server.url})
    try:
        await queue.obliterate(force=True)
    finally:
        await queue.close()


REMOVALS = {"flush": _flush, "obliterate": _obliterate}


class Gated:
    """Two handlers that wait for a gate; of one's jobs those are parked that it has no room for."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.handlers = HandlerRegistry()
        self.handlers.image("narrow", concurrency=1)(self.wait)
        self.handlers.audio("wide")(self.wait)

    async def wait(self, job: Job[Any]) -> str:
        await self.gate.wait()
        return job.id


def _keys(bench: Bench, job_id: str) -> dict[str, str]:
    """What keys the job has, and their types."""
    return {key: bench.redis.type(key) for key in bench.redis.keys(bench.key(f"{job_id}*"))}


async def _added(bench: Bench, job_id: str, name: str = "narrow", **opts: Any) -> None:
    await bench.add({}, name=name, jobId=job_id, **opts)


async def _park_one(bench: Bench, worker: Worker) -> None:
    """Have the worker run one job and park another, which is called ``parked``."""
    await _added(bench, "running")
    await wait_until(lambda: worker.stats()["running"] == 1, what="the job that runs")
    await _added(bench, "parked")
    await wait_until(lambda: worker.stats()["parked"] == 1, what="the job that is parked")


async def _ended(worker: Worker, runs: int) -> None:
    """Wait until so many runs of jobs have had an outcome: what is written of them is written."""

    def have_ended() -> bool:
        outcomes: dict[str, int] = worker.stats()["outcomes"]
        return sum(outcomes.values()) == runs

    await wait_until(have_ended, what=f"{runs} outcomes")


@pytest.mark.asyncio
@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
async def test_a_parked_job_that_was_removed_swallows_no_later_one(
    bench: Bench, remove: Removal
) -> None:
    """A job that was removed while it was parked leaves nothing, and one of its id runs later."""
    gated = Gated()
    async with (
        JobClient(bench.settings()) as client,
        bench.worker(gated.handlers, lock_duration=LOCK_SECONDS) as worker,
    ):
        await _park_one(bench, worker)
        await remove(bench)
        gated.gate.set()
        await _ended(worker, 2)
        left = _keys(bench, "parked")

        assert await client.enqueue("narrow", {}, job_id="parked") == "parked"
        await bench.all_in("completed", ["parked"], within=5)
    assert left == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
async def test_a_worker_that_stops_returns_no_parked_job_that_was_removed(
    bench: Bench, remove: Removal
) -> None:
    """A job that was removed while it was parked leaves nothing when its worker stops."""
    gated = Gated()
    async with (
        JobClient(bench.settings()) as client,
        bench.worker(gated.handlers, lock_duration=LOCK_SECONDS) as worker,
    ):
        await _park_one(bench, worker)
        await remove(bench)
        await worker.stop(0.0)

        assert _keys(bench, "parked") == {}
        assert await client.enqueue("narrow", {}, job_id="parked") == "parked"
    assert bench.states() == {"wait": ["parked"]}


@pytest.mark.asyncio
async def test_a_job_that_is_removed_while_it_is_parked_leaves_nothing(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """A job that is removed between its take and what its worker writes of it leaves nothing."""
    gated, proxy = Gated(), start_proxy(bench.server)
    settings = {"redis_url": proxy.url, "lock_duration": LOCK_SECONDS}
    async with bench.worker(gated.handlers, **settings) as worker:
        await _added(bench, "running")
        await wait_until(lambda: worker.stats()["running"] == 1, what="the job that runs")
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        proxy.delay(DELAY_SECONDS)
        await _added(bench, "parked")
        await wait_until(lambda: "parked" in bench.ids_in("active"), what="the take")
        await _flush(bench)
        await wait_until(lambda: worker.stats()["parked"] == 1, what="the job that is parked")
        proxy.resume()
        gated.gate.set()
        await _ended(worker, 2)

        assert _keys(bench, "parked") == {}


@pytest.mark.asyncio
async def test_a_parked_job_that_was_removed_when_it_was_to_be_cancelled_leaves_nothing(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """A request to cancel that outlives its job brings nothing of it back."""
    gated, proxy = Gated(), start_proxy(bench.server)
    settings = {"redis_url": proxy.url, "lock_duration": LOCK_SECONDS}
    async with (
        JobClient(bench.settings()) as client,
        bench.worker(gated.handlers, **settings) as worker,
    ):
        await _park_one(bench, worker)
        proxy.delay(DELAY_SECONDS)
        assert await client.cancel("parked", wait=False) == "asked"
        bench.redis.delete(bench.key("parked"))
        bench.redis.lrem(bench.key("active"), 0, "parked")
        await wait_until(lambda: worker.stats()["parked"] == 0, what="the end of the parked job")
        proxy.resume()
        gated.gate.set()
        await _ended(worker, 2)

        bench.end_locks()  # nothing ends that of a job which its script does not find
        assert _keys(bench, "parked") == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
@pytest.mark.parametrize("moment", ["while it runs", "at its end"])
async def test_a_job_that_was_removed_while_it_ran_leaves_no_log(
    bench: Bench, remove: Removal, moment: str
) -> None:
    """Log rows and progress of a job that is gone are not kept."""
    gate = asyncio.Event()
    handlers = HandlerRegistry()

    @handlers.audio("talk")
    async def talk(job: Job[Any]) -> None:
        await gate.wait()
        job.log.info("said too late")
        await job.progress(50)
        if moment == "while it runs":
            await wait_until(lambda: _reports(worker) >= 1, what="the report")

    settings = {"lock_duration": LOCK_SECONDS, "progress_interval": 0.01}
    async with bench.worker(handlers, **settings) as worker:
        await _added(bench, "talking", "talk")
        await wait_until(lambda: worker.stats()["running"] == 1, what="the job that runs")
        await remove(bench)
        gate.set()
        await _ended(worker, 1)

        assert _keys(bench, "talking") == {}


def _reports(worker: Worker) -> int:
    """How many commands for progress and log rows were sent, those within scripts left out."""
    purposes: Any = worker.stats()["commands"]["by_purpose"]
    return int(purposes.get("progress", {}).get("sent", 0))


@pytest.mark.asyncio
async def test_a_parent_that_was_removed_is_told_of_no_failed_child(bench: Bench) -> None:
    """A parent that asks again for a child that failed, and is gone itself, leaves nothing."""
    parts = f"{bench.queue}-parts"
    gate = asyncio.Event()
    runs: list[int] = []
    handlers = HandlerRegistry()

    @handlers.course("course")
    async def course(job: Job[Any]) -> None:
        runs.append(job.attempt)
        if len(runs) == 2:
            await gate.wait()
        await job.enqueue_children([Child("part", key="part", queue=parts, on_failure="remove")])

    @handlers.audio("part")
    async def part(_: Job[Any]) -> None:
        msg = "broken"
        raise ValueError(msg)

    settings = {"lock_duration": LOCK_SECONDS, "queues": (bench.queue, parts)}
    async with bench.worker(handlers, **settings) as worker:
        await _added(bench, "course", "course")
        await wait_until(lambda: len(runs) == 2, what="the second run")
        await _obliterate(bench)
        assert bench.redis.zcard(f"bull:{parts}:failed") == 1
        gate.set()
        await _ended(worker, 3)

        assert _keys(bench, "course") == {}


@pytest.mark.asyncio
async def test_a_job_that_was_overwritten_and_removed_leaves_nothing(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """A job whose key is not a hash, and gone when that is to be set aside, gets no hash."""
    gated, proxy = Gated(), start_proxy(bench.server)
    gated.gate.set()
    async with bench.worker(gated.handlers, redis_url=proxy.url):
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        proxy.hold()
        await _added(bench, "odd")
        bench.redis.set(bench.key("odd"), "another program's")
        proxy.resume()
        proxy.delay(DELAY_SECONDS)
        await wait_until(lambda: _calls(bench, "type") > 0, what="the look at the key's type")
        await _flush(bench)
        proxy.resume()
        await _added(bench, "other")
        await bench.all_in("completed", ["other"])

        assert _keys(bench, "odd") == {}


@pytest.mark.asyncio
async def test_a_job_that_was_removed_after_a_refusal_does_not_come_back(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """A job whose end was refused half-way, and gone when that is to be undone, stays away."""
    gated, proxy = Gated(), start_proxy(bench.server)
    settings = {"redis_url": proxy.url, "lock_duration": LOCK_SECONDS}
    async with bench.worker(gated.handlers, **settings) as worker:
        await _added(bench, "odd")
        await wait_until(lambda: worker.stats()["running"] == 1, what="the job that runs")
        bench.redis.hset(bench.key("odd"), "atm", "many")  # what the script refuses to count up
        proxy.delay(DELAY_SECONDS)
        gated.gate.set()
        await wait_until(lambda: not bench.ids_in("active"), what="the refused script")
        await _flush(bench)
        await _ended(worker, 1)
        proxy.resume()
        await _added(bench, "other")
        await bench.all_in("completed", ["other"])

        assert _keys(bench, "odd") == {}
    assert bench.states() == {"completed": ["other"]}


@pytest.mark.asyncio
async def test_a_job_that_was_removed_while_a_refusal_is_undone_does_not_come_back(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """A job that is gone between the look for it and its return to the active ones stays away."""
    gated, proxy = Gated(), start_proxy(bench.server)
    settings = {"redis_url": proxy.url, "lock_duration": LOCK_SECONDS}
    async with bench.worker(gated.handlers, **settings) as worker:
        await _added(bench, "odd")
        await wait_until(lambda: worker.stats()["running"] == 1, what="the job that runs")
        bench.redis.hset(bench.key("odd"), "atm", "many")
        proxy.delay(DELAY_SECONDS)
        gated.gate.set()
        await wait_until(lambda: not bench.ids_in("active"), what="the refused script")
        looks = _calls(bench, "exists")
        await wait_until(
            lambda: _calls(bench, "exists") > looks or bench.ids_in("active"),
            what="the look for the job",
        )
        await _flush(bench)
        await _ended(worker, 1)

        assert bench.states() == {}


def _calls(bench: Bench, command: str) -> int:
    """How often the server has run a command."""
    stats: Any = bench.redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])
