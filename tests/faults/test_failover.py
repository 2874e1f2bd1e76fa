"""A primary that becomes a replica, dies or moves: everybody follows to the one that serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import RedisUnavailable
from tests.support import waiting
from tests.support.proxy import TcpProxy
from tests.support.replicas import MASTER, Replicas, SentinelProcesses
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

# How soon a job that is added when a primary serves again has to have ended.
RECOVERY_SECONDS = 2.0


@pytest.fixture(scope="module")
def replicas() -> Iterator[Replicas]:
    """A primary and two replicas."""
    with Replicas() as replicas:
        yield replicas


@pytest.fixture(scope="module")
def sentinels(
    replicas: Replicas, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SentinelProcesses]:
    """Three Sentinels with a password of their own."""
    folder = tmp_path_factory.mktemp("sentinels")
    with SentinelProcesses(replicas, folder, password="made-up", down_after=2.0) as sentinels:
        yield sentinels


class Jobs:
    """A worker and a client that go through failovers, and what became of their jobs."""

    def __init__(self, worker: Worker, client: JobClient) -> None:
        self.worker = worker
        self.client = client

    async def ends(self, data: Any, *, within: float) -> None:
        """Add a job as an application does, which tries again, and wait for its result."""
        assert await waiting.within(self._result(data), within) == data

    async def _result(self, data: Any) -> Any:
        while True:
            try:
                return await self.client.result(await self.client.enqueue("work", data))
            except RedisUnavailable:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Jobs]:
    """Run a worker and a client with one handler, which gives back what it gets."""
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> Any:
        if isinstance(job.data, float):
            await asyncio.sleep(job.data)
        return job.data

    async with Worker(handlers, settings) as worker, JobClient(settings) as client:
        yield Jobs(worker, client)


def _told(logs: Any) -> list[str]:
    """What the worker warns of; the client's reader of events has a line of its own."""
    told = [line["event"] for line in logs if line["log_level"] in {"warning", "error"}]
    return [event for event in told if event != "events.unavailable"]


def _settings(url: str, queue: str, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "redis_url": url,
        "queues": (queue,),
        "idle_min": 60.0,
        "idle_max": 60.0,
        "lock_duration": 10.0,
    }
    return Settings(**{**given, **more})


@pytest.mark.parametrize(
    "is_busy", [False, pytest.param(True, marks=pytest.mark.long)], ids=["idle", "busy"]
)
async def test_a_primary_that_becomes_a_replica_is_left(queue_name: str, *, is_busy: bool) -> None:
    """Its connections stay open, as those of a managed server do; the name leads elsewhere."""
    with (
        capture_logs() as logs,
        Replicas(1) as pair,
        TcpProxy(pair.servers[0].port) as name,
    ):
        async with working(_settings(name.url, queue_name)) as jobs:
            await jobs.ends("first", within=10)
            await asyncio.to_thread(pair.await_sync, 1)
            running = asyncio.create_task(jobs.ends(1.5, within=10)) if is_busy else None
            if is_busy:
                await wait_until(lambda: jobs.worker.stats()["running"] == 1, what="the job")
            await asyncio.to_thread(pair.hand_over, 0, 1)
            name.lead_to(pair.servers[1].port)

            await jobs.ends("second", within=RECOVERY_SECONDS)

            if running is not None:
                await running
    assert _told(logs) == ["redis.refused"]


@pytest.mark.long
async def test_a_demoted_server_is_asked_calmly_until_there_is_a_primary(
    queue_name: str,
) -> None:
    """For as long as the name leads to a replica; two seconds after that jobs run again."""
    with (
        capture_logs() as logs,
        Replicas(1) as pair,
        TcpProxy(pair.servers[0].port) as name,
    ):
        async with working(_settings(name.url, queue_name)) as jobs:
            await jobs.ends("first", within=10)
            pair.clients[0].replicaof("127.0.0.1", str(pair.servers[1].port))  # one of the other
            await wait_until(lambda: not jobs.worker.stats()["connected"], what="the departure")
            before = pair.clients[0].info("stats")["total_commands_processed"]
            with pytest.raises(RedisUnavailable, match="replica"):
                await jobs.client.enqueue("work", "refused")
            await asyncio.sleep(2)
            asked = pair.clients[0].info("stats")["total_commands_processed"] - before
            pair.clients[0].replicaof("NO", "ONE")

            await jobs.ends("second", within=RECOVERY_SECONDS)
    assert asked < 30
    assert _told(logs) == ["redis.refused"]


async def test_sentinels_are_asked_where_the_primary_is(
    replicas: Replicas, sentinels: SentinelProcesses, queue_name: str
) -> None:
    """Again at every reconnect: the primary is killed, and the job ends on its successor."""
    url = f"redis+sentinel://{sentinels.nodes}/{MASTER}/0?sentinel_password=made-up"
    async with working(_settings(url, queue_name)) as jobs:
        await jobs.ends("first", within=10)
        old = sentinels.primary()
        running = asyncio.create_task(jobs.ends(3.0, within=20))
        await wait_until(lambda: jobs.worker.stats()["running"] == 1, what="the job")
        await asyncio.to_thread(replicas.clients[old].wait, 1, 5000)
        await asyncio.to_thread(replicas.servers[old].kill)
        try:
            await asyncio.to_thread(sentinels.await_other_primary, old)

            await jobs.ends("second", within=RECOVERY_SECONDS)
            await running
        finally:
            await asyncio.to_thread(replicas.servers[old].start)


async def test_a_client_of_redis_py_says_where_the_sentinels_are(
    sentinels: SentinelProcesses, queue_name: str
) -> None:
    """Settings.from_redis takes all that a master_for has, and none of its connections."""
    kind: Any = Sentinel
    known = kind(
        [("127.0.0.1", port) for port in sentinels.ports],
        sentinel_kwargs={"password": "made-up"},
    )
    client: Redis = known.master_for(MASTER)
    settings = Settings.from_redis(client, queues=(queue_name,))

    async with working(settings) as jobs:
        await jobs.ends("told", within=10)

    assert settings.redis_given is not None
    await client.aclose()


async def test_sentinels_that_know_nothing_are_named(
    sentinels: SentinelProcesses, queue_name: str
) -> None:
    """With what each of them said."""
    url = f"redis+sentinel://{sentinels.nodes}/another?sentinel_password=made-up"

    with pytest.raises(RedisUnavailable, match="knows no primary called another"):
        async with JobClient(_settings(url, queue_name)) as client:
            await client.counts()
