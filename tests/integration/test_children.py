"""Jobs of several parts: when their parents are called, and how their parts are added."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import UnrecoverableError
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

    from convolab_worker.embedded import EmbeddedServer
    from tests.support.proxy import TcpProxy

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio
SOON = 10.0
ROUND_TRIP_SECONDS = 0.02


async def test_a_part_that_ends_while_its_parent_is_about_to_ask_for_it(running: Running) -> None:
    """It had not ended when the handler looked: the handler is called again, and sees it."""
    handlers = HandlerRegistry()
    may_end = asyncio.Event()
    seen: list[list[str]] = []

    @handlers.course("course")
    async def course(job: Job[Any]) -> Any:
        done = await job.children_results()
        seen.append(sorted(done))
        if "bad" in done and "slow" not in done:
            may_end.set()
            await client.result(f"{job.id}.slow", SOON)
        if "slow" not in done:
            await job.enqueue_children([Child("slow"), Child("bad", on_failure="continue")])
        return done

    @handlers.audio("slow")
    async def slow(job: Job[Any]) -> str:
        await may_end.wait()
        return job.name

    @handlers.audio("bad")
    async def bad(job: Job[Any]) -> None:
        raise UnrecoverableError(job.name)

    async with running(handlers) as (_, client):
        result = await client.result(await client.enqueue("course"), SOON)

    assert result == {"slow": "slow", "bad": None}
    assert seen == [[], ["bad"], ["bad", "slow"]]


def far_away(
    make_settings: Callable[..., Settings], proxy: TcpProxy, round_trip: float
) -> Settings:
    """Settings of a worker that is so far from Redis, in seconds."""
    proxy.delay(round_trip / 2)
    return make_settings(redis_url=f"redis://127.0.0.1:{proxy.port}")


async def added_in(
    settings: Settings, client: JobClient, redis: Redis, children: int
) -> tuple[float, int]:
    """How long a worker takes to add so many children, and how many are there."""
    handlers = HandlerRegistry()
    asked_at = 0.0

    @handlers.course("course")
    async def course(job: Job[Any]) -> None:
        nonlocal asked_at
        parts = [Child("part", {"line": n}, "parts", key=f"line-{n}") for n in range(children)]
        asked_at = time.monotonic()
        await job.enqueue_children(parts)

    keys = f"bull:{settings.queues[0]}"
    async with Worker(handlers, settings):
        job = await client.enqueue("course")
        await wait_until(lambda: redis.zcard(f"{keys}:waiting-children"), timeout=60)
        return time.monotonic() - asked_at, await redis.scard(f"{keys}:{job}:dependencies")


async def test_children_are_added_in_pipelines(
    make_settings: Callable[..., Settings],
    client: JobClient,
    redis: Redis,
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
) -> None:
    """One by one, 100 of them would take 2 s at a round trip of 20 ms."""
    settings = far_away(make_settings, start_proxy(server), ROUND_TRIP_SECONDS)

    seconds, count = await added_in(settings, client, redis, 100)

    assert count == 100
    assert seconds < 1


@pytest.mark.long
async def test_three_thousand_children_take_less_than_a_second(
    make_settings: Callable[..., Settings],
    client: JobClient,
    redis: Redis,
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
) -> None:
    """Their parent waits for them a second after it has asked."""
    settings = far_away(make_settings, start_proxy(server), ROUND_TRIP_SECONDS)

    seconds, count = await added_in(settings, client, redis, 3000)

    assert count == 3000
    assert seconds < 1


async def test_a_stop_while_children_are_added_returns_their_parent(
    make_settings: Callable[..., Settings],
    client: JobClient,
    redis: Redis,
    queue_name: str,
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
) -> None:
    """The next worker adds the rest, and none twice."""
    handlers = HandlerRegistry()

    @handlers.course("course")
    async def course(job: Job[Any]) -> None:
        await job.enqueue_children(
            [Child("part", queue=parts, key=f"line-{n}") for n in range(1200)]
        )

    keys, parts = f"bull:{queue_name}", f"{queue_name}-parts"
    settings = far_away(make_settings, start_proxy(server), 0.3)
    async with Worker(handlers, settings) as worker:
        job = await client.enqueue("course")
        await wait_until(lambda: redis.llen(f"bull:{parts}:wait"))
        await worker.stop(grace=0)
    added = await redis.llen(f"bull:{parts}:wait")
    state = (await client.status(job)).state
    async with Worker(handlers, make_settings()):
        await wait_until(lambda: redis.zcard(f"{keys}:waiting-children"))

    assert added in {500, 1000}
    assert state == "waiting"
    assert await redis.llen(f"bull:{parts}:wait") == 1200
    assert await redis.scard(f"{keys}:{job}:dependencies") == 1200
