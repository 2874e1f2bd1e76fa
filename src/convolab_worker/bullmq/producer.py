"""Adding jobs as BullMQ's producers do: standard, delayed, prioritized, and as children."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack

from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.scripts import run_all, script
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import ConvolabWorkerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.connection.connection import Connection
    from convolab_worker.connection.usage import CommandCounter

# BullMQ's short names of job options (bullmq.job.optsEncodeMap).
_SHORT_NAMES = {
    "failParentOnFailure": "fpof",
    "continueParentOnFailure": "cpof",
    "ignoreDependencyOnFailure": "idof",
    "removeDependencyOnFailure": "rdof",
    "keepLogs": "kl",
    "deduplication": "de",
}
_PARENT_FLAGS = ("fpof", "cpof", "idof", "rdof")
_STANDARD_KEYS = (
    "wait", "paused", "meta", "id", "completed", "delayed", "active", "events", "marker",
)  # fmt: skip
_DELAYED_KEYS = ("marker", "meta", "id", "delayed", "completed", "events")
_PRIORITIZED_KEYS = (
    "marker", "meta", "id", "prioritized", "delayed", "completed", "active", "events", "pc",
)  # fmt: skip
_PARENT_MISSING, _PARENT_REPLACED = -5, -7


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be added: ``data`` is JSON text, ``opts`` BullMQ's job options by their long names.

    ``parent`` is the id of the parent job, ``parent_queue`` the parent queue's key without a
    trailing colon (``bull:course-generation``).
    """

    id: str
    name: str
    data: str
    opts: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    parent_queue: str | None = None

    def carrying(self, carried: Mapping[str, Any]) -> NewJob:
        """The job with further options, those that carry a trace's context on."""
        return dataclasses.replace(self, opts={**self.opts, **carried}) if carried else self


def short_options(opts: Mapping[str, Any]) -> dict[str, Any]:
    """A job's options by the names that BullMQ stores."""
    return {_SHORT_NAMES.get(key, key): value for key, value in opts.items()}


def add_call(keys: QueueKeys, job: NewJob, now_ms: int) -> Call:
    """The call that adds ``job`` to its queue; an id that is there is not added again."""
    opts = {"attempts": 0, **job.opts}
    short = short_options(opts)
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
    return Call(name, keys.listed(key_names), (packed, job.data, msgpack.packb(short)))


def _target(opts: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    if opts.get("delay"):
        return "addDelayedJob", _DELAYED_KEYS
    if opts.get("priority"):
        return "addPrioritizedJob", _PRIORITIZED_KEYS
    return "addStandardJob", _STANDARD_KEYS


async def add(connection: Connection, counter: CommandCounter, keys: QueueKeys, job: NewJob) -> str:
    """Add ``job``; its id, or that of the job which its deduplication keeps.

    Raises ConvolabWorkerError if its parent is not there, or is another than it was.
    """
    call = add_call(keys, job, int(time.time() * 1000))
    answer = await script(call.script).run(connection, Purpose.ENQUEUE, call.keys, call.args)
    return _added(counter, keys, job, call, answer)


async def add_all(
    connection: Connection, counter: CommandCounter, jobs: Sequence[tuple[QueueKeys, NewJob]]
) -> list[str]:
    """Add ``jobs`` in one pipeline, as ``add`` does each; their ids.

    Raises the first error, once every answer is there: what could be added is.
    """
    calls = [add_call(keys, job, int(time.time() * 1000)) for keys, job in jobs]
    answers = await run_all(connection, Purpose.ENQUEUE, calls)
    return [
        _added(counter, keys, job, call, answer)
        for (keys, job), call, answer in zip(jobs, calls, answers, strict=True)
    ]


def _added(counter: CommandCounter, keys: QueueKeys, job: NewJob, call: Call, answer: Any) -> str:
    counter.count_inner(Purpose.ENQUEUE, script_costs.add(call, is_child=job.parent is not None))
    if isinstance(answer, int):
        reason = {
            _PARENT_MISSING: f"its parent {job.parent} on {job.parent_queue} is not there",
            _PARENT_REPLACED: "a job of that id has another parent",
        }.get(answer, f"BullMQ's code {answer}")
        msg = f"job {job.id} ({job.name}) was not added to {keys.queue}: {reason}"
        raise ConvolabWorkerError(msg)
    added: str = answer.decode()
    return added
