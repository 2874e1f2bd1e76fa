"""Following one job to its end: its events, its result, and its end after a cancel request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from convolab_worker.bullmq import job_lock
from convolab_worker.client.events import CLOSED, GAP, JobEvent
from convolab_worker.client.job_status import JobStatus, find_job
from convolab_worker.errors import JobNotFound, JobNotRunning, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
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
) -> AsyncGenerator[JobEvent]:
    """Yield each event of the job from now on, up to its end; the end even if it is past.

    Raises JobNotFound.
    """
    session = begin()
    keys, status = await find_job(session, queues, job_id)
    inbox = await session.events.watch(keys["events"], job_id)
    try:
        end = await _end_of(session, keys, job_id)
        while end is None:
            event = await _next_event(inbox)
            if event is None:  # nothing was heard for long, or the stream could not be read
                end = await _end_of(session, keys, job_id, must_be=True)
            elif event.event == "removed":
                msg = f"job {job_id!r} was removed from {status.queue}"
                raise JobNotFound(msg)
            elif event.is_final:
                end = event
            else:
                yield event
        yield end
    finally:
        session.events.unwatch(keys["events"], job_id, inbox)


async def _end_of(
    session: Session, keys: QueueKeys, job_id: str, *, must_be: bool = False
) -> JobEvent | None:
    """Return the event that the job has ended with, None if it has not.

    A job that is gone may have been removed when it ended, with its last event still to come.
    ``must_be`` says that such an event would have been heard: then JobNotFound is raised.
    """
    try:
        _, now = await find_job(session, [keys], job_id)
    except JobNotFound:
        if must_be:
            raise
        return None
    if now.state == "completed":
        return JobEvent(job_id, "completed", now.result)
    return JobEvent(job_id, "failed", now.failed_reason or "") if now.state == "failed" else None


async def cancel(
    session: Session,
    queues: Sequence[QueueKeys],
    job_id: str,
    reason: str | None,
    *,
    wait: bool,
    timeout: float | None,
) -> str:
    """Ask for the job's end, and return how it ended; ``asked`` at once unless ``wait``.

    Raises JobNotRunning, JobNotFound, and TimeoutError after ``timeout`` seconds.
    """
    keys, _ = await find_job(session, queues, job_id)
    inbox = await session.events.watch(keys["events"], job_id)
    try:
        answer = await job_lock.ask(await session.open(), keys, job_id, reason)
        if answer != job_lock.ASKED:
            _, now = await find_job(session, [keys], job_id)
            raise JobNotRunning(_not_running(answer, now))
        if not wait:
            return answer
        async with asyncio.timeout(timeout):
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
    return f"{where} is {status.state}: only a job that is running can be cancelled"


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
