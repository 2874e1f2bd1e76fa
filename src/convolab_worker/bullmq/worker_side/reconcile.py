"""Finds out what became of jobs: after a lost reply, a lost lock, a worker's death."""

from __future__ import annotations

import json
import re
from enum import Enum, auto
from typing import TYPE_CHECKING

from convolab_worker._logs import Log
from convolab_worker.bullmq.job_lock import token_in
from convolab_worker.bullmq.protocol import calls
from convolab_worker.bullmq.protocol.records import (
    ActiveJob,
    FetchResult,
    read_active_job,
    step_field,
    text,
    whole_number,
)
from convolab_worker.bullmq.protocol.transitions import FINISHING
from convolab_worker.bullmq.script_runner import now_ms, run_script
from convolab_worker.connection.commands.error_replies import is_of_another_type
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import RedisRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.connection.connection import Connection

_log = Log()

# Of more locks than this nobody asks each when it will run out; all are looked at after a while.
_MANY_LOCKS = 8
_MANY_LOCKS_SECONDS = 8.0
_CHILD_FAILED = r"(?s)child (?P<key>.+) failed"
_FATE_FIELDS = ("timestamp", "finishedOn", "ats", "stc")


class Fate(Enum):
    """What became of a call that was to move a job on, and whose reply was lost.

    WRITTEN: it was executed. NOT_WRITTEN: it was not, and the job is still active and no other
    worker's, so that the call may be tried again. TAKEN: somebody else has moved the job on, or
    has it, and nothing tells that the call was executed before.
    """

    WRITTEN = auto()
    NOT_WRITTEN = auto()
    TAKEN = auto()


async def fate_of(backend: Backend, job: ActiveJob, call: Call) -> Fate:
    """Finds out what became of ``call``, which was to move ``job`` on and whose reply was lost.

    One pipeline of three commands. Where the script failed half-way and left the job in no list,
    the job is put back into ``active`` first.
    """
    keys, connection = backend.keys[job.queue], backend.connection
    # In this order: a lock that is ours now was ours when the fields were read.
    asked = connection.call(Purpose.COMPLETE, "HMGET", keys.job(job.id), *_FATE_FIELDS)
    locked = connection.call(Purpose.COMPLETE, "GET", keys.lock(job.id))
    state = await run_script(connection, Purpose.COMPLETE, calls.state_of(keys, job.id))
    lock = await locked
    token = None if lock is None else token_in(lock)
    try:
        fate = judge(job, call, await asked, token, state)
    except RedisRefused as error:
        if not is_of_another_type(str(error)):
            raise
        fate = Fate.NOT_WRITTEN if token in {None, job.token} else Fate.TAKEN
        if fate is Fate.NOT_WRITTEN:
            await set_aside(backend, job.queue, job.id, job)
    if fate is Fate.NOT_WRITTEN and token is None and state == b"unknown":
        await restore(backend, job, backend.lock_duration, "")
    return fate


def judge(
    job: ActiveJob,
    call: Call,
    fields: Sequence[bytes | None],
    token: str | None,
    state: bytes,
) -> Fate:
    """Tells the fate of ``call`` from the job's fields, the token in its lock, and its state.

    A job leaves ``active`` by a call of the worker that has its lock, or by a stalled check, which
    adds to ``stc``; each fetch adds to ``ats``.
    """
    timestamp, finished_on, starts, stalls = fields
    is_finish = call.script in FINISHING
    if starts is None or whole_number(timestamp) != job.timestamp:
        # The job was removed, as many are when they end; its id may be a new job's by now.
        return Fate.WRITTEN if is_finish else Fate.TAKEN
    was_fetched_again = whole_number(starts) > job.starts
    if token == job.token:  # only the call itself can have fetched the job again under its token
        return Fate.WRITTEN if was_fetched_again else Fate.NOT_WRITTEN
    if not was_fetched_again:
        if is_finish and whole_number(finished_on) == call.args[1]:
            return Fate.WRITTEN
        if token is None and state in {b"active", b"unknown"}:
            return Fate.NOT_WRITTEN
    return Fate.TAKEN if whole_number(stalls) > job.stalls else Fate.WRITTEN


async def locks_of_active(backend: Backend, queue: str) -> dict[str, float | None]:
    """Returns for each active job of the queue how long its lock lasts (seconds); None: no lock."""
    keys = backend.keys[queue]
    ids = [
        text(raw)
        for raw in await backend.connection.call(Purpose.STALLED, "LRANGE", keys["active"], 0, -1)
    ]
    if len(ids) > _MANY_LOCKS:  # one question for all: are any missing?
        names = [keys.lock(job_id) for job_id in ids]
        if await backend.connection.call(Purpose.STALLED, "EXISTS", *names) == len(ids):
            return dict.fromkeys(ids, _MANY_LOCKS_SECONDS)
    answers = [
        backend.connection.call(Purpose.STALLED, "PTTL", keys.lock(job_id)) for job_id in ids
    ]
    left = [await answer for answer in answers]
    return {job_id: None if ttl < 0 else ttl / 1000 for job_id, ttl in zip(ids, left, strict=True)}


async def recover_stalled(
    backend: Backend, queue: str, unlocked: Iterable[str], max_stalled: int
) -> list[str]:
    """Puts the queue's active jobs that have no lock (``unlocked``) back to its head.

    Returns the ids of those that BullMQ has recovered. It recovers a job in the second of two
    passes, which its key ``stalled-check`` keeps apart to spare commands; the lock alone decides.
    So both passes run here, one at once after the other. A job whose key is not a hash is mended
    first: the script would stop on it after it has removed the job from one list.
    """
    for job_id in unlocked:
        await set_aside(backend, queue, job_id)
    check = backend.keys[queue]["stalled-check"]
    call = backend.transitions[queue].recover_stalled(
        max_stalled=max_stalled, now_ms=now_ms(), interval_ms=1
    )
    recovered: list[str] = []
    for _ in range(2):
        await backend.connection.call(Purpose.STALLED, "DEL", check)
        raw = await run_script(backend.connection, Purpose.STALLED, call)
        recovered += [text(job_id) for job_id in raw]
    return recovered


async def find_by_token(backend: Backend, queue: str, token: str) -> ActiveJob | None:
    """Returns the active job locked under ``token``: that of a fetch whose reply was lost."""
    keys = backend.keys[queue]
    ids = await backend.connection.call(Purpose.FETCH, "LRANGE", keys["active"], 0, -1)
    if not ids:
        return None
    names = [keys.lock(text(job_id)) for job_id in ids]
    locks = await backend.connection.call(Purpose.FETCH, "MGET", *names)
    for job_id, lock in zip(ids, locks, strict=True):
        if lock is not None and token_in(lock) == token:
            await set_aside(backend, queue, text(job_id))
            flat = await backend.connection.call(Purpose.FETCH, "HGETALL", keys.job(text(job_id)))
            return read_active_job(queue, job_id, token, flat)
    return None


async def fetch(backend: Backend, queue: str, token: str) -> FetchResult:
    """Fetches the queue's next job, even one whose key is not a hash: it is there to be failed.

    BullMQ's script stops half-way on such a job, which is active and locked by then.
    """
    try:
        return await backend.fetch(queue, token)
    except RedisRefused as error:
        if not is_of_another_type(str(error)):
            raise
        job = await find_by_token(backend, queue, token)
        if job is None:  # it was another key: of the queue itself
            raise
        return FetchResult(job=job)


async def set_aside(
    backend: Backend, queue: str, job_id: str, job: ActiveJob | None = None
) -> bool:
    """Renames what another program has written over a job's hash; returns whether it was so.

    The job gets its hash back from ``job``. Without that, nothing of the job is left, and it gets
    a deferred failure: the worker that fetches it next fails it with that reason, where an
    operator finds it.
    """
    key = backend.keys[queue].job(job_id)
    kind = text(await backend.connection.call(Purpose.STALLED, "TYPE", key))
    if kind in ("hash", "none"):
        return False
    at = now_ms()
    kept = f"{key}:not-a-job:{at}"
    fields: dict[str, str | bytes | int] = {"timestamp": at, "processedOn": at, "ats": 1}
    if job is None:
        fields["defa"] = f"another program has written a {kind} over the job: it is now {kept}"
    else:
        fields = _fields(job)
    call = calls.set_aside(backend.keys[queue], job_id, kept, fields)
    if await run_script(backend.connection, Purpose.STALLED, call) is None:
        return False  # another worker was faster
    _log.error("job.wrong_key_type", job_id=job_id, queue=queue, key=key, type=kind, kept_as=kept)
    return True


def _fields(job: ActiveJob) -> dict[str, str | bytes | int]:
    fields: dict[str, str | bytes | int] = {
        "name": job.name,
        "data": job.data,
        "opts": json.dumps(dict(job.opts)),
        "timestamp": job.timestamp,
        "processedOn": job.processed_on,
        "delay": job.delay,
        "ats": job.starts,
        "atm": job.attempts_made,
        "stacktrace": job.stacktrace,
    }
    if job.parent_key is not None:
        fields["parentKey"] = job.parent_key
    if job.scheduler_id is not None:
        fields["rjk"] = job.scheduler_id
    if job.moved_from is not None:
        fields["movedFrom"] = job.moved_from
    fields.update({step_field(name): result for name, result in job.steps.items()})
    return fields


async def holds(backend: Backend, job: ActiveJob) -> bool:
    """Returns whether the job's lock is still there, and still this worker's."""
    lock = await backend.connection.call(Purpose.LOCK, "GET", backend.keys[job.queue].lock(job.id))
    return lock is not None and token_in(lock) == job.token


async def restore(backend: Backend, job: ActiveJob, duration: float, error: str) -> bool:
    """Undoes what a script that failed half-way with ``error`` has done.

    The job gets back its place in ``active`` and, for ``duration`` seconds, its lock. Returns False
    if nothing is left to undo: the job is gone, or its end was written before the script failed.
    """
    # A number of attempts that no script could ever count up.
    attempts = job.attempts_made if "not an integer" in error else None
    call = calls.restore(backend.keys[job.queue], job, round(duration * 1000), attempts)
    return bool(await run_script(backend.connection, Purpose.COMPLETE, call))


async def failed_child_reason(backend: Backend, job: ActiveJob) -> str | None:
    """Returns why the job can't go on: its first failed child, and that child's own reason.

    None if it can.
    """
    unsuccessful = f"{backend.keys[job.queue].job(job.id)}:unsuccessful"
    failed = await backend.connection.call(Purpose.FETCH, "ZRANGE", unsuccessful, 0, 0)
    if not failed:
        return None
    return await child_reason(backend, f"child {text(failed[0])} failed")


async def child_reason(backend: Backend, deferred: str) -> str:
    """Returns BullMQ's ``child KEY failed`` with the child's own reason, if that is still known."""
    found = re.fullmatch(_CHILD_FAILED, deferred)
    if found is None:
        return deferred or "a child has failed"
    reason = await backend.connection.call(Purpose.FETCH, "HGET", found["key"], "failedReason")
    return deferred if reason is None else f"{deferred}: {reason.decode('utf-8', 'replace')}"


async def reclaim(connection: Connection, keys: QueueKeys, job: ActiveJob, duration: float) -> bool:
    """Locks a job again, for ``duration`` seconds, whose lock ran out while Redis was away.

    Returns False if the job is not this worker's any more: it is while it is in ``active`` and no
    worker has fetched it since, whose lock may have run out as well.
    """
    call = calls.reclaim_lock(keys, job, round(duration * 1000))
    return bool(await run_script(connection, Purpose.LOCK, call))
