"""Slots and queues: handler limits, parking, and no queue that starves another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio
SOON = 10.0


class Stage:
    """Handlers that wait on a gate, and what they saw."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.running = 0
        self.most = 0
        self.started: list[str] = []

    async def play(self, job: Job[Any]) -> str:
        """Run until the gate opens."""
        self.started.append(job.id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return job.id


async def test_concurrency_is_the_most_that_run_at_once(running: Running) -> None:
    """Of ten jobs three run at once, and all of them run."""
    handlers, stage = HandlerRegistry(), Stage()
    handlers.audio("play")(stage.play)

    async with running(handlers, concurrency=3) as (_, client):
        jobs = [await client.enqueue("play") for _ in range(10)]
        await wait_until(lambda: stage.running == 3)
        stage.gate.set()
        for job in jobs:
            await client.result(job, SOON)

    assert stage.most == 3
    assert sorted(stage.started) == sorted(jobs)


async def test_dialogue_behind_fifty_courses_starts_at_once(running: Running) -> None:
    """Courses at their limit are parked out of the way, and run later in their order."""
    handlers, stage = HandlerRegistry(), Stage()
    handlers.course("course", concurrency=1)(stage.play)

    @handlers.dialogue("dialogue")
    async def dialogue(job: Job[Any]) -> str:
        return job.name

    async with running(handlers, concurrency=2) as (worker, client):
        courses = [await client.enqueue("course") for _ in range(50)]
        short = await client.enqueue("dialogue")
        assert await client.result(short, SOON) == "dialogue"
        assert worker.stats()["parked"] == 49
        stage.gate.set()
        for course in courses:
            await client.result(course, SOON)

    assert stage.most == 1
    assert stage.started == courses


async def test_parking_is_bounded(running: Running, redis: Redis, queue_name: str) -> None:
    """With the bound full, nothing more is taken from the shared queue."""
    handlers, stage = HandlerRegistry(), Stage()
    handlers.course("course", concurrency=1)(stage.play)

    @handlers.dialogue("dialogue")
    async def dialogue(job: Job[Any]) -> str:
        return job.name

    async with running(handlers, concurrency=4, park_limit=3) as (worker, client):
        courses = [await client.enqueue("course") for _ in range(10)]
        await wait_until(lambda: worker.stats()["parked"] == 3)
        assert await redis.llen(f"bull:{queue_name}:wait") == 6
        stage.gate.set()
        for course in courses:
            await client.result(course, SOON)

    assert stage.started == courses


async def test_queue_of_a_handler_at_its_limit_is_left_alone(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """A queue whose only handler is at its limit is not taken from, and needs no parking."""
    handlers, stage = HandlerRegistry(), Stage()
    handlers.course("course", queue=queue_name, concurrency=1)(stage.play)

    async with running(handlers, concurrency=4) as (worker, client):
        courses = [await client.enqueue("course") for _ in range(5)]
        await wait_until(lambda: stage.running == 1)
        assert worker.stats()["parked"] == 0
        assert await redis.llen(f"bull:{queue_name}:wait") == 4
        stage.gate.set()
        for course in courses:
            await client.result(course, SOON)

    assert stage.started == courses


async def test_backlog_on_one_queue_does_not_starve_another(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """With thousands of jobs waiting on one queue, a job on another starts as a slot frees."""
    handlers = HandlerRegistry()
    other = f"{queue_name}-other"
    order: list[str] = []
    arrived = asyncio.Event()

    @handlers.audio("busy")
    async def busy(job: Job[Any]) -> None:
        order.append(job.queue)
        if len(order) == 100:
            await client.enqueue("rare", queue=other)
            arrived.set()

    @handlers.dialogue("rare")
    async def rare(job: Job[Any]) -> int:
        del job
        return len(order)

    async with running(handlers, queues=(queue_name, other), concurrency=1) as (_, client):
        pipe = redis.pipeline(transaction=False)
        for number in range(20_000):
            pipe.hset(
                f"bull:{queue_name}:b{number}",
                mapping={"name": "busy", "data": "{}", "opts": '{"removeOnComplete":true}'},
            )
        pipe.lpush(f"bull:{queue_name}:wait", *[f"b{number}" for number in range(20_000)])
        await pipe.execute()
        await redis.zadd(f"bull:{queue_name}:marker", {"0": 0})
        await asyncio.wait_for(arrived.wait(), SOON)
        counts = await _completed_when_rare_ran(client, redis, other)

    assert counts < 20_000


async def _completed_when_rare_ran(client: JobClient, redis: Redis, other: str) -> int:
    await wait_until(lambda: redis.zcard(f"bull:{other}:completed"), timeout=SOON)
    (job_id,) = await redis.zrange(f"bull:{other}:completed", 0, -1)
    return int(await client.result(str(job_id), SOON, other))


async def test_long_jobs_leave_a_queue_its_turn(running: Running, queue_name: str) -> None:
    """While the only slot runs long jobs of one queue, the next free slot serves the other."""
    handlers = HandlerRegistry()
    other = f"{queue_name}-other"
    order: list[str] = []
    first = asyncio.Event()
    gate = asyncio.Event()

    @handlers.audio("job")
    async def job(job: Job[Any]) -> None:
        order.append(job.queue)
        first.set()
        await gate.wait()

    async with running(handlers, queues=(queue_name, other), concurrency=1) as (_, client):
        jobs = [(await client.enqueue("job", queue=queue_name), queue_name) for _ in range(5)]
        await asyncio.wait_for(first.wait(), SOON)
        jobs.append((await client.enqueue("job", queue=other), other))
        gate.set()
        for job_id, queue in jobs:
            await client.result(job_id, SOON, queue)

    assert order.index(other) == 1


async def test_stopped_worker_returns_parked_jobs_in_order(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """Parked and running jobs are back at the head of their queue, in their order."""
    handlers, stage = HandlerRegistry(), Stage()
    handlers.course("course", concurrency=1)(stage.play)

    @handlers.dialogue("dialogue")
    async def dialogue(job: Job[Any]) -> None:
        del job

    settings = make_settings(concurrency=2, shutdown_grace=0.1)
    async with JobClient(settings) as client:
        jobs = [await client.enqueue("course") for _ in range(6)]
        async with Worker(handlers, settings) as worker:
            await wait_until(lambda: worker.stats()["parked"] == 5)

    waiting = await redis.lrange(f"bull:{queue_name}:wait", 0, -1)
    made = [await redis.hget(f"bull:{queue_name}:{job}", "atm") for job in jobs]
    assert waiting[::-1] == jobs
    assert made == [None] * 6


async def test_paused_queue_is_waited_for_without_commands(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """Nothing of a paused queue runs; its jobs run as soon as it is resumed."""
    handlers = HandlerRegistry()

    @handlers.audio("job")
    async def job(job: Job[Any]) -> str:
        return job.id

    await redis.hset(f"bull:{queue_name}:meta", "paused", 1)
    async with running(handlers) as (worker, client):
        job_id = await client.enqueue("job")
        await wait_until(lambda: "probe" in worker.stats()["commands"]["by_purpose"])
        sweeps = worker.stats()["commands"]["by_purpose"]["probe"]["sent"]
        await wait_until(
            lambda: worker.stats()["commands"]["by_purpose"]["probe"]["sent"] >= sweeps + 2
        )
        waiting = (await client.status(job_id)).state
        await redis.hdel(f"bull:{queue_name}:meta", "paused")
        await redis.zadd(f"bull:{queue_name}:marker", {"0": 0})
        assert await client.result(job_id, SOON) == job_id

    assert waiting in ("waiting", "wait")
