"""A job as it is now, and followed: its events, its result, its end by a cancel request."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq import job_lock
from convolab_worker.bullmq.protocol.calls import state_of
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.client.events import CLOSED, GAP, JobEvent
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import JobNotFound, JobNotRunning, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.client.session import Session
    from convolab_worker.connection.connection import Connection

_COMMANDS = 2  # that reading a job takes


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as it is now. ``timestamp``, ``processed_on`` and ``finished_on`` are epoch seconds."""

    id: str
    queue: str
    name: str
    state: str
    data: Any
    progress: Any
    result: Any
    failed_reason: str | None
    attempts_made: int
    timestamp: float | None
    processed_on: float | None
    finished_on: float | None


async def find_job(
    session: Session, queues: Sequence[QueueKeys], job_id: str
) -> tuple[QueueKeys, JobStatus]:
    """Return the job, from the first of the queues that has it. Raises JobNotFound."""
    for keys in queues:
        status = await read_status(session, keys, job_id)
        if status is not None:
            return keys, status
    raise not_found(queues, job_id)


def not_found(queues: Sequence[QueueKeys], job_id: str) -> JobNotFound:
    """Return the error for a job that none of the queues has."""
    where = ", ".join(keys.queue for keys in queues)
    return JobNotFound(f"no job {job_id!r} on {where}: never added, or removed when it ended")


async def read_status(session: Session, keys: QueueKeys, job_id: str) -> JobStatus | None:
    """Return the job as that queue has it, None if it has not."""
    connection = await session.open()
    await session.backlog.enter(_COMMANDS, 0)
    try:
        return await _read(connection, keys, job_id)
    finally:
        session.backlog.leave(_COMMANDS, 0)


async def _read(connection: Connection, keys: QueueKeys, job_id: str) -> JobStatus | None:
    job_key = keys.job(job_id)
    # The state comes first: a job that ends in between then has at least its end's fields.
    state = await run_script(connection, Purpose.STATUS, state_of(keys, job_id))
    flat = await connection.call(Purpose.STATUS, "HGETALL", job_key)
    if not flat:
        return None
    text = [part.decode("utf-8", "replace") for part in flat]
    fields = dict(zip(text[::2], text[1::2], strict=True))
    return JobStatus(
        id=job_id,
        queue=keys.queue,
        name=fields.get("name", ""),
        state=state.decode(),
        data=_json(fields.get("data")),
        progress=_json(fields.get("progress")),
        result=_json(fields.get("returnvalue")),
        failed_reason=fields.get("failedReason"),
        attempts_made=int(fields.get("atm", "0")),
        timestamp=_seconds(fields.get("timestamp")),
        processed_on=_seconds(fields.get("processedOn")),
        finished_on=_seconds(fields.get("finishedOn")),
    )


def _json(text: str | None) -> Any:
    if text is None:
        return None
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def _seconds(milliseconds: str | None) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000


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
    """Yield each event of the job from now on, up to its end; the end even if it is past.

    Raises JobNotFound.
    """
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
    """Return the job and its events from before that look on: its end can't fall in between."""
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
        session.events.listen()
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
