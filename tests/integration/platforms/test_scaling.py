"""What a scaler is told, and what it costs, in a FastAPI application that a scaler polls."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, SyncJobClient, Worker
from convolab_worker.integrations.scaling import scale_app
from tests.support.commandstats import counted_commands

pytestmark = pytest.mark.asyncio


def polling(client: JobClient, **options: Any) -> AsyncClient:
    """A scaler that polls an API with the route."""
    api = FastAPI()
    api.mount("/scale", scale_app(client, **options))
    return AsyncClient(transport=ASGITransport(app=api), base_url="http://api")


async def test_it_counts_what_wants_a_worker(make_settings: Any) -> None:
    """What waits, by priority too; what has fallen due; what runs; nothing that is to wait."""
    running, go_on = asyncio.Event(), asyncio.Event()
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(_: Job[Any]) -> None:
        running.set()
        await go_on.wait()

    settings = make_settings(concurrency=1)
    async with JobClient(settings) as client, polling(client, cache=0) as scaler:
        nothing = (await scaler.get("/scale/")).json()
        async with Worker(handlers, settings):
            await client.enqueue("work")
            await running.wait()
            await client.enqueue("work")
            await client.enqueue("work", priority=3)
            await client.enqueue("work", delay=3600)
            await client.enqueue("work", delay=0.001)
            await asyncio.sleep(0.01)  # it falls due
            busy = (await scaler.get("/scale/")).json()
            go_on.set()

    assert nothing == {"ready": 0, "due": 0, "active": 0, "total": 0}
    assert (busy["active"], busy["total"]) == (1, 4)
    assert busy["ready"] + busy["due"] == 3


async def test_it_costs_one_command_while_there_is_nothing_and_none_within_its_time(
    start_server: Any, make_settings: Any
) -> None:
    """By the server's count, whatever the number of queues and of those who ask."""
    server = start_server()
    settings = make_settings(redis_url=server.url, queues=("a", "b", "c"))
    async with (
        Redis.from_url(server.url) as redis,
        JobClient(settings) as client,
        polling(client, cache=60) as scaler,
    ):
        await client.counts()  # connected
        async with counted_commands(redis) as idle:
            await asyncio.gather(*[scaler.get("/scale/") for _ in range(20)])
        await client.enqueue("work", queue="b")
        async with counted_commands(redis) as busy:
            told = await client.demand()

    assert idle.total == 1
    assert (busy.total, told.commands, told.ready) == (13, 13, 1)


async def test_it_costs_a_ninth_of_what_kedas_own_triggers_cost(
    start_server: Any, make_settings: Any
) -> None:
    """KEDA's Redis trigger runs a script that asks for a key's type and for its length.

    https://github.com/kedacore/keda/blob/v2.17.0/pkg/scalers/redis_scaler.go
    """
    server = start_server()
    asks = "redis.call('TYPE', KEYS[1]) return redis.call('LLEN', KEYS[1])"
    async with (
        Redis.from_url(server.url) as redis,
        JobClient(make_settings(redis_url=server.url)) as client,
    ):
        await client.counts()  # connected
        async with counted_commands(redis) as kedas:
            for key in ("wait", "prioritized", "active"):
                await redis.eval(asks, 1, f"bull:q:{key}")
        async with counted_commands(redis) as ours:
            await client.demand()

    a_day = 24 * 3600 // 30
    assert (kedas.total * a_day, ours.total * a_day) == (25_920, 2_880)


async def test_a_stranger_is_told_nothing_and_a_lost_redis_is_no_zero(make_settings: Any) -> None:
    """401 without the token, 405 for what is not a question, 503 when nobody knows.

    The scheme is in any case, as HTTP has it. An empty token lets nobody in.
    """
    away = JobClient(make_settings(redis_url="redis://127.0.0.1:1"))
    async with polling(away, token="secret") as scaler:
        answers = [
            await scaler.get("/scale/"),
            await scaler.get("/scale/", headers={"Authorization": "Bearer other"}),
            await scaler.post("/scale/", headers={"Authorization": "Bearer secret"}),
            await scaler.get("/scale/", headers={"Authorization": "Bearer secret"}),
            await scaler.get("/scale/", headers={"Authorization": "bearer secret"}),
        ]
    async with polling(away, token="") as scaler:
        answers.append(await scaler.get("/scale/"))
    await away.close()

    assert [answer.status_code for answer in answers] == [401, 401, 405, 503, 503, 401]


async def test_the_blocking_client_has_it_too(make_settings: Any) -> None:
    """For a route of Flask or Django."""

    def asked() -> int:
        with SyncJobClient(make_settings()) as client:
            client.enqueue("work")
            return client.demand().total

    assert await asyncio.to_thread(asked) == 1
