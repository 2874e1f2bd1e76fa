"""JobStatus: a job as its record in Redis tells it, and the parts of it that filters need. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from convolab_worker.bullmq.protocol.job_options import is_true, long_options, most_attempts
from convolab_worker.bullmq.protocol.records import (
    json_or_text,
    pairs,
    read_score,
    read_seconds,
    readable,
    whole_number,
)

_PARTS_OF_TRACEPARENT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as it is now, with all that its record says.

    ``timestamp`` (when it was added), ``processed_on`` (when it last started), ``finished_on`` and
    ``due_at`` (when a delayed job is to start) are epoch seconds. ``attempts_made`` counts the
    attempts that were used up, ``starts`` how often a worker has fetched the job. ``opts`` are
    BullMQ's options as the job was added with them, in milliseconds where they are times.
    ``parent`` is the key of the parent job, such as ``bull:courses:17``. ``stacktrace`` has one
    text for each failed attempt, the newest last. ``processed_by`` is the name of the worker that
    fetched the job last, None for one that has no name.
    """

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
    due_at: float | None = None
    max_attempts: int = 1
    starts: int = 0
    priority: int = 0
    opts: Mapping[str, Any]
    parent: str | None = None
    stacktrace: Sequence[str] = ()
    processed_by: str | None = None

    @property
    def trace_id(self) -> str | None:
        """The id of the trace that the job was added in, of its W3C ``traceparent``, or None."""
        telemetry = self.opts.get("telemetry")
        long = telemetry.get("metadata") if isinstance(telemetry, Mapping) else None
        carried = long or self.opts.get("tm")
        try:
            parent = json.loads(carried or "null")["traceparent"].split("-")
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return parent[1] if len(parent) == _PARTS_OF_TRACEPARENT else None


class Seen(NamedTuple):
    """Where a job was when it was read, and what a filter needs to know of it.

    ``at`` is when it ended or, before that, when it was added (epoch seconds).
    """

    queue: str
    id: str
    state: str
    name: str
    reason: str
    at: float
    lifo: bool


def seen(status: JobStatus) -> Seen:
    at = status.finished_on if status.finished_on is not None else status.timestamp
    return Seen(
        status.queue, status.id, status.state, status.name, status.failed_reason or "", at or 0.0,
        is_true(status.opts.get("lifo")),
    )  # fmt: skip


def as_status(
    queue: str, job_id: str, state: str, flat: Sequence[bytes], score: bytes | None = None
) -> JobStatus | None:
    """Return the job of that hash, as HGETALL gives it, or None for an empty one.

    ``score`` is a delayed job's.
    """
    if not flat:
        return None
    raw = {readable(name): value for name, value in pairs(flat)}
    fields = {name: readable(value) for name, value in raw.items()}
    opts = long_options(json_or_text(fields.get("opts")))
    stacktrace = json_or_text(fields.get("stacktrace"))
    return JobStatus(
        id=job_id,
        queue=queue,
        name=fields.get("name", ""),
        state=state,
        data=json_or_text(fields.get("data")),
        progress=json_or_text(fields.get("progress")),
        result=json_or_text(fields.get("returnvalue")),
        failed_reason=fields.get("failedReason"),
        attempts_made=whole_number(raw.get("atm")) or whole_number(raw.get("attemptsMade")),
        timestamp=read_seconds(raw.get("timestamp")),
        processed_on=read_seconds(raw.get("processedOn")),
        finished_on=read_seconds(raw.get("finishedOn")),
        due_at=None if score is None else read_score(score),
        max_attempts=most_attempts(opts),
        starts=whole_number(raw.get("ats")),
        priority=whole_number(raw.get("priority")),
        opts=opts,
        parent=fields.get("parentKey") or None,
        stacktrace=stacktrace if isinstance(stacktrace, list) else [],
        processed_by=fields.get("pb") or None,
    )
