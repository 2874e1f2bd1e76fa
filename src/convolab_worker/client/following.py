"""Follows a job: its events, its result, and its end by a cancel request."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar, overload

from convolab_worker.bullmq import job_lock
from convolab_worker.bullmq.jobs.job_id import JobId
from convolab_worker.client.events import CLOSED, GAP, JobEvent
from convolab_worker.client.lookup import find_job, not_found, read_status
from convolab_worker.client.operating import actions
from convolab_worker.client.operating.operations import Operations
from convolab_worker.errors import (
    ConfigurationError,
    JobFailed,
    JobNotFound,
    JobNotRunning,
    RedisUnavailable,
)
from convolab_worker.payloads.problems import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.session import Session

R = TypeVar("R")

# An event may be trimmed from its stream before it is read: then the job itself is looked at.
_LOOK_AGAIN_SECONDS = 15.0
# How a cancelled job ends, by the event or the state that shows it.
_ENDS = {
    "completed": "completed",
    "failed": "failed",
    "waiting": "returned",
    "prioritized": "returned",
    "delayed": "returned",
}


async def _events_until_end(
    begin: Callable[[], Session], queues: Sequence[QueueKeys], job_id: str
) -> AsyncGenerator[JobEvent, None]:
    """See ``JobClient.watch``."""
    session = begin()
    keys, status, inbox = await _found(session, queues, job_id)
    try:
        end = _end_of(status)
        if end is None:
            session.events.listen()
        while end is None:
            event = await _next_event(inbox)
            if event is None:  # nothing was heard for long, or the stream could not be read
                _, status = await find_job(session, [keys], job_id)
                end = _end_of(status)
            elif event.event == "removed":
                msg = f"job {job_id!r} was removed from {keys.queue}"
                raise JobNotFound(msg)
            elif event.is_final:
                end = event
            else:
                yield event
        yield end
    finally:
        session.events.unwatch(keys["events"], job_id, inbox)


async def _found(
    session: Session, queues: Sequence[QueueKeys], job_id: str
) -> tuple[QueueKeys, JobStatus, asyncio.Queue[JobEvent]]:
    """Listen, then look: return the job and its events, so that its end can't be missed."""
    await session.open()
    for keys in queues:
        inbox = await session.events.watch(keys["events"], job_id)
        status = None
        try:
            status = await read_status(session, keys, job_id)
        finally:
            if status is None:
                session.events.unwatch(keys["events"], job_id, inbox)
        if status is not None:
            return keys, status, inbox
    raise not_found(queues, job_id)


def _end_of(status: JobStatus) -> JobEvent | None:
    """Return the event that the job has ended with, None if it has not."""
    if status.state == "completed":
        return JobEvent(status.id, "completed", status.result)
    if status.state == "failed":
        return JobEvent(status.id, "failed", status.failed_reason or "")
    return None


async def _end_of_cancelled(
    session: Session,
    queues: Sequence[QueueKeys],
    job_id: str,
    reason: str | None,
    *,
    wait: bool,
    timeout: float | None,
) -> str:
    """See ``JobClient.cancel``."""
    async with asyncio.timeout(timeout):
        while True:
            keys, status = await find_job(session, queues, job_id)
            if status.state == "active":
                ended = await _cancel_running(session, keys, job_id, reason, wait=wait)
            elif reason is None or status.state not in actions.UNSTARTED:
                raise JobNotRunning(not_running(job_lock.IDLE, status))
            else:
                connection = await session.open()
                ended = await actions.remove_unstarted(connection, keys, status)
            if ended is not None:  # otherwise it has started, or ended, in the meantime
                return ended


async def _cancel_running(
    session: Session, keys: QueueKeys, job_id: str, reason: str | None, *, wait: bool
) -> str | None:
    """Ask for the job's end and wait for it; None if the job is not active any more."""
    inbox = await session.events.watch(keys["events"], job_id)
    try:
        answer = await job_lock.ask(await session.open(), keys, job_id, reason)
        if answer != job_lock.ASKED:
            _, now = await find_job(session, [keys], job_id)
            if answer == job_lock.IDLE and now.state != "active":
                return None
            raise JobNotRunning(not_running(answer, now))
        if not wait:
            return answer
        session.events.listen()
        while True:
            event = await _next_event(inbox)
            state = event.event if event else (await find_job(session, [keys], job_id))[1].state
            if state in _ENDS:
                return _ENDS[state]
    finally:
        session.events.unwatch(keys["events"], job_id, inbox)


def check_reason(reason: str | None) -> None:
    """Raises ConfigurationError for a reason of a cancel request that says nothing."""
    if reason is not None and not reason.strip():
        msg = f"reason={reason!r}: expected some text, or None to return the job"
        raise ConfigurationError(msg)


def not_running(answer: str, status: JobStatus) -> str:
    """Return why a job can't be cancelled, by what its lock has answered."""
    where = f"job {status.id!r} on {status.queue}"
    if answer == job_lock.FOREIGN:
        return f"{where} is run by a worker that is not of this library"
    if status.state == "active":
        return f"{where} has lost its worker: it runs again soon, on another one"
    if status.state in actions.UNSTARTED:
        return f"{where} is {status.state}: only a job that is running can be returned"
    return f"{where} is {status.state}: it has ended already"


async def _next_event(inbox: asyncio.Queue[JobEvent]) -> JobEvent | None:
    """Return the job's next event; None if its stream had a gap, or was silent for long.

    Raises RedisUnavailable if the client is closed.
    """
    try:
        async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
            event = await inbox.get()
    except TimeoutError:
        return None
    if event.event == CLOSED:
        msg = f"the client was closed while job {event.job_id!r} was watched"
        raise RedisUnavailable(msg)
    return None if event.event == GAP else event


def typed_result(job_id: str, result: Any) -> Any:
    """Return the result in the type that the job's declaration gives it, if that is known."""
    job_type = job_id.job_type if isinstance(job_id, JobId) else None
    return result if job_type is None else job_type.decode_result(json.dumps(result).encode())


class Following(Operations):
    """The methods of ``JobClient`` that follow one job: its state, its events and its end."""

    async def status(self, job_id: str, queue: str | None = None) -> JobStatus:
        """Return the job as it is now, from ``queue`` or the settings' queue that has it.

        Raises JobNotFound.
        """
        _, status = await find_job(self._current_session(), self._queues(queue, job_id), job_id)
        return status

    @overload
    async def result(self, job_id: JobId[R], timeout: float | None = None) -> R: ...

    @overload
    async def result(
        self, job_id: str, timeout: float | None = None, queue: str | None = None
    ) -> Any: ...

    async def result(
        self, job_id: str, timeout: float | None = None, queue: str | None = None
    ) -> Any:
        """Wait until the job has ended, and return its result.

        That of a JobId whose job type is known has the type that was declared, or that the handler
        is annotated with; ``JOB_TYPE.job_id(text)`` makes one of text. Raises JobFailed with its
        reason, JobNotFound, TimeoutError after ``timeout`` seconds, and InvalidResult for a result
        that does not fit its type.
        """
        async with (
            asyncio.timeout(timeout),
            aclosing(self.watch(job_id, queue)) as events,
        ):
            async for event in events:
                if event.event == "completed":
                    return typed_result(job_id, event.data)
                if event.event == "failed":
                    raise JobFailed(job_id, event.data)
        raise JobNotFound(job_id)  # pragma: no cover - watch ends with a final event

    def watch(self, job_id: str, queue: str | None = None) -> AsyncGenerator[JobEvent, None]:
        """Iterate over the job's events from now on. The last is its end, even if that is past.

        Raises JobNotFound.
        """
        return _events_until_end(self._current_session, self._queues(queue, job_id), job_id)

    async def cancel(
        self,
        job_id: str,
        *,
        reason: str | None = "cancelled",
        queue: str | None = None,
        timeout: float | None = None,
        wait: bool = True,
    ) -> str:
        """End a job wherever it is; wait for its end, and return how it ended.

        A job that runs, in whichever process: its ``cancelled`` is set and its handler is
        cancelled. The job then fails for good with ``reason``; if that is None, it returns to the
        head of its queue, with the same number of attempts left. A worker with a free slot learns
        of it at once; one without a free slot learns of it when it renews the lock, half of the
        lock's duration later at most. A job that no worker has yet, or that waits for its next
        attempt or for its children, is removed, with its children; not if ``reason`` is None.

        Returns ``removed``, ``failed`` or ``returned``, ``completed`` if the handler returned all
        the same, and ``asked`` at once if ``wait`` is False. Raises JobNotRunning if the job has
        ended or no worker of this library runs it, WrongState if it can't be removed (one of its
        children runs, or a job scheduler has it next), JobNotFound, and TimeoutError after
        ``timeout`` seconds (the request stays).
        """
        check_reason(reason)
        return await _end_of_cancelled(
            self._current_session(),
            self._queues(queue, job_id),
            job_id,
            reason and printable(reason),
            wait=wait,
            timeout=timeout,
        )
