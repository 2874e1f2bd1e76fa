"""Node's worker runs the jobs of JobClient; ``test_adding`` compares how they are stored."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import JobClient, Settings
from convolab_worker.errors import JobFailed
from tests.interop.session import NodeSession

pytestmark = pytest.mark.asyncio

SCENARIO = "an open queue"


@pytest_asyncio.fixture
async def prefix(session: NodeSession) -> AsyncIterator[str]:
    """A prefix under which Node has the queue "work" open."""
    prefix = f"client-{uuid.uuid4().hex[:10]}"
    await session.ask("stage", scenario=SCENARIO, prefix=prefix, workerName="node")
    yield prefix
    await session.ask("forget", prefix=prefix)


@pytest_asyncio.fixture
async def client(server_url: str, prefix: str) -> AsyncIterator[JobClient]:
    """A client of the queue "work"."""
    settings = Settings(redis_url=server_url, queues=("work",), prefix=prefix)
    async with JobClient(settings) as client:
        yield client


@pytest_asyncio.fixture
async def nodes_worker(session: NodeSession, prefix: str) -> AsyncIterator[None]:
    """Node's own worker on that queue."""
    await session.ask("work", scenario=SCENARIO, prefix=prefix)
    yield
    await session.ask("rest", prefix=prefix)


@pytest.mark.usefixtures("nodes_worker")
async def test_nodes_worker_gives_the_client_its_result(client: JobClient) -> None:
    """Data and result go to Node and back unharmed."""
    value = {"text": "héllo 日本語 🎧", "list": [1, 2.5, None, True]}

    job_id = await client.enqueue("work", {"do": {"op": "return", "value": value}})

    assert await client.result(job_id, timeout=10) == value
    assert (await client.status(job_id)).state == "completed"


@pytest.mark.usefixtures("nodes_worker")
async def test_nodes_worker_gives_the_client_the_reason_of_a_failure(client: JobClient) -> None:
    """The reason is Node's message, after all attempts."""
    fails = {"do": {"op": "fail", "message": "no voice"}}

    job_id = await client.enqueue("work", fails, attempts=2)
    with pytest.raises(JobFailed, match="no voice") as failure:
        await client.result(job_id, timeout=10)

    assert failure.value.reason == "no voice"
    assert (await client.status(job_id)).attempts_made == 2


@pytest.mark.usefixtures("nodes_worker")
async def test_the_client_watches_the_progress_of_nodes_worker(
    client: JobClient, redis: Redis, prefix: str
) -> None:
    """Events come in their order, up to the end."""
    steps = [{"op": "gate", "name": "watched"}, {"op": "progress", "value": {"percent": 50}}]
    any_redis: Any = redis
    data = {"do": [*steps, {"op": "return", "value": 1}]}

    job_id = await client.enqueue("work", data, delay=0.5)  # watched by then
    seen: list[tuple[str, Any]] = []
    async with asyncio.timeout(10):
        async for event in client.watch(job_id):
            if not seen:
                await any_redis.rpush(f"{prefix}:gate:watched", "open")
            seen.append((event.event, event.data))

    assert seen[:2] == [("waiting", None), ("active", None)]
    assert seen[-2:] == [("progress", {"percent": 50}), ("completed", 1)]
