"""Script calls: pure, from a job to a script's KEYS and ARGV.

Key orders and meanings of arguments are those at the head of each Lua file, BullMQ's or ours. A
conformance test compares the calls of BullMQ's scripts with those that bullmq's own Python builds.
Calls that move a worker's jobs from state to state are in ``transitions``, those of producers and
operators in ``client_calls``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack
from msgspec import Struct

from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.job_options import short_options
from convolab_worker.bullmq.protocol.keys import STATE_KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob

_SCHEDULER_KEYS = (
    "repeat", "delayed", "wait", "paused", "meta", "prioritized", "marker", "id", "events", "pc",
)  # fmt: skip


class Call(Struct, frozen=True):
    """One run of a script: its name, its KEYS and its ARGV.

    ``inner`` is how many commands the script runs inside Redis, where the same are run each time;
    None where the script itself counts them. ``packed`` is KEYS and ARGV as Redis reads them, where
    that was put together of packed parts.
    """

    script: str
    keys: Sequence[str]
    args: Sequence[Any]
    inner: int | None = None
    packed: bytes | None = None


def advance_scheduler(
    keys: QueueKeys, job: ActiveJob, opts: Mapping[str, Any], *, next_at: int, now_ms: int
) -> Call:
    """Add the iteration of a job scheduler that follows ``job``, unless it is there already."""
    names = [*keys.named(*_SCHEDULER_KEYS), keys.job(job.id), keys["active"]]
    packed = msgpack.packb(short_options(opts))
    args = (next_at, job.scheduler_id, job.data, packed, now_ms, keys.base, job.id)
    return Call("updateJobScheduler", names, args)


def update_data(keys: QueueKeys, job: ActiveJob, data: str) -> Call:
    """Write a job's data (JSON text), as Node's ``job.updateData`` does."""
    return Call("updateData", [keys.job(job.id)], (data,), script_costs.UPDATE_DATA)


def drop_children(keys: QueueKeys, job: ActiveJob) -> Call:
    names = [keys.job(job.id), keys["meta"]]
    return Call("removeUnprocessedChildren", names, (keys.base, job.id))


def add_failed_child(keys: QueueKeys, parent: ActiveJob, child_key: str, reason: bytes) -> Call:
    """Record with a parent why a child of it has failed."""
    parent_key = keys.job(parent.id)
    return Call("addFailedChild", [parent_key, f"{parent_key}:failed"], (child_key, reason))


def state_of(keys: QueueKeys, job_id: str) -> Call:
    """Ask for the state that a job is in; the answer is BullMQ's name of it, or ``unknown``."""
    return Call("getStateV2", keys.named(*STATE_KEYS), (job_id, keys.job(job_id)))


def add_to_stall_count(keys: QueueKeys, job: ActiveJob, added: int) -> Call:
    """Add to how often BullMQ counts a job as stalled."""
    inner = script_costs.add_to_stall_count(added)
    return Call("addToStallCount", [keys.job(job.id)], (added,), inner)


def end_exemption(keys: QueueKeys, job: ActiveJob) -> Call:
    """Count a job's stalls again, which were lowered by one, unless that is done already."""
    return Call("endExemption", [keys.job(job.id)], (job.stalls - 1,))


def take_back_lock(keys: QueueKeys, job: ActiveJob, lock_ms: int) -> Call:
    """Take a job's lock back from a request to cancel the job."""
    return Call("takeBack", [keys.lock(job.id)], (job.token, lock_ms))


def reclaim_lock(keys: QueueKeys, job: ActiveJob, lock_ms: int) -> Call:
    """Lock a job again whose lock has run out; the answer is 1 if it is still this worker's."""
    names = [keys.lock(job.id), keys["active"], keys.job(job.id)]
    return Call("reclaimLock", names, (job.id, job.token, lock_ms, job.starts))


def restore(keys: QueueKeys, job: ActiveJob, lock_ms: int, attempts: int | None) -> Call:
    """Undo what a script that failed half-way has done; the answer is 1 if the job is active."""
    job_key = keys.job(job.id)
    names = [*keys.named(*STATE_KEYS), job_key, keys.lock(job.id)]
    args = (job.id, job_key, job.token, lock_ms, "" if attempts is None else attempts)
    return Call("restoreJob", names, args)


def set_aside(
    keys: QueueKeys, job_id: str, kept_as: str, fields: Mapping[str, str | bytes | int]
) -> Call:
    """Rename what has a job's key and is not a hash, and make a hash of ``fields`` in its place."""
    args = [part for pair in fields.items() for part in pair]
    return Call("setAside", [keys.job(job_id), kept_as], args)
