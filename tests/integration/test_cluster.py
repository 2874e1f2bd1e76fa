"""A cluster: the worker and the client go to the node that has their keys, wherever that is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

PREFIX = "{bull}"
# A lock that outlasts a pause of the machine, and a job that lasts until it has been renewed.
LOCK_SECONDS, RENEWED_AFTER = 4.0, 2.2
Running = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def running(cluster: Cluster, queue_name: str) -> Running:
    """Run a worker and a client that know one node of the cluster."""

    @asynccontextmanager
    async def run(
        handlers: HandlerRegistry, node: int, **overrides: Any
    ) -> AsyncIterator[tuple[Worker, JobClient]]:
        defaults: dict[str, Any] = {
            "redis_url": cluster.urls[node],
            "prefix": PREFIX,
            "queues": (queue_name, f"{queue_name}-2"),
            "idle_min": 60.0,
            "idle_max": 60.0,
            "lock_duration": LOCK_SECONDS,
        }
        settings = Settings(**{**defaults, **overrides})
        async with JobClient(settings) as client, Worker(handlers, settings) as worker:
            yield worker, client

    return run


def _handlers() -> HandlerRegistry:
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> Any:
        await job.progress(50)
        await asyncio.sleep(job.data)  # longer than it takes until its lock is renewed
        return job.data

    return handlers


@pytest.mark.asyncio
@pytest.mark.parametrize("away", [0, 1, 2])
async def test_every_node_leads_to_the_one_that_has_the_keys(
    running: Running, cluster: Cluster, queue_name: str, away: int
) -> None:
    """Jobs of both queues run, and locks are renewed, whichever node the address names."""
    node = (cluster.owner(PREFIX) + away) % 3
    with capture_logs() as logs:
        async with running(_handlers(), node) as (worker, client):
            ids = [
                await client.enqueue("work", RENEWED_AFTER, queue=queue)
                for queue in (queue_name, f"{queue_name}-2")
            ]
            results = [await client.result(job_id, timeout=20) for job_id in ids]
            stats = worker.stats()
    assert results == [RENEWED_AFTER] * 2
    assert stats["commands"]["by_purpose"]["lock"]["sent"] > 0
    told = {line["event"] for line in logs if line["log_level"] in ("warning", "error")}
    assert not told - {"process.suspended"}  # by the machine


@pytest.mark.asyncio
async def test_a_slot_that_moves_takes_its_worker_along(running: Running, cluster: Cluster) -> None:
    """After the keys have gone to another node, and back, the next job runs soon."""
    home = cluster.owner(PREFIX)
    other = (home + 1) % 3
    async with running(_handlers(), home, idle_min=0.5, idle_max=0.5) as (worker, client):
        for source, target in ((home, other), (other, home)):
            first = await client.enqueue("work", 0)
            assert await client.result(first, timeout=20) == 0

            await asyncio.to_thread(cluster.move, PREFIX, source, target)

            second = await client.enqueue("work", 0)
            assert await client.result(second, timeout=20) == 0
            assert worker.stats()["connected"]


@pytest.mark.asyncio
async def test_a_prefix_without_a_hash_tag_is_told_of(running: Running) -> None:
    """The worker can't work there, and says what to set."""
    with capture_logs() as logs:
        async with running(_handlers(), 0, prefix="bull"):
            await wait_until(lambda: _refusals(logs), what="the log line")
    assert "use a hash tag in CONVOLAB_PREFIX, such as {bull}" in _refusals(logs)[0]


def _refusals(logs: Any) -> list[str]:
    return [line["error"] for line in logs if line["event"] == "redis.refused"]
