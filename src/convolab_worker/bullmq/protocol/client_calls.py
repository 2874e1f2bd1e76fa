"""The script calls of producers and operators: pure, from a job to a script's KEYS and ARGV."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack
from msgspec import Struct, field, structs

from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.job_options import short_options
from convolab_worker.bullmq.protocol.records import STEP_FIELD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convolab_worker.bullmq.protocol.keys import QueueKeys

_PARENT_FLAGS = ("fpof", "cpof", "idof", "rdof")
_STANDARD_KEYS = (
    "wait", "paused", "meta", "id", "completed", "delayed", "active", "events", "marker",
)  # fmt: skip
_DELAYED_KEYS = ("marker", "meta", "id", "delayed", "completed", "events")
_PRIORITIZED_KEYS = (
    "marker", "meta", "id", "prioritized", "delayed", "completed", "active", "events", "pc",
)  # fmt: skip
_REPROCESS_KEYS = ("wait", "meta", "active", "marker", "prioritized", "pc")
_END_FIELDS = {"failed": "failedReason", "completed": "returnvalue"}
_PROMOTE_KEYS = (
    "delayed", "wait", "paused", "meta", "prioritized", "active", "pc", "events", "marker",
)  # fmt: skip
_PAUSE_KEYS = ("meta", "prioritized", "events", "delayed", "marker")


class NewJob(Struct, frozen=True, kw_only=True):
    """A job to be added: ``data`` is JSON text, ``opts`` BullMQ's job options by their long names.

    ``parent`` is the id of the parent job, ``parent_queue`` the parent queue's key without a
    trailing colon (``bull:course-generation``). ``named`` says that a producer has chosen the id.
    """

    id: str
    name: str
    data: str
    opts: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    parent_queue: str | None = None
    named: bool = False

    def carrying(self, carried: Mapping[str, Any]) -> NewJob:
        """Returns the job with further options: those that carry a trace's context on."""
        return structs.replace(self, opts={**self.opts, **carried}) if carried else self


def add_job(keys: QueueKeys, job: NewJob, now_ms: int, *, again: bool = False) -> Call:
    """Add ``job`` to its queue, unless a job of its id is there; the answer is the job's id.

    For a job with a name of its own it is that id, and 1 if such a job was there. ``again`` says
    that an earlier try, with the same ``now_ms``, may have added it.
    """
    opts = {"attempts": 0, **job.opts}
    short = short_options(opts) if job.opts else {**opts}
    parent_key = None if job.parent is None else f"{job.parent_queue}:{job.parent}"
    parent = None
    if job.parent is not None:
        flags = {flag: True for flag in _PARENT_FLAGS if short.get(flag)}
        parent = {"id": job.parent, "queueKey": job.parent_queue, **flags}
        short["parent"] = {"id": job.parent, "queue": job.parent_queue}
    deduplication = opts.get("deduplication")
    dedup_key = f"{keys.base}de:{deduplication['id']}" if deduplication else None
    dependencies = f"{parent_key}:dependencies" if parent_key else None
    packed = msgpack.packb(
        [keys.base, job.id, job.name, now_ms, parent_key, dependencies, parent, None, dedup_key]
    )
    name, key_names = _target(opts)
    args = [packed, job.data, msgpack.packb(short)]
    if job.named:
        args.append("1" if again else "0")
    is_child, is_named = job.parent is not None, job.named
    inner = script_costs.add(name, is_child=is_child, is_named=is_named)
    # What a deduplicated job takes depends on the one before it.
    return Call(
        f"{name}Named" if is_named else name,
        keys.listed(key_names),
        args,
        None if deduplication else inner,
    )


def _target(opts: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    if opts.get("delay"):
        return "addDelayedJob", _DELAYED_KEYS
    if opts.get("priority"):
        return "addPrioritizedJob", _PRIORITIZED_KEYS
    return "addStandardJob", _STANDARD_KEYS


def retry_job(
    keys: QueueKeys,
    job_id: str,
    state: str,
    *,
    lifo: bool,
    reset_attempts: bool,
    forget_steps: bool = False,
    wait_from: int | None = None,
) -> Call:
    """Put a job that is ``failed`` or ``completed`` back into its queue, as Node's ``job.retry()``.

    With ``forget_steps`` the results of its steps are removed. With ``wait_from``, the time in
    milliseconds, it waits for its children that have not ended, if there are any. The answer is 1,
    or -1 if it is gone, or -3 if it is not in that state any more.
    """
    names = [keys.job(job_id), *keys.named("events", state, *_REPROCESS_KEYS)]
    reset = "1" if reset_attempts else "0"
    args = (job_id, "RPUSH" if lifo else "LPUSH", _END_FIELDS[state], state, reset, reset)
    if not forget_steps and wait_from is None:
        return Call("reprocessJob", names, args)
    names += [keys["waiting-children"], f"{keys.job(job_id)}:dependencies"]
    anew = (STEP_FIELD if forget_steps else "", "" if wait_from is None else wait_from)
    return Call("retryAnew", names, (*args, *anew))


def remove_job(keys: QueueKeys, job_id: str) -> Call:
    """Remove a job with its children from any state, as Node's ``job.remove()`` does.

    The answer is 1, or 0 if a worker has it or one of its children, or -8 if a scheduler's next
    run is it.
    """
    names = [keys.job(job_id), keys["repeat"]]
    return Call("removeJob", names, (job_id, 1, keys.base))


def remove_job_in(keys: QueueKeys, job_id: str, state: str) -> Call:
    """Do the same if the job still is in that state; otherwise the answer is -3."""
    # BullMQ before 6 kept the jobs of a paused queue in a list of its own.
    places = ("wait", "paused") if state == "waiting" else (state, "id")
    names = [keys.job(job_id), *keys.named("repeat", *places)]
    return Call("removeJobIn", names, (job_id, 1, keys.base))


def promote_job(keys: QueueKeys, job_id: str) -> Call:
    """Let a delayed job wait from now on, as Node's ``job.promote()``; -3 if it is not delayed."""
    args = (keys.base, job_id)
    return Call("promote", keys.named(*_PROMOTE_KEYS), args)


def pause_queue(keys: QueueKeys) -> Call:
    """Let no worker start a job of the queue from now on, as Node's ``queue.pause()``."""
    names = keys.named("wait", "paused", *_PAUSE_KEYS)
    return Call("pause", names, ("paused", "1"))


def resume_queue(keys: QueueKeys, *, again: bool) -> Call:
    """End the pause, as Node's ``queue.resume()``.

    The answer is how many jobs are left in the list that BullMQ before 6 kept for paused queues:
    then it is to be called ``again``.
    """
    args = ("resumed", "0" if again else "1")
    names = keys.named("paused", "wait", *_PAUSE_KEYS)
    return Call("pause", names, args)


def clean_jobs(keys: QueueKeys, place: str, before_ms: int, limit: int) -> Call:
    """Remove up to ``limit`` jobs of a list or set that are older, as Node's ``queue.clean()``.

    The answer has their ids.
    """
    names = keys.named(place, "events", "repeat")
    return Call("cleanJobsInSet", names, (keys.base, before_ms, limit, place))


def other_id(source: QueueKeys, job_id: str) -> str:
    """Returns the id that a job gets in another queue where its own is taken there."""
    return f"{source.queue}-{job_id}"


def move_job(
    source: QueueKeys, destination: QueueKeys, state: str, job_id: str, *, execute: bool
) -> Call:
    """Move a job of ``state`` to another queue; with ``execute=False`` only tell what would be.

    The answer is what was done, the job's name, and its id in ``destination``.
    """
    other = other_id(source, job_id)
    target = "wait" if state == "paused" else state
    names = [
        source[state],
        destination[target],
        source.job(job_id),
        destination.job(job_id),
        destination.job(other),
    ]
    doing, origin = "1" if execute else "0", f"{source.queue}:{job_id}"
    args = (state, job_id, other, source.base, destination.base, doing, origin)
    return Call("moveJob", names, args)


def cancel_job(keys: QueueKeys, job_id: str, reason: str, news_ms: int) -> Call:
    """Ask the worker that has a job to fail it for ``reason`` or, if that is "", to return it."""
    names = (keys.lock(job_id), keys["active"])
    return Call("cancelJob", names, (job_id, keys.base, reason, news_ms))
