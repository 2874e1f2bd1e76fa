"""Runs a real worker and client on a private server for one test, and reads what was enqueued."""

from __future__ import annotations

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import pairs
from convolab_worker.client.client import JobClient
from convolab_worker.client.session import connected
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings import OPTIONS, Settings
from convolab_worker.testing.enqueued import ANYTHING, EnqueuedJob, found_among
from convolab_worker.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from convolab_worker.bullmq.jobs.job_type import JobType
    from convolab_worker.handlers.job.sync_job import AsyncHandler, PlainHandler
    from convolab_worker.handlers.registration.registry import HandlerRegistry

P = TypeVar("P")
R = TypeVar("R")
_LOOK_SECONDS = 0.01
_EMPTY_LOOKS = 2
_PENDING = ("waiting", "prioritized", "active", "waiting-children")
# The workers of the tests that are running. drained() and assert_enqueued() mean the newest.
_current: list[RunningWorker] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningWorker:
    """A worker with its client, under a key prefix of its own; ``worker`` is None without handlers.

    The code under test can make its own clients with ``settings``.
    """

    settings: Settings
    client: JobClient
    worker: Worker | None

    @overload
    async def run(
        self, name: JobType[P, R], data: P, *, timeout: float = 10.0, **options: Any
    ) -> R: ...

    @overload
    async def run(
        self, name: AsyncHandler[P, R], data: P, *, timeout: float = 10.0, **options: Any
    ) -> R: ...

    @overload
    async def run(
        self, name: PlainHandler[P, R], data: P, *, timeout: float = 10.0, **options: Any
    ) -> R: ...

    @overload
    async def run(
        self, name: str, data: Any = None, *, timeout: float = 10.0, **options: Any
    ) -> Any: ...

    async def run(
        self, name: Any, data: Any = None, *, timeout: float = 10.0, **options: Any
    ) -> Any:
        """Enqueue a job and return its result when it has ended. Raises JobFailed, TimeoutError.

        ``name`` may be a JobType, or a registered handler, as for ``JobClient.enqueue``.
        """
        job_id = await self.client.enqueue(name, data, **options)
        return await self.client.result(job_id, timeout, options.get("queue"))

    async def drained(self, timeout: float = 10.0, *, delayed: bool = False) -> None:
        """Wait until no job waits or runs; with ``delayed``, until no delayed one is left either.

        Raises AssertionError, which says what is left, after ``timeout`` seconds.
        """
        states = (*_PENDING, "delayed") if delayed else _PENDING
        left: dict[str, dict[str, int]] = {}
        looks = 0
        try:
            async with asyncio.timeout(timeout):
                # Twice in a row, since a job may change its state between the counts of two states.
                # Other processes may work on it too, so no event in this process marks the end.
                while looks < _EMPTY_LOOKS:
                    left = self._left(await self.client.counts(), states)
                    looks = 0 if left else looks + 1
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            msg = f"not drained after {timeout:g} s; left: {left or 'not known'}"
            raise AssertionError(msg) from None

    def _left(
        self, counts: dict[str, dict[str, int]], states: tuple[str, ...]
    ) -> dict[str, dict[str, int]]:
        left = {
            queue: {state: found[state] for state in states if found.get(state)}
            for queue, found in counts.items()
        }
        return {queue: found for queue, found in left.items() if found}

    @property
    def enqueued(self) -> list[EnqueuedJob]:
        """Every job that anybody has added to the settings' queues, in order."""
        # In a thread with its own loop, so that tests can ask without `await`.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, _added(self.settings)).result()

    def assert_enqueued(
        self, name: str, *, data: Any = ANYTHING, queue: str | None = None
    ) -> EnqueuedJob:
        """Return the first job of that name, data and queue. Raises AssertionError without one."""
        return found_among(self.enqueued, name, data=data, queue=queue)


@asynccontextmanager
async def running_worker(
    handlers: HandlerRegistry | None, redis_url: str, **overrides: Any
) -> AsyncIterator[RunningWorker]:
    """Run a worker for a test; without ``handlers`` no job runs.

    Its queues are ``convolab`` and those that handlers are bound to; ``overrides`` are settings.
    """
    bound = {handler.queue for handler in handlers or () if handler.queue is not None}
    defaults: dict[str, Any] = {
        "redis_url": redis_url,
        "prefix": f"test-{uuid.uuid4().hex[:12]}",
        "queues": tuple(dict.fromkeys((*OPTIONS["queues"].default, *sorted(bound)))),
        "shutdown_grace": 2.0,
    }
    settings = Settings(**{**defaults, **overrides})
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(JobClient(settings))
        worker = None
        if handlers is not None:
            worker = await stack.enter_async_context(Worker(handlers, settings))
        running = RunningWorker(settings=settings, client=client, worker=worker)
        _current.append(running)
        try:
            yield running
        finally:
            _current.remove(running)


def worker_fixture(handlers: HandlerRegistry | None = None, **overrides: Any) -> Any:
    """Return a pytest fixture: a RunningWorker with these handlers, for each test that asks for it.

    Write ``worker = worker_fixture(handlers)`` in a test module or conftest.py. It needs
    pytest-asyncio, and raises ConfigurationError without it; with another plugin, use the fixture
    ``convolab_worker``.
    """
    try:
        import pytest_asyncio
    except ImportError as error:
        msg = (
            "worker_fixture needs the package pytest-asyncio: pip install pytest-asyncio, "
            "or `async with convolab_worker(handlers)` with the fixture of that name"
        )
        raise ConfigurationError(msg) from error

    @pytest_asyncio.fixture
    async def worker(convolab_worker: Callable[..., Any]) -> AsyncIterator[RunningWorker]:
        async with convolab_worker(handlers, **overrides) as running:
            yield running

    return worker


def _newest(asked: str) -> RunningWorker:
    if not _current:
        msg = f"{asked}: no worker runs here: expected a fixture made by worker_fixture(handlers)"
        raise RuntimeError(msg)
    return _current[-1]


async def drained(timeout: float = 10.0, *, delayed: bool = False) -> None:
    """Wait until no job of the test's worker waits or runs; see ``RunningWorker.drained``."""
    await _newest("drained()").drained(timeout, delayed=delayed)


def assert_enqueued(name: str, *, data: Any = ANYTHING, queue: str | None = None) -> EnqueuedJob:
    """Return a job that was enqueued in the test; see ``RunningWorker.assert_enqueued``."""
    return _newest("assert_enqueued()").assert_enqueued(name, data=data, queue=queue)


async def _added(settings: Settings) -> list[EnqueuedJob]:
    """Read the jobs from the queues' event streams."""
    jobs: list[tuple[bytes, EnqueuedJob]] = []
    async with connected(settings) as connection:
        for queue in settings.queues:
            keys = QueueKeys(settings.prefix, queue)
            for at, flat in await connection.call(
                Purpose.STATUS, "XRANGE", keys["events"], "-", "+"
            ):
                fields = dict(pairs(flat))
                if fields.get(b"event") == b"added":
                    job_id, name = fields[b"jobId"].decode(), fields[b"name"].decode()
                    raw = await connection.call(Purpose.STATUS, "HGET", keys.job(job_id), "data")
                    data = None if raw is None else json.loads(raw)
                    jobs.append((at, EnqueuedJob(id=job_id, name=name, queue=queue, data=data)))
    return [job for _, job in sorted(jobs, key=_added_at)]


def _added_at(entry: tuple[bytes, EnqueuedJob]) -> tuple[int, ...]:
    return tuple(int(part) for part in entry[0].split(b"-"))
