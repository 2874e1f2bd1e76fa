"""SyncJobClient: JobClient for threads, in which calls block.

A JobClient runs in the event loop of a background thread, and every call here runs one of its
coroutines there. Two changes of threads take longer than Redis does, so ``enqueue`` first tries a
plain socket of the calling thread's own; whatever does not work that way goes through the loop.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from convolab_worker.client.client import JobClient
from convolab_worker.client.job_status import JobStatus
from convolab_worker.client.operating.actions import BATCH
from convolab_worker.client.sync.sync_session import Held

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping

    from convolab_worker.bullmq.jobs.job_id import JobId
    from convolab_worker.bullmq.jobs.job_type import JobType
    from convolab_worker.bullmq.protocol.keyword_types import EnqueueOptions
    from convolab_worker.bullmq.protocol.schedules import ScheduleOptions
    from convolab_worker.client.sync.sync_session import Running
    from convolab_worker.handlers.job.sync_job import AsyncHandler, PlainHandler
    from convolab_worker.settings import Settings

P = TypeVar("P")
R = TypeVar("R")
Args = ParamSpec("Args")
Function = TypeVar("Function", bound="Callable[..., Any]")

_AT_ONCE = 100  # jobs that are listed come in pages anyway


def _documented_as(method: Callable[..., Any]) -> Callable[[Function], Function]:
    """Let a method have the docs of one of JobClient's."""

    def document(function: Function) -> Function:
        function.__doc__ = method.__doc__
        return function

    return document


def _blocking(
    method: Callable[Concatenate[JobClient, Args], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncJobClient, Args], R]:
    """Return a method of JobClient as one that waits for its result."""
    name = method.__name__

    def call(self: SyncJobClient, /, *args: Args.args, **kwargs: Args.kwargs) -> R:
        running = self._current()
        coroutine: Coroutine[Any, Any, R] = getattr(running.client, name)(*args, **kwargs)
        return running.run(coroutine)

    functools.update_wrapper(call, method)
    return call


def _blocking_on_jobs(
    method: Callable[Concatenate[JobClient, Any, Args], Coroutine[Any, Any, int]],
) -> Callable[Concatenate[SyncJobClient, SyncJobs, Args], int]:
    """Do the same for what acts on jobs, which may come from an iterator of this thread's."""
    name = method.__name__

    def call(
        self: SyncJobClient, jobs: SyncJobs, /, *args: Args.args, **kwargs: Args.kwargs
    ) -> int:
        running = self._current()
        act: Callable[..., Coroutine[Any, Any, int]] = getattr(running.client, name)
        if isinstance(jobs, str | JobStatus):
            return running.run(act(jobs, *args, **kwargs))
        left, done = iter(jobs), 0
        while batch := list(islice(left, BATCH)):
            done += running.run(act(batch, *args, **kwargs))
        return done

    functools.update_wrapper(call, method)
    return call


def _iterating(
    method: Callable[Concatenate[JobClient, Args], AsyncGenerator[R, None]],
    returns: str,
    *,
    at_once: int,
) -> Callable[Concatenate[SyncJobClient, Args], Generator[R, None, None]]:
    """Do the same for what iterates: ``at_once`` are waited for together.

    ``returns`` is what ``help()`` says of it.
    """
    name = method.__name__

    def call(
        self: SyncJobClient, /, *args: Args.args, **kwargs: Args.kwargs
    ) -> Generator[R, None, None]:
        running = self._current()
        stream: AsyncGenerator[R, None] = getattr(running.client, name)(*args, **kwargs)
        try:
            while True:
                found, is_over = running.run(_next(stream, at_once))
                yield from found
                if is_over:
                    return
        finally:
            if running is self._current():
                running.run(stream.aclose())

    documented: Any = functools.update_wrapper(call, method)
    documented.__signature__ = inspect.signature(method).replace(return_annotation=returns)
    return call


SyncJobs = str | JobStatus | Iterable[str | JobStatus]


class SyncJobClient:
    """JobClient for everything that is not asyncio; its methods are the same, and block.

    One object serves any number of threads, also those of event loops, and every process that is
    forked from the one that made it. It connects when it is first used; it is closed by ``close``,
    by ``with``, or at the process's exit. Raises what JobClient raises.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self.settings = JobClient(settings, **overrides).settings
        self._held = Held(self.settings)
        weakref.finalize(self, self._held.close)  # at the exit too, when no thread goes on

    status = _blocking(JobClient.status)
    cancel = _blocking(JobClient.cancel)
    counts = _blocking(JobClient.counts)
    demand = _blocking(JobClient.demand)
    wake_heard = _blocking(JobClient.wake_heard)
    logs = _blocking(JobClient.logs)
    pause = _blocking(JobClient.pause)
    resume = _blocking(JobClient.resume)
    clean = _blocking(JobClient.clean)
    queues = _blocking(JobClient.queues)
    unschedule = _blocking(JobClient.unschedule)
    schedules = _blocking(JobClient.schedules)
    remove = _blocking_on_jobs(JobClient.remove)
    promote = _blocking_on_jobs(JobClient.promote)
    retry = _blocking_on_jobs(JobClient.retry)
    jobs = _iterating(JobClient.jobs, "Generator[JobStatus, None, None]", at_once=_AT_ONCE)
    watch = _iterating(JobClient.watch, "Generator[JobEvent, None, None]", at_once=1)

    @overload
    def enqueue(
        self, job_type: JobType[P, R], data: P, /, **options: Unpack[EnqueueOptions]
    ) -> JobId[R]: ...

    @overload
    def enqueue(
        self, handler: AsyncHandler[P, R], data: P, /, **options: Unpack[EnqueueOptions]
    ) -> JobId[R]: ...

    @overload
    def enqueue(
        self, handler: PlainHandler[P, R], data: P, /, **options: Unpack[EnqueueOptions]
    ) -> JobId[R]: ...

    @overload
    def enqueue(self, name: str, data: Any = None, **options: Unpack[EnqueueOptions]) -> JobId: ...

    @_documented_as(JobClient.enqueue)
    def enqueue(self, name: Any, data: Any = None, **options: Unpack[EnqueueOptions]) -> JobId[Any]:
        return self._current().add(name, data, {**options})

    @overload
    def enqueue_many(
        self, job_type: JobType[P, R], data: Iterable[P], /, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[R]]: ...

    @overload
    def enqueue_many(
        self, handler: AsyncHandler[P, R], data: Iterable[P], /, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[R]]: ...

    @overload
    def enqueue_many(
        self, handler: PlainHandler[P, R], data: Iterable[P], /, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[R]]: ...

    @overload
    def enqueue_many(
        self,
        jobs: Iterable[Mapping[str, Any]],
        *,
        queue: str | None = None,
        on_commit: Any = None,
    ) -> list[JobId]: ...

    @_documented_as(JobClient.enqueue_many)
    def enqueue_many(
        self, jobs: Any, data: Iterable[Any] | None = None, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[Any]]:
        listed = None if data is None else list(data)
        given = jobs if listed is not None else list(jobs)  # iterated over in this thread
        return self._current().add_many(given, listed, {**options})

    @overload
    def schedule(
        self,
        schedule_id: str,
        job_type: JobType[P, R],
        data: P,
        /,
        **options: Unpack[ScheduleOptions],
    ) -> JobId[R]: ...

    @overload
    def schedule(
        self,
        schedule_id: str,
        handler: AsyncHandler[P, R],
        data: P,
        /,
        **options: Unpack[ScheduleOptions],
    ) -> JobId[R]: ...

    @overload
    def schedule(
        self,
        schedule_id: str,
        handler: PlainHandler[P, R],
        data: P,
        /,
        **options: Unpack[ScheduleOptions],
    ) -> JobId[R]: ...

    @overload
    def schedule(
        self, schedule_id: str, name: str, data: Any = None, **options: Unpack[ScheduleOptions]
    ) -> JobId: ...

    @_documented_as(JobClient.schedule)
    def schedule(
        self, schedule_id: str, name: Any, data: Any = None, **options: Unpack[ScheduleOptions]
    ) -> JobId[Any]:
        running = self._current()
        return running.run(running.client.schedule(schedule_id, name, data, **options))

    @overload
    def result(self, job_id: JobId[R], timeout: float | None = None) -> R: ...

    @overload
    def result(
        self, job_id: str, timeout: float | None = None, queue: str | None = None
    ) -> Any: ...

    @_documented_as(JobClient.result)
    def result(self, job_id: str, timeout: float | None = None, queue: str | None = None) -> Any:
        running = self._current()
        return running.run(running.client.result(job_id, timeout, queue))

    def close(self) -> None:
        """Close the connections, and send a wake that was not sent, for a second at most.

        Calls that are under way raise RedisUnavailable. A later call connects again.
        """
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _current(self) -> Running:
        return self._held.current()


async def _next(stream: AsyncGenerator[R, None], count: int) -> tuple[list[R], bool]:
    """Return the next of what comes, up to ``count``, and whether that was the end."""
    found: list[R] = []
    async for each in stream:
        found.append(each)
        if len(found) == count:
            return found, False
    return found, True
