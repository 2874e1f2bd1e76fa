"""Follows a job: its events, its result, and its end by a cancel request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from convolab_worker.bullmq import job_lock
from convolab_worker.client.events import CLOSED, GAP, JobEvent
from convolab_worker.client.lookup import find_job, not_found, read_status
from convolab_worker.client.operating import actions
from convolab_worker.errors import JobNotFound, JobNotRunning, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.session import Session

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


async def watch(
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


async def cancel(
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
                raise JobNotRunning(_not_running(job_lock.IDLE, status))
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
            raise JobNotRunning(_not_running(answer, now))
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


def _not_running(answer: str, status: JobStatus) -> str:
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
