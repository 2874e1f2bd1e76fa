"""A queue's own limits that change while jobs run: at once, and at no command until they do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, JobClient, Worker
from convolab_worker.server.gate.traffic import Traffic
from convolab_worker.server.prometheus import metrics_text
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio
IDLE = {"idle_min": 30.0, "idle_max": 1800.0}
A_SECOND = 1.3  # and what a busy machine takes


class Held:
    """Handlers of jobs that run until they are let go, one by one or all."""

    def __init__(self) -> None:
        self.handlers = HandlerRegistry()
        self.running: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.changed = asyncio.Event()
        self.handlers.audio("work")(self._work)

    async def _work(self, job: Job[Any]) -> None:
        end = self._ends[job.id] = asyncio.Event()
        self.running.append(job.id)
        self.changed.set()
        await end.wait()
        self.running.remove(job.id)

    def end(self, *job_ids: str) -> None:
        """Let jobs end."""
        for job_id in job_ids:
            self._ends[job_id].set()

    async def run_to(self, count: int, timeout: float = 10.0) -> float:
        """Wait until so many jobs run; the seconds that it took."""
        with Stopwatch() as watch:
            async with asyncio.timeout(timeout):
                while len(self.running) < count:
                    self.changed.clear()
                    await self.changed.wait()
        return watch.seconds


async def sent_while(worker: Worker, quiet: float) -> int:
    """The commands that a worker sends in some seconds in which nothing happens."""
    before = worker.stats()["commands"]["sent"]
    await asyncio.sleep(quiet)
    return int(worker.stats()["commands"]["sent"] - before)


async def listening(worker: Worker, redis: Redis) -> None:
    """Wait until a worker is told of changes of the queue's limits, and has looked since."""
    seen = [-1, 0.0]

    async def is_quiet() -> bool:
        sent, now = worker.stats()["commands"]["sent"], time.monotonic()
        if sent != seen[0]:
            seen[:] = sent, now
        clients = await redis.client_list()
        told = any(client["flags"].count("B") and client["sub"] == "1" for client in clients)
        return told and now - seen[1] > A_SECOND

    await wait_until(is_quiet, what="a connection that is told of changes")


@pytest.mark.parametrize("change", ["raised", "removed"])
async def test_a_limit_that_changes_during_a_long_job_takes_effect_within_a_second(
    running: Running, redis: Redis, queue_name: str, change: str
) -> None:
    """And until it does, the worker sends nothing."""
    held, meta = Held(), f"bull:{queue_name}:meta"
    await redis.hset(meta, "concurrency", "1")

    async with running(held.handlers, concurrency=4, **IDLE) as (worker, client):
        ids = [await client.enqueue("work") for _ in range(4)]
        await held.run_to(1)
        await listening(worker, redis)

        sent = await sent_while(worker, 1.0)
        if change == "raised":
            await redis.hset(meta, "concurrency", "3")
            took = await held.run_to(3)
        else:
            await redis.hdel(meta, "concurrency")
            took = await held.run_to(4)
        held.end(*held.running)
        await held.run_to(0)

    assert sent == 0
    assert took < A_SECOND
    assert len(ids) == 4


async def test_a_place_that_another_worker_frees_is_taken_within_a_second(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """However long it was taken."""
    held, keys = Held(), f"bull:{queue_name}"
    await redis.hset(f"{keys}:meta", "concurrency", "1")
    await redis.hset(f"{keys}:theirs", mapping={"name": "work", "data": "{}"})
    await redis.lpush(f"{keys}:active", "theirs")
    await redis.set(f"{keys}:theirs:lock", "another", px=60_000)

    async with running(held.handlers, **IDLE) as (worker, client):
        await client.enqueue("work")
        worker.wake()
        await listening(worker, redis)

        sent = await sent_while(worker, 1.0)
        await redis.lrem(f"{keys}:active", 1, "theirs")
        took = await held.run_to(1)
        held.end(*held.running)

    assert sent == 0
    assert took < A_SECOND


async def test_a_place_is_taken_within_a_second_though_others_take_and_free_places_all_the_time(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """Their jobs follow each other; to be told of each costs one command a second or so."""
    held, keys = Held(), f"bull:{queue_name}"
    await redis.hset(f"{keys}:meta", "concurrency", "1")
    await redis.lpush(f"{keys}:active", "theirs")
    await redis.set(f"{keys}:theirs:lock", "another", px=60_000)

    async with running(held.handlers, **IDLE) as (worker, client):
        await client.enqueue("work")
        worker.wake()
        await listening(worker, redis)

        began, sent = time.monotonic(), worker.stats()["commands"]["sent"]
        while time.monotonic() - began < 2:
            async with redis.pipeline() as swap:  # a job ends, the next begins: no place is free
                swap.lrem(f"{keys}:active", 1, "theirs")
                swap.lpush(f"{keys}:active", "theirs")
                await swap.execute()
            await asyncio.sleep(0.02)
        sent = worker.stats()["commands"]["sent"] - sent
        await redis.lrem(f"{keys}:active", 1, "theirs")
        took = await held.run_to(1)
        held.end(*held.running)

    assert sent <= 4
    assert took < A_SECOND


async def test_a_rate_limit_that_is_lifted_is_noticed_within_a_second(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """As ``removeRateLimitKey`` of Node lifts it."""
    held, keys = Held(), f"bull:{queue_name}"
    await redis.hset(f"{keys}:meta", mapping={"max": "1", "duration": "600000"})
    await redis.set(f"{keys}:limiter", "99", px=600_000)

    async with running(held.handlers, **IDLE) as (worker, client):
        await client.enqueue("work")
        await listening(worker, redis)

        sent = await sent_while(worker, 1.0)
        await redis.delete(f"{keys}:limiter")
        took = await held.run_to(1)
        held.end(*held.running)

    assert sent == 0
    assert took < A_SECOND


async def test_a_limit_that_is_none_is_told_and_its_mending_is_noticed_within_a_second(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """BullMQ's scripts fail on it; however long that was so."""
    held, meta = Held(), f"bull:{queue_name}:meta"

    with capture_logs() as logs:
        async with running(held.handlers, **IDLE) as (worker, client):
            await client.pause()
            await client.enqueue("work")
            await redis.hset(meta, "concurrency", "many")
            await redis.hdel(meta, "paused")
            worker.wake()
            await wait_until(
                lambda: "broken" in worker.stats()["stopped"].values(), what="a broken queue"
            )
            await listening(worker, redis)  # the pauses between two tries grow
            await redis.hset(meta, "concurrency", "1")
            took = await held.run_to(1)
            held.end(*held.running)

    assert [line["queue"] for line in logs if line["event"] == "queue.broken"] == [queue_name]
    assert took < A_SECOND


async def test_a_job_that_came_while_the_queue_was_full_starts_when_ours_has_ended(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """BullMQ sets no marker for it, and our job knew of no other."""
    held = Held()
    await redis.hset(f"bull:{queue_name}:meta", "concurrency", "1")

    async with running(held.handlers, **IDLE) as (_, client):
        first = await client.enqueue("work")
        await held.run_to(1)
        await redis.delete(f"bull:{queue_name}:marker")
        second = await client.enqueue("work")
        held.end(first)
        await wait_until(lambda: held.running == [second])
        held.end(second)

        assert await client.result(second, 10.0) is None


async def test_without_the_command_for_it_a_full_queue_is_looked_at_now_and_then(
    running: Running, redis: Redis, queue_name: str, server_url: str
) -> None:
    """A user, or a provider, that has no CLIENT TRACKING: after 1, 2, 4 … seconds, as before."""
    held, keys, user = Held(), f"bull:{queue_name}", f"plain-{queue_name}"
    rules = ("on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    await redis.execute_command("ACL", "SETUSER", user, *rules)  # type: ignore[no-untyped-call]
    await redis.hset(f"{keys}:meta", "concurrency", "1")
    await redis.lpush(f"{keys}:active", "theirs")
    await redis.set(f"{keys}:theirs:lock", "another", px=60_000)
    url = server_url.replace("redis://", f"redis://{user}:pw@")

    async with running(held.handlers, redis_url=url, **IDLE) as (_, client):
        await client.enqueue("work")
        await redis.lrem(f"{keys}:active", 1, "theirs")
        took = await held.run_to(1)
        held.end(*held.running)
    await redis.execute_command("ACL", "DELUSER", user)  # type: ignore[no-untyped-call]

    assert took < 2.5


async def test_a_paused_queue_is_told_in_the_log_in_stats_and_in_metrics(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """Once each, also where the worker is woken meanwhile, and its end when a job is found."""
    held, meta = Held(), f"bull:{queue_name}:meta"
    await redis.hset(meta, "paused", "1")

    with capture_logs() as logs:
        async with running(held.handlers, **IDLE) as (worker, client):
            first = await client.enqueue("work")
            worker.wake()
            await wait_until(lambda: worker.stats()["stopped"], what="the pause to be known")
            stopped = worker.stats()["stopped"]
            page = metrics_text(worker.stats(), Traffic())
            await asyncio.sleep(1.1)  # wakes share a probe for a second
            worker.wake()
            await redis.hdel(meta, "paused")
            await redis.zadd(f"bull:{queue_name}:marker", {"0": 0})
            await held.run_to(1)
            after = worker.stats()["stopped"]
            held.end(first)
            await client.result(first, 10.0)

    told = [line["event"] for line in logs if line["event"].startswith("queue.")]
    assert stopped == {queue_name: "paused"}
    assert f'convolab_worker_queue_stopped{{queue="{queue_name}",why="paused"}} 1' in page
    assert (told, after) == (["queue.paused", "queue.resumed"], {})
