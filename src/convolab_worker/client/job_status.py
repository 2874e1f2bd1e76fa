"""A job as it is now, read from Redis."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.protocol.keys import STATE_KEYS
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import JobNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    states = script("getStateV2")
    state = await states.run(connection, Purpose.STATUS, keys.named(*STATE_KEYS), (job_id, job_key))
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
