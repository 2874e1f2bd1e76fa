"""A primary that Sentinels have replaced is left at once, whatever was waited for on it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from redis import Redis
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, SyncJobClient, Worker
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.route import Route
from convolab_worker.connection.source import ServerSource
from convolab_worker.connection.upkeep import reconnect
from convolab_worker.errors import RedisUnavailable, ReplyLost
from tests.support.kinds import debian_redis, tls
from tests.support.scripted import ScriptedProxy, Trouble
from tests.support.sentinel import ToldSentinel
from tests.support.server import ServerProcess
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until, within

pytestmark = pytest.mark.asyncio

# How soon everybody is on a primary that serves.
RECOVERY_SECONDS = 2.0


@pytest_asyncio.fixture
async def sentinel(servers: tuple[Any, Any]) -> AsyncIterator[ToldSentinel]:
    """A Sentinel that names the first server."""
    async with ToldSentinel(servers[0].port) as sentinel:
        yield sentinel


@pytest.fixture
def servers(start_server: Callable[..., ServerProcess]) -> tuple[ServerProcess, ServerProcess]:
    """The primary, and the one that takes its place."""
    return start_server(), start_server()


def _url(*sentinels: ToldSentinel) -> str:
    return f"redis+sentinel://{','.join(each.node for each in sentinels)}/told/0"


def _settings(sentinel: ToldSentinel, queue: str, **more: Any) -> Settings:
    given: dict[str, Any] = {"queues": (queue,), "idle_min": 60.0, "idle_max": 60.0}
    return Settings(redis_url=_url(sentinel), **{**given, **more})


def _handlers() -> HandlerRegistry:
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> Any:
        return job.data

    return handlers


async def test_the_sentinel_that_knows_the_newest_primary_is_believed(
    servers: tuple[ServerProcess, ServerProcess], sentinel: ToldSentinel
) -> None:
    """They disagree for a while; the one that answers first may be behind."""
    old, new = servers
    async with ToldSentinel(old.port) as second, ToldSentinel(new.port, config_epoch=2) as ahead:
        for order in ((ahead, sentinel, second), (sentinel, second, ahead)):
            source = ServerSource(Address.parse(_url(*order)))
            for _ in range(5):
                primary = await source.primary()
                assert primary is not None
                assert primary.port == new.port


async def test_old_news_moves_nobody_while_the_primary_serves(
    servers: tuple[ServerProcess, ServerProcess], sentinel: ToldSentinel
) -> None:
    """The Sentinel that knows better is slow now and then; without it they went to and fro."""
    old, new = servers
    async with ToldSentinel(new.port, config_epoch=2) as ahead:
        route = Route(ServerSource(Address.parse(_url(sentinel, ahead))))
        assert (await route.locate()).port == new.port
        sentinel.config_epoch = 2  # two failovers at once
        assert (await route.locate()).port == new.port
        sentinel.config_epoch, ahead.is_silent = 1, True
        assert (await route.locate()).port == new.port
        route.fall_back()  # it can't be reached
        assert (await route.locate()).port == old.port


async def test_a_primary_that_answers_no_handshake_is_left_when_another_is_named(
    servers: tuple[ServerProcess, ServerProcess], sentinel: ToldSentinel
) -> None:
    """Its writes are paused, as before a handover: it was waited for, five seconds long."""
    old, new = servers
    route = Route(ServerSource(Address.parse(_url(sentinel))))
    route.give_up_server(0, "the test says so")  # so that a write asks whether the server can serve
    connection = Connection(route, timeout=10.0, counter=CommandCounter())
    old.suspend()
    try:
        opening = asyncio.create_task(connection.open())
        await wait_until(lambda: sentinel.asked, what="the question")
        sentinel.name(new.port)
        with Stopwatch() as since_named:
            with pytest.raises(RedisUnavailable, match="name another primary"):
                await opening
            await connection.open()

        assert since_named.seconds < RECOVERY_SECONDS
        assert route.address.port == new.port
    finally:
        old.resume()
        await connection.close()


async def test_all_connections_leave_when_one_hears_of_another_primary(
    servers: tuple[ServerProcess, ServerProcess], sentinel: ToldSentinel
) -> None:
    """Also by connecting: the others were left behind, to find out a second later."""
    route = Route(ServerSource(Address.parse(_url(sentinel))))
    first, second = (Connection(route, timeout=10.0, counter=CommandCounter()) for _ in range(2))
    await first.open()
    sentinel.name(servers[1].port)
    waits = first.call(Purpose.LISTEN, "BLPOP", "nothing", 0, timeout=30.0)
    with capture_logs() as logs:
        await second.open()
        with pytest.raises(ReplyLost, match="name another primary"):
            await within(waits, 0.5)
    assert [line["event"] for line in logs] == ["redis.primary_replaced"]
    await first.close()
    await second.close()


async def test_no_pause_outlasts_a_primary(
    servers: tuple[ServerProcess, ServerProcess],
    sentinel: ToldSentinel,
    queue_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It refused all writes, and was asked ever more seldom; its successor runs the job at once."""
    old, new = servers
    monkeypatch.setattr(reconnect, "refusal_delay", lambda _, *, random: 60.0 + random)
    settings = _settings(sentinel, queue_name)
    with capture_logs() as logs:
        async with JobClient(settings) as client:
            await client.enqueue("work", 0)
            with Redis(port=old.port) as admin:
                admin.config_set("min-replicas-to-write", 3)
            async with Worker(_handlers(), settings):
                await wait_until(
                    lambda: "redis.refused" in [line["event"] for line in logs], what="a refusal"
                )
                sentinel.name(new.port)
                with Stopwatch() as since_named:
                    await wait_until(
                        lambda: "redis.primary_replaced" in [line["event"] for line in logs],
                        what="the news",
                    )
                    job_id = await client.enqueue("work", 1)
                    assert await client.result(job_id, timeout=10) == 1

                assert since_named.seconds < RECOVERY_SECONDS


async def test_a_synchronous_clients_own_connections_leave_too(
    servers: tuple[ServerProcess, ServerProcess], sentinel: ToldSentinel, queue_name: str
) -> None:
    """Those that its threads use were not asked: for ten seconds their jobs went to the old one."""
    old, new = servers
    with capture_logs() as logs, SyncJobClient(_settings(sentinel, queue_name)) as client:
        for number in range(8):  # the first ones go another way
            await asyncio.to_thread(client.enqueue, "work", number)
        sentinel.name(new.port)
        await wait_until(
            lambda: "redis.primary_replaced" in [line["event"] for line in logs], what="the news"
        )
        for number in range(8):
            await asyncio.to_thread(client.enqueue, "work", number)
    with Redis(port=old.port) as left, Redis(port=new.port) as next_one:
        lengths = [each.llen(f"bull:{queue_name}:wait") for each in (left, next_one)]
    assert lengths == [8, 8]


@pytest.mark.parametrize(
    "refusal",
    [
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "LOADING Valkey is loading the dataset in memory",
        "NOAUTH Authentication required.",
    ],
    ids=lambda refusal: refusal.partition(" ")[0],
)
async def test_a_server_that_says_it_can_not_serve_is_left(
    servers: tuple[ServerProcess, ServerProcess], queue_name: str, refusal: str
) -> None:
    """The connections stay open, and the name leads to another server by now."""
    old, new = servers
    with capture_logs() as logs, ScriptedProxy(old.port) as name:
        settings = Settings(redis_url=name.url, queues=(queue_name,), idle_min=60.0, idle_max=60.0)
        async with Worker(_handlers(), settings) as worker, JobClient(settings) as client:
            assert await client.result(await client.enqueue("work", 1), timeout=10) == 1
            name.lead_to(new.port)
            name.arm(Trouble("error", "addStandardJob", reply=refusal))
            name.arm(Trouble("error", "EXISTS", reply=refusal))
            worker.wake()

            async with asyncio.timeout(RECOVERY_SECONDS):
                job_id = await client.enqueue("work", 2)
                assert await client.result(job_id) == 2
            assert len(name.done) == 2
    assert [line["event"] for line in logs].count("redis.refused") <= 1
    with Redis(port=new.port) as admin:
        assert admin.exists(f"bull:{queue_name}:{job_id}")


async def test_sentinels_and_their_primary_speak_tls(tmp_path: Path) -> None:
    """Each by itself: the certificates of both are checked, against the same authority."""
    (tmp_path / "server").mkdir()
    with tls(debian_redis(), tmp_path / "server") as primary:
        where = urlsplit(primary.url)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "server/server.crt", tmp_path / "server/server.key")
        async with ToldSentinel(where.port or 0, tls=context) as sentinel:
            told = f"rediss+sentinel://{sentinel.node}/told/0"
            for url, problem in (
                (f"{told}?{where.query}", None),
                (f"{told}?{where.query}&sentinel_ssl=false", "no Sentinel knows"),
                (told, "is not trusted"),
            ):
                route = Route(ServerSource(Address.parse(url)))
                connection = Connection(route, timeout=10.0, counter=CommandCounter())
                if problem is None:
                    await connection.open()
                    assert await connection.call(Purpose.STATUS, "PING") == b"PONG"
                else:
                    with pytest.raises(RedisUnavailable, match=problem):
                        await connection.open()
                await connection.close()
