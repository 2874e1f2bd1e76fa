"""Workers' backends on a queue of the test's own, without a worker around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.jobs.child_jobs import ChildIds, ChildJob
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.bullmq.script_runner import now_ms, run_script
from convolab_worker.bullmq.worker_side import flows
from convolab_worker.bullmq.worker_side.backend import Backend
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.upkeep.key_changes import KeyChanges
from tests.support.answers import as_bullmqs

LOCK_SECONDS = 60.0


@dataclass
class BackendOfWorker:
    """One worker's backend for one queue, and what a test does with it."""

    backend: Backend
    redis: Any  # redis-py's annotations say bytes, str or None of everything
    queue: str
    keys: QueueKeys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = self.backend.keys[self.queue]

    @property
    def calls(self) -> Any:
        """The calls that move jobs of the queue."""
        return self.backend.transitions[self.queue]

    async def add(self, job_id: str = "1", **opts: Any) -> str:
        """Add a job."""
        job = NewJob(id=job_id, name="work", data="{}", opts=opts)
        return (await producer.add(self.backend.connection, self.keys, job)).id

    async def fetched(self) -> ActiveJob:
        """The next job, which must be there."""
        found = await self.backend.fetch(self.queue, self.backend.new_token())
        assert found.job is not None
        return found.job

    async def run(self, call: Call) -> Any:
        """Run a call, as the one whose reply is then lost."""
        return as_bullmqs(await run_script(self.backend.connection, Purpose.COMPLETE, call))

    def child_id(self, parent: ActiveJob, key: str) -> str:
        """The id of the child that a job asks for by that key."""
        return ChildIds.of(self.keys, parent).id_of(key)

    async def add_children(self, parent: ActiveJob, children: Sequence[ChildJob]) -> None:
        """Add those children of a job that have not ended."""
        left = await flows.left_to_add(self.backend, parent, children)
        for batch in flows.pipelines(self.backend, parent, left, {}):
            await producer.add_all(self.backend.connection, batch)

    async def recover_without_lock(self, job: ActiveJob) -> None:
        """Let the job's lock run out, and another worker's stalled check find it."""
        await self.redis.delete(self.keys.lock(job.id))
        for _ in range(2):
            await self.redis.delete(self.keys["stalled-check"])
            await self.run(
                self.calls.recover_stalled(max_stalled=9, now_ms=now_ms(), interval_ms=1)
            )

    async def fields(self, job_id: str = "1") -> dict[str, str]:
        """The job's hash."""
        found: dict[str, str] = await self.redis.hgetall(self.keys.job(job_id))
        return found

    async def all_keys(self) -> set[str]:
        """Every key of the queue, by its last part."""
        prefix = self.keys.base
        return {key.removeprefix(prefix) async for key in self.redis.scan_iter(f"{prefix}*")}


@pytest_asyncio.fixture
async def make_backend(
    redis: Redis, server_url: str, queue_name: str
) -> AsyncIterator[Callable[[str], Any]]:
    """Make the backend of a worker of that id, connected to the shared server."""
    async with AsyncExitStack() as stack:

        async def make(worker_id: str = "a" * 16) -> BackendOfWorker:
            counter = CommandCounter()
            connections = [
                Connection(Address.parse(server_url), timeout=10.0, counter=counter)
                for _ in range(3)
            ]
            for connection in connections[:2]:
                await connection.open()
                stack.push_async_callback(connection.close)
            backend = Backend(
                [queue_name],
                prefix="bull",
                connection=connections[0],
                waiting=connections[1],
                changes=KeyChanges(connections[2]),
                worker_id=worker_id,
                worker_name=None,
                lock_duration=LOCK_SECONDS,
            )
            return BackendOfWorker(backend, redis, queue_name)

        yield make


@pytest_asyncio.fixture
async def ours(make_backend: Callable[..., Any]) -> BackendOfWorker:
    """The backend of the worker that is tested."""
    backend: BackendOfWorker = await make_backend()
    return backend


@pytest_asyncio.fixture
async def theirs(make_backend: Callable[..., Any]) -> BackendOfWorker:
    """The backend of another worker on the same queue."""
    backend: BackendOfWorker = await make_backend("b" * 16)
    return backend
