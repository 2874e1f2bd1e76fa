"""JobClient: adds jobs for an API service, follows them, and cancels them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from convolab_worker._logs import Log
from convolab_worker.bullmq.protocol.keywords import check_command_size
from convolab_worker.client.adding import enqueue
from convolab_worker.client.adding.transactions import after_commit
from convolab_worker.client.following import Following
from convolab_worker.client.operating.schedules import Schedules
from convolab_worker.errors import ConvolabWorkerError, ReplyLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from convolab_worker.bullmq.jobs.job_id import JobId
    from convolab_worker.bullmq.jobs.job_type import JobType
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.keyword_types import EnqueueOptions
    from convolab_worker.client.adding.enqueue import Addition
    from convolab_worker.client.session import Session
    from convolab_worker.handlers.job.sync_job import AsyncHandler, PlainHandler

P = TypeVar("P")
R = TypeVar("R")

_log = Log()


class JobClient(Following, Schedules):
    """Adds jobs to the settings' queues and reads what became of them.

    A client connects when it is first used; close it, or use it with ``async with``. Every method
    raises RedisUnavailable when Redis can't be reached, or when the client is closed meanwhile.
    With a thousand commands unanswered, or 8 MiB of them, further calls wait for their turn.
    Raises ConfigurationError for options that can't be.
    """

    @overload
    async def enqueue(
        self, job_type: JobType[P, R], data: P, /, **options: Unpack[EnqueueOptions]
    ) -> JobId[R]: ...

    @overload
    async def enqueue(
        self, handler: AsyncHandler[P, R], data: P, /, **options: Unpack[EnqueueOptions]
    ) -> JobId[R]: ...

    @overload
    async def enqueue(
        self, handler: PlainHandler[P, R], data: P, /, **options: Unpack[EnqueueOptions]
    ) -> JobId[R]: ...

    @overload
    async def enqueue(
        self, name: str, data: Any = None, **options: Unpack[EnqueueOptions]
    ) -> JobId: ...

    async def enqueue(
        self, name: Any, data: Any = None, **options: Unpack[EnqueueOptions]
    ) -> JobId[Any]:
        """Add a job and return its id at once; the worker service is woken in the background.

        ``name`` may be a JobType, or a registered handler: then the job's name, queue and options
        are its own where they are not given here, ``data`` is checked before anything is sent, and
        ``result`` of the id gives what the handler returns.

        ``queue`` is the settings' first by default. ``job_id`` makes adding idempotent: a job of
        that id that is there already is not added again, and ``existed`` and ``state`` of the id
        that is returned say so; without it the job gets one that no queue has. The other
        ``options`` are those of JobOptions: ``delay``, ``priority``, ``attempts``, ``backoff``,
        ``keep_completed``, ``keep_failed``, ``lifo``, ``deduplication``, ``keep_logs``,
        ``stack_trace_limit`` and ``size_limit``. Raises ConfigurationError for options that can't
        be, InvalidPayload for data that the handler would refuse, and InvalidResult if ``data`` is
        not JSON.

        With ``on_commit=True`` the job is checked at once, and added when the surrounding
        transaction of Django or SQLAlchemy commits; not at all if that rolls back. ``on_commit``
        may be a session of SQLAlchemy, too. If the job can't be added then, a log line says so
        (``enqueue.lost``).
        """
        on_commit = options.pop("on_commit", None)
        new = self._addition(name, data, options)
        if on_commit and self._follows_commit(on_commit, [new.carrying(self._tracing.carried())]):
            return new.job_id_to_be()
        session = self._current_session()
        with self._tracing.adding(new.keys.queue, new.job.name) as carried:
            return await self._add(session, new.carrying(carried) if carried else new)

    def _addition(
        self,
        name: Any,
        data: Any,
        options: Mapping[str, Any],
        keys_of: Callable[[str | None], QueueKeys] | None = None,
    ) -> Addition:
        """Return the job of these arguments of ``enqueue``. ``keys_of`` gives its queue's keys."""
        new = enqueue.addition(name, data, options, keys_of or self._keys_of)
        check_command_size(new.job.name, new.job.data, self.settings.max_command_size)
        return new

    async def _add(self, session: Session, new: Addition, **tried: Any) -> JobId[Any]:
        """Add a job and wake the service."""
        try:
            added = await enqueue.add(session, new, **tried)
        except (ReplyLost, asyncio.CancelledError):  # the job may be there all the same
            self._wake(session, {new.delay})
            raise
        if self._waker is not None:
            self._wake(session, {new.delay})
        return added

    @overload
    async def enqueue_many(
        self, job_type: JobType[P, R], data: Iterable[P], /, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[R]]: ...

    @overload
    async def enqueue_many(
        self, handler: AsyncHandler[P, R], data: Iterable[P], /, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[R]]: ...

    @overload
    async def enqueue_many(
        self, handler: PlainHandler[P, R], data: Iterable[P], /, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[R]]: ...

    @overload
    async def enqueue_many(
        self,
        jobs: Iterable[Mapping[str, Any]],
        *,
        queue: str | None = None,
        on_commit: Any = None,
    ) -> list[JobId]: ...

    async def enqueue_many(
        self, jobs: Any, data: Iterable[Any] | None = None, **options: Unpack[EnqueueOptions]
    ) -> list[JobId[Any]]:
        """Add jobs, many in a round trip, and return their ids in the same order.

        They are given as a JobType or a handler and the data of each, with the options of all; or
        as mappings of ``enqueue``'s keywords, ``name`` at least, which may be a JobType or a
        handler. Then ``queue`` is for those that name none. All are checked before the first is
        sent. Each job is added whole, but the list is not a transaction: when RedisUnavailable is
        raised, the first ones may be there. The same call again then adds the rest, if each job
        has a ``job_id``. ``on_commit`` is as for ``enqueue``.
        """
        on_commit = options.pop("on_commit", None)
        session = self._current_session()  # the session of now: the client may be closed meanwhile
        additions = await self._additions(jobs, data, options)
        if on_commit and self._follows_commit(on_commit, additions):
            return [new.job_id_to_be() for new in additions]
        return await self._add_many(session, additions)

    async def _additions(
        self, jobs: Any, data: Iterable[Any] | None, options: Mapping[str, Any]
    ) -> list[Addition]:
        """Return the jobs of these arguments of ``enqueue_many``. Raises ConfigurationError."""
        queue = options.get("queue")
        if data is not None:
            jobs = [{"name": jobs, "data": part, **options} for part in data]

        def keys_of(own: str | None) -> QueueKeys:
            return self._keys_of(queue if own is None else own)

        additions = await enqueue.additions(jobs, partial(self._addition, keys_of=keys_of))
        carried = self._tracing.carried()
        return [new.carrying(carried) for new in additions]

    async def _add_many(self, session: Session, additions: list[Addition]) -> list[JobId[Any]]:
        delays: set[float | None] = set()  # delays of the jobs that may be there

        def note(sent: list[Addition]) -> None:
            if self._waker is not None:
                delays.update(new.delay for new in sent)

        try:
            return await enqueue.add_many(session, additions, on_send=note)
        finally:
            self._wake(session, delays)

    def _follows_commit(self, surrounding: Any, jobs: list[Addition]) -> bool:
        """Have the jobs added when a transaction commits; False if there is none."""
        loop = asyncio.get_running_loop()

        def begin() -> None:
            task = loop.create_task(self._add_after_commit(jobs), name="convolab-after-commit")
            self._after_commits.add(task)
            task.add_done_callback(self._after_commits.discard)

        def on_commit() -> None:
            if _is_running(loop):
                begin()
            else:
                loop.call_soon_threadsafe(begin)

        return after_commit(surrounding, on_commit)

    async def _add_after_commit(self, jobs: list[Addition]) -> None:
        try:
            await self._add_many(self._current_session(), jobs)
        except ConvolabWorkerError as error:  # nobody awaits this task
            ids = [new.job.id for new in jobs]
            _log.error("enqueue.lost", job_ids=ids, name=jobs[0].job.name, reason=str(error))


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether that is the event loop that runs in this thread."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
