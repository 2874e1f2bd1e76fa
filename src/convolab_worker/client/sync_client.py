"""SyncJobClient: JobClient for threads, in which calls block.

A JobClient runs in the event loop of a background thread, and every call here runs one of its
coroutines there. Two changes of threads take longer than Redis does, so ``enqueue`` first tries a
plain socket of the calling thread's own; whatever does not work that way goes through the loop.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - see _at_exit
import functools
import os
import threading
import weakref
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.backend import now_ms
from convolab_worker.bullmq.protocol.client_calls import add_job
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.client import enqueue
from convolab_worker.client.actions import BATCH
from convolab_worker.client.client import JobClient
from convolab_worker.client.job_status import JobStatus
from convolab_worker.client.loop_thread import LoopThread
from convolab_worker.connection.blocking import BlockingConnection, BlockingPool, open_blocking
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import ReplyLost

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from convolab_worker.bullmq.job_id import JobId
    from convolab_worker.bullmq.job_type import JobType
    from convolab_worker.bullmq.protocol.keywords import EnqueueOptions
    from convolab_worker.client.enqueue import Addition
    from convolab_worker.client.events import JobEvent
    from convolab_worker.handlers.job import Job
    from convolab_worker.settings import Settings

P = TypeVar("P")
R = TypeVar("R")
Args = ParamSpec("Args")
Function = TypeVar("Function", bound="Callable[..., Any]")

_ORDINARY_CALLS = 3  # a program that adds a job and ends needs no second connection
_AT_ONCE = 100  # jobs that are listed come in pages anyway


class _Client(JobClient):
    """What a SyncJobClient needs of the JobClient in its thread."""

    def prepared(self, name: Any, data: Any, options: Mapping[str, Any]) -> Addition:
        return self._addition(name, data, options)

    def adding(self, new: Addition) -> AbstractContextManager[dict[str, Any]]:
        return self._tracing.adding(new.keys.queue, new.job.name)

    async def add_prepared(self, new: Addition, **tried: Any) -> JobId[Any]:
        return await self._add(self._current_session(), new, **tried)

    async def open_blocking(self) -> BlockingConnection | None:
        timeout = self.settings.command_timeout
        return await open_blocking(self._route, timeout=timeout, counter=self.counter)

    async def after_adding(self, new: Addition, added: JobId[Any]) -> JobId[Any]:
        session = self._current_session()
        if added.existed:
            await enqueue.read_state(session, new, added)
        self.wake_for(new)
        return added

    def wake_for(self, new: Addition) -> None:
        self._wake(self._current_session(), {new.job.opts.get("delay", 0) / 1000 or None})

    @property
    def is_waking(self) -> bool:
        return self._waker is not None


class _Running:
    """What a process has open: a thread with a client in its loop, and plain connections."""

    def __init__(self, settings: Settings) -> None:
        self.thread = LoopThread()
        self.client = _Client(settings)
        self.pool = BlockingPool(
            lambda: self.thread.run(self.client.open_blocking()), self.client.counter
        )
        self._calls = 0

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return self.thread.run(coroutine)

    def add(self, name: Any, data: Any, options: Mapping[str, Any]) -> JobId[Any]:
        client = self.client
        new = client.prepared(name, data, options)
        with client.adding(new) as carried:
            new = new.carrying(carried)
            at, again = now_ms(), False
            try:
                added = self._add_quickly(new, at)
            except ReplyLost:  # it may be there; the ordinary way adds it or says why not
                added, again = None, True
            if added is None:
                return self.run(client.add_prepared(new, at_ms=at, again=again))
        if added.existed:
            return self.run(client.after_adding(new, added))
        if client.is_waking:
            self.thread.post(lambda: client.wake_for(new))
        return added

    def _add_quickly(self, new: Addition, at: int) -> JobId[Any] | None:
        self._calls += 1
        if self._calls <= _ORDINARY_CALLS:
            return None
        call = add_job(new.keys, new.job, at)
        sha = script(call.script).sha
        answer = self.pool.call(
            Purpose.ENQUEUE, "EVALSHA", sha, len(call.keys), *call.keys, *call.args,
            inner=call.inner,
        )  # fmt: skip
        return (
            None if answer is None else new.job_id(producer.read_added(new.keys, new.job, answer))
        )

    def close(self) -> None:
        try:
            self.thread.run(self.client.close())
        finally:
            self.pool.close()
            self.thread.stop()


class _Held:
    """The running part of one SyncJobClient, made when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: _Running | None = None
        self._lock = threading.Lock()
        _held.add(self)

    def current(self) -> _Running:
        running = self._running
        if running is not None:
            return running
        with self._lock:
            if self._running is None:
                self._running = _Running(self._settings)
            return self._running

    def close(self) -> None:
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.close()

    def forget(self) -> None:
        """Leave the parent process what is the parent's: its thread is not in this process."""
        if self._running is not None:
            self._running.pool.close()
            _of_parents.append(self._running)  # whose sockets are not to be closed by a collection
        self._running, self._lock = None, threading.Lock()


_held: weakref.WeakSet[_Held] = weakref.WeakSet()
_of_parents: list[_Running] = []


def _at_exit() -> None:
    for held in list(_held):
        held.close()


# Not atexit, whose functions run when no thread can look up the host of a wake any more. This is
# how concurrent.futures ends its own threads, which it does after what was registered later.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)


def _after_fork() -> None:
    for held in list(_held):
        held.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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

    def call(self: SyncJobClient, /, *args: Args.args, **kwargs: Args.kwargs) -> R:
        running = self._current()
        return running.run(method(running.client, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def _blocking_on_jobs(
    method: Callable[Concatenate[JobClient, Any, Args], Coroutine[Any, Any, int]],
) -> Callable[Concatenate[SyncJobClient, SyncJobs, Args], int]:
    """Do the same for what acts on jobs, which may come from an iterator of this thread's."""

    def call(
        self: SyncJobClient, jobs: SyncJobs, /, *args: Args.args, **kwargs: Args.kwargs
    ) -> int:
        running = self._current()
        if isinstance(jobs, str | JobStatus):
            return running.run(method(running.client, jobs, *args, **kwargs))
        left, done = iter(jobs), 0
        while batch := list(islice(left, BATCH)):
            done += running.run(method(running.client, batch, *args, **kwargs))
        return done

    functools.update_wrapper(call, method)
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
        self._held = _Held(self.settings)
        weakref.finalize(self, self._held.close).atexit = False  # _at_exit does it, in time

    status = _blocking(JobClient.status)
    cancel = _blocking(JobClient.cancel)
    counts = _blocking(JobClient.counts)
    wake_heard = _blocking(JobClient.wake_heard)
    logs = _blocking(JobClient.logs)
    pause = _blocking(JobClient.pause)
    resume = _blocking(JobClient.resume)
    clean = _blocking(JobClient.clean)
    queues = _blocking(JobClient.queues)
    remove = _blocking_on_jobs(JobClient.remove)
    promote = _blocking_on_jobs(JobClient.promote)
    retry = _blocking_on_jobs(JobClient.retry)

    @overload
    def enqueue(
        self, job_type: JobType[P, R], data: P, /, **options: Unpack[EnqueueOptions]
    ) -> JobId[R]: ...

    @overload
    def enqueue(
        self,
        handler: Callable[[Job[P, Any]], Coroutine[Any, Any, R]],
        data: P,
        /,
        **options: Unpack[EnqueueOptions],
    ) -> JobId[R]: ...

    @overload
    def enqueue(
        self,
        handler: Callable[[Job[P, Any]], R],
        data: P,
        /,
        **options: Unpack[EnqueueOptions],
    ) -> JobId[R]: ...

    @overload
    def enqueue(self, name: str, data: Any = None, **options: Unpack[EnqueueOptions]) -> JobId: ...

    @_documented_as(JobClient.enqueue)
    def enqueue(self, name: Any, data: Any = None, **options: Unpack[EnqueueOptions]) -> JobId[Any]:
        return self._current().add(name, data, options)

    @overload
    def enqueue_many(
        self, job_type: JobType[P, R], data: Iterable[P], /, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[R]]: ...

    @overload
    def enqueue_many(
        self,
        handler: Callable[[Job[P, Any]], Coroutine[Any, Any, R]],
        data: Iterable[P],
        /,
        **options: Unpack[EnqueueOptions],
    ) -> list[JobId[R]]: ...

    @overload
    def enqueue_many(
        self,
        handler: Callable[[Job[P, Any]], R],
        data: Iterable[P],
        /,
        **options: Unpack[EnqueueOptions],
    ) -> list[JobId[R]]: ...

    @overload
    def enqueue_many(
        self, jobs: Iterable[Mapping[str, Any]], *, queue: str | None = None
    ) -> list[JobId]: ...

    @_documented_as(JobClient.enqueue_many)
    def enqueue_many(
        self, jobs: Any, data: Iterable[Any] | None = None, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[Any]]:
        running = self._current()
        if data is not None:
            return running.run(running.client.enqueue_many(jobs, list(data), **options))
        queue = options.get("queue")
        return running.run(running.client.enqueue_many(list(jobs), queue=queue))

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

    @_documented_as(JobClient.watch)
    def watch(self, job_id: str, queue: str | None = None) -> Generator[JobEvent, None, None]:
        return self._iterated(lambda client: client.watch(job_id, queue), at_once=1)

    @_documented_as(JobClient.jobs)
    def jobs(
        self,
        state: str | Sequence[str] | None = None,
        *,
        queue: str | None = None,
        name: str | Sequence[str] | None = None,
        limit: int | None = None,
        older_than: float | None = None,
        newer_than: float | None = None,
        reason: str | None = None,
        oldest_first: bool = False,
    ) -> Generator[JobStatus, None, None]:
        return self._iterated(
            lambda client: client.jobs(
                state,
                queue=queue,
                name=name,
                limit=limit,
                older_than=older_than,
                newer_than=newer_than,
                reason=reason,
                oldest_first=oldest_first,
            ),
            at_once=_AT_ONCE,
        )

    def close(self) -> None:
        """Close the connections, and send a wake that was not sent, for a second at most.

        Calls that are under way raise RedisUnavailable. A later call connects again.
        """
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _current(self) -> _Running:
        return self._held.current()

    def _iterated(
        self, begin: Callable[[JobClient], AsyncGenerator[R, None]], *, at_once: int
    ) -> Generator[R, None, None]:
        running = self._current()
        stream = begin(running.client)
        try:
            while True:
                found, is_over = running.run(_next(stream, at_once))
                yield from found
                if is_over:
                    return
        finally:
            if running is self._current():
                running.run(stream.aclose())


async def _next(stream: AsyncGenerator[R, None], count: int) -> tuple[list[R], bool]:
    """Return the next of what comes, up to ``count``, and whether that was the end."""
    found: list[R] = []
    async for each in stream:
        found.append(each)
        if len(found) == count:
            return found, False
    return found, True
