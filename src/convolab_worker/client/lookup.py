"""Looks a job up by its id: in which queue it is, in which state, and what its record says."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from convolab_worker.bullmq.protocol.calls import state_of
from convolab_worker.bullmq.protocol.keys import can_be_an_id
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.client.job_status import as_status
from convolab_worker.connection.commands.error_replies import is_of_another_type
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import JobNotFound, RedisRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.session import Session
    from convolab_worker.connection.connection import Connection

T = TypeVar("T")
_COMMANDS = 3  # commands that reading a job takes at most


async def of_record(asked: Awaitable[T], nothing: T) -> T:
    """Return what was asked of a job's record; ``nothing`` where its key is not a record.

    Another program has written over it, which is for no other job to suffer.
    """
    try:
        return await asked
    except RedisRefused as error:
        if not is_of_another_type(str(error)):
            raise
        return nothing


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
    if not can_be_an_id(job_id):
        return None
    connection = await session.open()
    await session.backlog.enter(_COMMANDS, 0)
    try:
        return await _read(connection, keys, job_id)
    finally:
        session.backlog.leave(_COMMANDS, 0)


async def _read(connection: Connection, keys: QueueKeys, job_id: str) -> JobStatus | None:
    # The state comes first: a job that ends in between then has at least its end's fields.
    state = await state_now(connection, keys, job_id)
    flat = await of_record(connection.call(Purpose.STATUS, "HGETALL", keys.job(job_id)), [])
    score = None
    if state == "delayed":
        score = await connection.call(Purpose.STATUS, "ZSCORE", keys["delayed"], job_id)
    return as_status(keys.queue, job_id, state, flat, score)


async def state_now(connection: Connection, keys: QueueKeys, job_id: str) -> str:
    """Return the state that a job is in; ``unknown`` if it is in no list of its queue."""
    answer = await run_script(connection, Purpose.STATUS, state_of(keys, job_id))
    state: str = answer.decode()
    return state
