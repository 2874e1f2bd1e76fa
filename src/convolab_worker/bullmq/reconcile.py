"""Finding out what became of jobs: after a lost answer, a lost lock, a worker's death."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import structlog

from convolab_worker.bullmq.backend import FetchResult, now_ms
from convolab_worker.bullmq.job_lock import token_in
from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.keys import STATE_KEYS
from convolab_worker.bullmq.protocol.records import ActiveJob, read_active_job, text
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import RedisRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convolab_worker.bullmq.backend import Backend
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.connection.connection import Connection

_log = structlog.get_logger("convolab_worker")

# Of so many locks nobody asks each when it will run out; all are looked at again after a while.
_MANY_LOCKS = 8
_MANY_LOCKS_SECONDS = 8.0
_CHILD_FAILED = re.compile(r"child (?P<key>.+) failed", re.DOTALL)


async def locks_of_active(backend: Backend, queue: str) -> dict[str, float | None]:
    """For each active job of the queue, how long its lock lasts (seconds); None: no lock."""
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
    """Put the queue's active jobs that have no lock (``unlocked``) back to its head; their ids.

    BullMQ recovers a job in the second of two passes, which its key ``stalled-check`` keeps
    apart to spare commands; the lock alone decides. So both passes run here, one at once after
    the other. A job whose key is no hash would end the script between two lists.
    """
    for job_id in unlocked:
        await set_aside(backend, queue, job_id)
    transitions, check = backend.transitions[queue], backend.keys[queue]["stalled-check"]
    call = transitions.recover_stalled(max_stalled=max_stalled, now_ms=now_ms(), interval_ms=1)
    recovered: list[str] = []
    for _ in range(2):
        await backend.connection.call(Purpose.STALLED, "DEL", check)
        raw = await script(call.script).run(
            backend.connection, Purpose.STALLED, call.keys, call.args
        )
        backend.counter.count_inner(Purpose.STALLED, script_costs.STALLED_PASS)
        recovered += [text(job_id) for job_id in raw]
    return recovered


async def find_by_token(backend: Backend, queue: str, token: str) -> ActiveJob | None:
    """The active job locked under ``token``: what a take whose answer was lost has taken."""
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
    """Take the queue's next job, be it one whose key is no hash: it is there to be failed.

    BullMQ's script ends half-way on such a job, which is active and locked by then.
    """
    try:
        return await backend.fetch(queue, token)
    except RedisRefused as error:
        if not is_of_another_type(error):
            raise
        job = await find_by_token(backend, queue, token)
        if job is None:  # it was another key: of the queue itself
            raise
        return FetchResult(job=job)


def is_of_another_type(error: RedisRefused) -> bool:
    """Whether a key had another type than BullMQ's."""
    return "WRONGTYPE" in str(error)


async def set_aside(
    backend: Backend, queue: str, job_id: str, job: ActiveJob | None = None
) -> bool:
    """Rename what stands where a job's hash belongs, if that is no hash; whether it was so.

    The job gets its hash back from its ``job``, as far as that knows it. Without one nothing of
    the job is left, and what it gets is a deferred failure: whoever takes it next fails it with
    that reason, where an operator finds it.
    """
    key = backend.keys[queue].job(job_id)
    kind = text(await backend.connection.call(Purpose.STALLED, "TYPE", key))
    if kind in ("hash", "none"):
        return False
    at = now_ms()
    kept = f"{key}:not-a-job:{at}"
    _log.error("job.key_is_no_hash", job_id=job_id, queue=queue, key=key, type=kind, kept_as=kept)
    fields: dict[str, str | bytes | int] = {"timestamp": at, "processedOn": at, "ats": 1}
    if job is None:
        fields["defa"] = f"another program has written a {kind} over the job: it is now {kept}"
    else:
        fields = _fields(job)
    renamed = backend.connection.call(Purpose.STALLED, "RENAME", key, kept)
    written = backend.connection.call(
        Purpose.STALLED, "HSET", key, *[x for pair in fields.items() for x in pair]
    )
    await renamed
    await written
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
    return fields


async def is_locked(backend: Backend, job: ActiveJob) -> bool:
    """Whether the job is locked for this job."""
    lock = backend.keys[job.queue].lock(job.id)
    token = await backend.connection.call(Purpose.COMPLETE, "GET", lock)
    return token is not None and token_in(token) == job.token


async def holds(backend: Backend, job: ActiveJob) -> bool:
    """Whether the job's lock is still there, and still ours."""
    lock = await backend.connection.call(Purpose.LOCK, "GET", backend.keys[job.queue].lock(job.id))
    return lock is not None and token_in(lock) == job.token


async def restore(backend: Backend, job: ActiveJob, duration: float, error: str) -> bool:
    """Undo what a script that failed half-way with ``error`` has done; False if nothing is left.

    BullMQ's scripts remove the job's lock and its place in ``active`` before they write its end.
    It gets both back, the lock for ``duration`` seconds. Nothing is left to undo of a job whose
    end was written before the script failed.
    """
    keys = backend.keys[job.queue]
    job_key = keys.job(job.id)
    if "not an integer" in error:  # the number of attempts: no script could ever count it up
        await backend.connection.call(Purpose.COMPLETE, "HSET", job_key, "atm", job.attempts_made)
    states = script("getStateV2")
    state = await states.run(
        backend.connection, Purpose.COMPLETE, keys.named(*STATE_KEYS), (job.id, job_key)
    )
    is_out = (
        state == b"unknown"
        and await backend.connection.call(Purpose.COMPLETE, "EXISTS", job_key) == 1
    )
    if not is_out and state != b"active":
        return False
    lock, milliseconds = keys.lock(job.id), round(duration * 1000)
    locked = backend.connection.call(
        Purpose.COMPLETE, "SET", lock, job.token, "PX", milliseconds, "NX"
    )
    if is_out:
        await backend.connection.call(Purpose.COMPLETE, "LPUSH", keys["active"], job.id)
    await locked
    return True


async def was_written(backend: Backend, job: ActiveJob, at_ms: int) -> bool | None:
    """Whether a finish of ours at ``at_ms`` whose answer was lost has been written.

    None: it has not, and the lock is still ours or nobody's, so it may be tried again. A lock that
    holds a request to cancel is still ours: the next try meets the request.
    """
    keys = backend.keys[job.queue]
    lock = backend.connection.call(Purpose.COMPLETE, "GET", keys.lock(job.id))
    finished = backend.connection.call(
        Purpose.COMPLETE, "HMGET", keys.job(job.id), "finishedOn", "name"
    )
    token, (finished_on, name) = await lock, await finished
    if token is not None and token_in(token) == job.token:
        return None
    if name is None or (finished_on is not None and int(finished_on) == at_ms):
        return True
    return None if token is None else False


async def failed_child_reason(backend: Backend, job: ActiveJob) -> str:
    """Why the job can't go on: its first failed child, and that child's own reason."""
    unsuccessful = f"{backend.keys[job.queue].job(job.id)}:unsuccessful"
    failed = await backend.connection.call(Purpose.FETCH, "ZRANGE", unsuccessful, 0, 0)
    return await child_reason(backend, f"child {text(failed[0])} failed" if failed else "")


async def child_reason(backend: Backend, deferred: str) -> str:
    """BullMQ's ``child KEY failed`` with the child's own reason, where it is still known."""
    found = _CHILD_FAILED.fullmatch(deferred)
    if found is None:
        return deferred or "a child has failed"
    reason = await backend.connection.call(Purpose.FETCH, "HGET", found["key"], "failedReason")
    return deferred if reason is None else f"{deferred}: {reason.decode('utf-8', 'replace')}"


async def reclaim(connection: Connection, keys: QueueKeys, job: ActiveJob, duration: float) -> bool:
    """Lock a job again, for ``duration`` seconds, whose lock ran out while Redis was away.

    False if it is not ours: it is while it still is in ``active``, and nobody has taken it since,
    whose lock may have run out too.
    """
    lock, milliseconds = keys.lock(job.id), round(duration * 1000)
    place = connection.call(Purpose.LOCK, "LPOS", keys["active"], job.id)
    starts = connection.call(Purpose.LOCK, "HGET", keys.job(job.id), "ats")
    if await place is None or await starts != b"%d" % job.starts:
        return False
    locked = connection.call(Purpose.LOCK, "SET", lock, job.token, "PX", milliseconds, "NX")
    place = connection.call(Purpose.LOCK, "LPOS", keys["active"], job.id)
    was_free, index = await locked is not None, await place
    if not was_free:
        holder = await connection.call(Purpose.LOCK, "GET", lock)
        return index is not None and holder == job.token.encode()
    if index is None:  # it was recovered in between; the script only lets go of what is ours
        await script("releaseLock").run(connection, Purpose.LOCK, (lock,), (job.token, job.id))
    return index is not None
