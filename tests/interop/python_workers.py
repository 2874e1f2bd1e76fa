"""Two workers with one face: bullmq's own for Python, and ours, for scenarios of both."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import bullmq

from convolab_worker import Child, FailedAttempt, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import JobNotFound, UnrecoverableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from redis.asyncio import Redis

Whose = Literal["theirs", "ours"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A job as a processor of these scenarios sees it, whoever runs it.

    ``ask`` adds jobs called "work" to a queue as its children, by their data, and does not return
    while one of them is to be run. ``cancelled`` returns when somebody has cancelled the job.
    """

    id: str
    name: str
    data: Any
    attempt: int
    progress: Callable[[Any], Awaitable[None]]
    children: Callable[[], Awaitable[dict[str, Any]]]
    update: Callable[[Any], Awaitable[None]]
    ask: Callable[[str, Sequence[Any]], Awaitable[None]]
    cancelled: Callable[[], Awaitable[None]]


class GiveUpError(Exception):
    """What a processor raises for a job that is not to be tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a worker is told: ``lock`` in seconds, ``backoff`` from the attempt to milliseconds.

    ``stalled`` is how often theirs looks for jobs of dead workers, in seconds; ours finds out when.
    ``shared`` is a client of redis-py whose server and credentials the worker uses.
    """

    concurrency: int = 1
    lock: float = 30.0
    stalled: float = 30.0
    backoff: Callable[[int], float] | None = None
    shared: Redis | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A worker that runs; ``cancel`` ends a job of it, and says whether there was one."""

    cancel: Callable[[str], Awaitable[bool]]


@asynccontextmanager
async def worker(
    whose: Whose, url: str, queue: str, process: Any, *names: str, **options: Any
) -> AsyncIterator[Running]:
    """Run ``process`` for jobs of those names on ``queue``, by either worker, with ``Options``."""
    run = _theirs if whose == "theirs" else _ours
    async with run(url, queue, process, names, Options(**options)) as running:
        yield running


@asynccontextmanager
async def _theirs(
    url: str, queue: str, process: Any, names: tuple[str, ...], options: Options
) -> AsyncIterator[Running]:
    del names  # its processor gets every job

    async def call(job: Any, token: str, signal: Any) -> Any:
        try:
            return await process(_given_by_theirs(url, job, token, signal))
        except GiveUpError as error:
            raise bullmq.UnrecoverableError(str(error)) from error

    wanted: dict[str, Any] = {
        "connection": options.shared or url, "concurrency": options.concurrency,
        "lockDuration": round(options.lock * 1000),
        "stalledInterval": round(options.stalled * 1000),
    }  # fmt: skip
    if options.backoff is not None:
        strategy = options.backoff
        wanted["settings"] = {"backoffStrategy": lambda attempt, *_: strategy(attempt)}
    theirs = bullmq.Worker(queue, call, wanted)
    theirs.on("error", lambda *_: None)

    async def cancel(job_id: str) -> bool:
        return bool(theirs.cancelJob(job_id, "not wanted"))

    try:
        yield Running(cancel)
    finally:
        await theirs.close(force=True)


def _given_by_theirs(url: str, job: Any, token: str, signal: Any) -> Given:
    async def children() -> dict[str, Any]:
        values: dict[str, Any] = await job.getChildrenValues()
        return {key.rpartition(":")[2]: value for key, value in values.items()}

    async def ask(queue: str, data: Sequence[Any]) -> None:
        parts = bullmq.Queue(queue, {"connection": url})
        parent = {"parent": {"id": job.id, "queue": job.queueQualifiedName}}
        for each in data:
            await parts.add("work", each, parent)
        await parts.close()
        if await job.moveToWaitingChildren(token, {}):
            raise bullmq.WaitingChildrenError

    async def cancelled() -> None:
        await signal.wait()

    return Given(
        id=job.id, name=job.name, data=job.data, attempt=job.attemptsMade + 1,
        progress=job.updateProgress, children=children, update=job.updateData, ask=ask,
        cancelled=cancelled,
    )  # fmt: skip


@asynccontextmanager
async def _ours(
    url: str, queue: str, process: Any, names: tuple[str, ...], options: Options
) -> AsyncIterator[Running]:
    handlers = HandlerRegistry()

    async def call(job: Job[Any]) -> Any:
        try:
            return await process(_given_by_ours(job))
        except GiveUpError as error:
            raise UnrecoverableError(str(error)) from error

    handlers.audio(*names)(call)
    if options.backoff is not None:
        strategy = options.backoff

        @handlers.backoff("custom")
        def seconds(failed: FailedAttempt) -> float:
            return strategy(failed.attempt) / 1000

    about: dict[str, Any] = {
        "queues": (queue,), "concurrency": options.concurrency, "lock_duration": options.lock
    }  # fmt: skip
    settings = (
        Settings(redis_url=url, **about)
        if options.shared is None
        else Settings.from_redis(options.shared, **about)
    )
    async with Worker(handlers, settings), JobClient(settings) as client:

        async def cancel(job_id: str) -> bool:
            try:
                await client.cancel(job_id)
            except JobNotFound:
                return False
            return True

        yield Running(cancel)


def _given_by_ours(job: Job[Any]) -> Given:
    async def progress(value: Any) -> None:
        await job.progress(value)

    async def update(data: Any) -> None:
        await job.update_data(data)

    async def ask(queue: str, data: Sequence[Any]) -> None:
        await job.enqueue_children(
            [Child("work", each, key=f"part-{at}", queue=queue) for at, each in enumerate(data)]
        )

    async def cancelled() -> None:
        await asyncio.Event().wait()  # until the call itself is cancelled

    return Given(
        id=job.id, name=job.name, data=job.data, attempt=job.attempt, progress=progress,
        children=job.children_results, update=update, ask=ask, cancelled=cancelled,
    )  # fmt: skip


async def ended(queue: bullmq.Queue, job_id: str, timeout: float = 10.0) -> Any:
    """Wait until a job has completed or failed for good, and return it as bullmq reads it."""
    async with asyncio.timeout(timeout):
        while True:
            job = await bullmq.Job.fromId(queue, job_id)
            if job is not None and job.finishedOn:
                return job
            await asyncio.sleep(0.01)  # it may be in another program: nothing is told
