"""How a worker shows itself to ``queue.getWorkers()``: by the names of its connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.connection.upkeep import client_names
from convolab_worker.connection.upkeep.client_names import client_name
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

StartServer = Callable[..., ServerProcess]
MakeSettings = Callable[..., Settings]

pytestmark = pytest.mark.asyncio
QUEUES = ("q1", "q2", "q3", "q4")
NAMES = [client_name("bull", queue, "the-worker") for queue in QUEUES]
HANDLERS = HandlerRegistry()


@HANDLERS.audio("speak")
async def speak(job: Job[Any]) -> str:
    """Succeed."""
    return job.queue


async def names(redis: Redis) -> list[str]:
    """The names of the server's connections that have one."""
    return sorted(client["name"] for client in await redis.client_list() if client["name"])


@pytest.mark.parametrize(("listed", "count", "connections"), [("on", 4, 4), ("off", 0, 2)])
async def test_each_listed_queue_takes_one_command_and_beyond_two_a_connection(
    start_server: StartServer,
    make_settings: MakeSettings,
    listed: str,
    count: int,
    connections: int,
) -> None:
    """The first two queues' names are on the connections that a worker has anyway."""
    settings = make_settings(
        redis_url=start_server().url, queues=QUEUES, worker_name="the-worker", listed=listed
    )
    async with Redis.from_url(settings.redis_url, decode_responses=True) as redis:
        others = len(await redis.client_list())
        async with Worker(HANDLERS, settings) as worker:
            await wait_until(lambda: worker.stats().get("idle", {}).get("wait"))
            for _ in range(100):
                if await names(redis) == NAMES[:count]:
                    break
            assert await names(redis) == NAMES[:count]
            assert len(await redis.client_list()) - others == connections
            connects = worker.stats()["commands"]["by_purpose"]["connect"]["sent"]

        assert connects == 2 + count
        assert await names(redis) == []


async def test_a_drain_is_not_listed(
    start_server: StartServer, make_settings: MakeSettings
) -> None:
    """It is over soon, and where it runs every few minutes each command counts."""
    settings = make_settings(redis_url=start_server().url, queues=QUEUES)
    async with JobClient(settings) as client:
        await client.enqueue("speak")
        worker = Worker(HANDLERS, settings)

        result = await worker.drain(budget=30)

    assert result.processed == 1
    assert worker.stats()["commands"]["by_purpose"]["connect"]["sent"] == 2


async def test_a_lost_name_comes_back(
    start_server: StartServer, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that only carries a name is opened again, after a pause."""
    monkeypatch.setattr(client_names, "_FIRST_PAUSE_SECONDS", 0.05)
    settings = make_settings(
        redis_url=start_server().url, queues=QUEUES, worker_name="the-worker", idle_max=30
    )
    async with (
        Redis.from_url(settings.redis_url, decode_responses=True) as redis,
        Worker(HANDLERS, settings) as worker,
    ):
        before = [await found(redis, name) for name in NAMES][3]  # all are named by then
        waits = worker.stats()["commands"]["by_purpose"]["connect"]["sent"]
        await redis.client_kill_filter(_id=before["id"])

        after = await found(redis, NAMES[3], other_than=before["id"])

        assert after["id"] != before["id"]
        assert worker.stats()["commands"]["by_purpose"]["connect"]["sent"] == waits + 1


async def found(redis: Redis, name: str, other_than: str | None = None) -> dict[str, Any]:
    """Wait for the connection of that name."""
    for _ in range(20_000):
        for client in await redis.client_list():
            if client["name"] == name and client["id"] != other_than:
                return dict(client)
    msg = f"no connection is called {name}"
    raise AssertionError(msg)


async def test_a_server_that_allows_no_names_is_no_obstacle(
    start_server: StartServer, make_settings: MakeSettings
) -> None:
    """A user who may not name connections has a worker that is not listed, and works."""
    server = start_server()
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        await redis.execute_command(  # type: ignore[no-untyped-call]
            *("ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all", "-client|setname")
        )
        settings = make_settings(
            redis_url=server.url.replace("://", "://worker:secret@"), queues=QUEUES
        )
        async with JobClient(settings) as client, Worker(HANDLERS, settings):
            job_id = await client.enqueue("speak")

            assert await client.result(job_id, timeout=30) == "q1"
            assert await names(redis) == []
