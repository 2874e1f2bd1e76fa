"""Two workers with one face: bullmq's own for Python, and ours, for scenarios of both."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import bullmq

from convolab_worker import HandlerRegistry, Job, Settings, Worker
from convolab_worker.errors import UnrecoverableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Whose = Literal["theirs", "ours"]


@dataclass(frozen=True, slots=True)
class Given:
    """A job as a processor of these scenarios sees it, whoever runs it."""

    id: str
    name: str
    data: Any
    attempt: int
    progress: Callable[[Any], Awaitable[None]]
    children: Callable[[], Awaitable[dict[str, Any]]]


class GiveUpError(Exception):
    """What a processor raises for a job that is not to be tried again."""


@asynccontextmanager
async def worker(
    whose: Whose, url: str, queue: str, process: Any, *names: str, concurrency: int = 1
) -> AsyncIterator[None]:
    """Run ``process`` for jobs of those names on ``queue``, by either worker."""
    run = _theirs if whose == "theirs" else _ours
    async with run(url, queue, process, names, concurrency):
        yield


@asynccontextmanager
async def _theirs(
    url: str, queue: str, process: Any, names: tuple[str, ...], concurrency: int
) -> AsyncIterator[None]:
    del names  # its processor gets every job

    async def call(job: Any, _token: str) -> Any:
        async def children() -> dict[str, Any]:
            values: dict[str, Any] = await job.getChildrenValues()
            return {key.rpartition(":")[2]: value for key, value in values.items()}

        given = Given(
            job.id, job.name, job.data, job.attemptsMade + 1, job.updateProgress, children
        )
        try:
            return await process(given)
        except GiveUpError as error:
            raise bullmq.UnrecoverableError(str(error)) from error

    theirs = bullmq.Worker(queue, call, {"connection": url, "concurrency": concurrency})
    theirs.on("error", lambda *_: None)
    try:
        yield
    finally:
        await theirs.close(force=True)


@asynccontextmanager
async def _ours(
    url: str, queue: str, process: Any, names: tuple[str, ...], concurrency: int
) -> AsyncIterator[None]:
    handlers = HandlerRegistry()

    async def call(job: Job[Any]) -> Any:
        async def progress(value: Any) -> None:
            await job.progress(value)

        given = Given(job.id, job.name, job.data, job.attempt, progress, job.children_results)
        try:
            return await process(given)
        except GiveUpError as error:
            raise UnrecoverableError(str(error)) from error

    handlers.audio(*names)(call)
    settings = Settings(redis_url=url, queues=(queue,), concurrency=concurrency)
    async with Worker(handlers, settings):
        yield


async def ended(queue: bullmq.Queue, job_id: str, timeout: float = 10.0) -> Any:
    """Wait until a job has completed or failed for good, and return it as bullmq reads it."""
    async with asyncio.timeout(timeout):
        while True:
            job = await bullmq.Job.fromId(queue, job_id)
            if job is not None and job.finishedOn:
                return job
            await asyncio.sleep(0.01)  # it may be in another program: nothing is told
