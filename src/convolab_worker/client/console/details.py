"""One job whole: its record, logs, steps and relatives, and when its attempts ran."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from convolab_worker.bullmq.protocol.keys import QueueKeys, can_be_an_id, queue_and_id
from convolab_worker.bullmq.protocol.records import (
    STEP_FIELD,
    pairs,
    read_number,
    read_seconds,
    readable,
    text,
)
from convolab_worker.client.job_status import as_status
from convolab_worker.client.lookup import not_found, of_record, state_now
from convolab_worker.connection.commands.usage import Purpose

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.connection.connection import Connection

_ANCESTORS = 5
_CHILDREN = 50
_LOGS = 200
_EVENTS_AT_ONCE = 2_500
_EVENT_READS = 4  # a queue keeps about 10,000 events
_MINUTE_MS = 60_000  # that clocks may differ
# The events that end an attempt, and what they are called here.
_ENDS = {
    "completed": "completed",
    "failed": "failed",
    "delayed": "failed, tried again later",
    "waiting": "back in the queue",
    "waiting-children": "waits for its children",
    "stalled": "stalled",
}


class Relative(NamedTuple):
    """A job's parent or child. A state of ``gone`` says that nothing is left of it."""

    queue: str
    id: str
    name: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetails:
    """A job, with its logs, its parents and its children.

    ``steps`` has the JSON text of each recorded step, ``logs`` the newest rows. ``parents`` begins
    with the job's own parent. ``children`` has the first ones of ``children_count``.
    """

    job: JobStatus
    steps: Mapping[str, str]
    logs: Sequence[str]
    parents: Sequence[Relative]
    children: Sequence[Relative]
    children_count: int


class Attempt(NamedTuple):
    """A run of a job: when it began and ended (epoch seconds), and how; None while it runs."""

    started_at: float
    ended_at: float | None
    outcome: str | None


class Attempts(NamedTuple):
    """The attempts that a queue's events tell of; ``complete`` says that none is missing."""

    attempts: Sequence[Attempt]
    complete: bool


async def read_details(connection: Connection, prefix: str, queue: str, job_id: str) -> JobDetails:
    """See ``ConsoleClient.details``."""
    keys = QueueKeys(prefix, queue)
    if not can_be_an_id(job_id):
        raise not_found([keys], job_id)
    key, call = keys.job(job_id), connection.call
    state = await state_now(connection, keys, job_id)
    asked = [
        of_record(call(Purpose.STATUS, "HGETALL", key), []),
        call(Purpose.STATUS, "LRANGE", f"{key}:logs", -_LOGS, -1),
        call(Purpose.STATUS, "SMEMBERS", f"{key}:dependencies"),
        call(Purpose.STATUS, "HKEYS", f"{key}:processed"),
        call(Purpose.STATUS, "HKEYS", f"{key}:failed"),
        call(Purpose.STATUS, "ZRANGE", f"{key}:unsuccessful", 0, -1),
    ]
    flat, logs, *families = await asyncio.gather(*asked)
    score = None
    if state == "delayed":
        score = await call(Purpose.STATUS, "ZSCORE", keys["delayed"], job_id)
    job = as_status(keys.queue, job_id, state, flat, score)
    if job is None:
        raise not_found([keys], job_id)
    fields = {text(name): raw for name, raw in pairs(flat)}
    pending, completed, failed, unsuccessful = families
    children = [
        *((raw, "failed") for raw in dict.fromkeys([*failed, *unsuccessful])),
        *((raw, None) for raw in sorted(pending)),
        *((raw, "completed") for raw in sorted(completed)),
    ]
    return JobDetails(
        job=job,
        steps={
            name.removeprefix(STEP_FIELD): readable(raw)
            for name, raw in fields.items()
            if name.startswith(STEP_FIELD)
        },
        logs=[readable(row) for row in logs],
        parents=await _parents(connection, prefix, job.parent),
        children=[
            relative
            for raw, known in children[:_CHILDREN]
            if (relative := await _relative(connection, prefix, text(raw), known)) is not None
        ],
        children_count=len(children),
    )


def only_attempt(job: JobStatus) -> Attempts:
    """Return the attempts of a job that has started once at most, from its record."""
    if job.processed_on is None:
        return Attempts([], complete=True)
    outcome = job.state if job.finished_on is not None else None
    return Attempts([Attempt(job.processed_on, job.finished_on, outcome)], complete=True)


async def read_attempts(connection: Connection, keys: QueueKeys, job_id: str) -> Attempts:
    """See ``ConsoleClient.attempts``."""
    if not can_be_an_id(job_id):
        raise not_found([keys], job_id)
    asked = connection.call(
        Purpose.STATUS, "HMGET", keys.job(job_id), "timestamp", "finishedOn", "ats"
    )
    added, ended, starts = map(read_number, await of_record(asked, (None, None, None)))
    if added is None:
        raise not_found([keys], job_id)
    # Events are numbered by the server's clock; a job's times are by its callers' clocks.
    begin = f"{max(int(added) - _MINUTE_MS, 0)}"
    end = "+" if ended is None else f"{int(ended) + _MINUTE_MS}"
    found = list[tuple[float, Mapping[str, str]]]()
    for _ in range(_EVENT_READS):
        events = await connection.call(
            Purpose.STATUS, "XRANGE", keys["events"], begin, end, "COUNT", _EVENTS_AT_ONCE
        )
        found += [(_moment(event_id), _fields(flat)) for event_id, flat in events]
        if len(events) < _EVENTS_AT_ONCE:
            break
        begin = f"({text(events[-1][0])}"
    attempts = attempts_of(job_id, found)
    return Attempts(attempts, complete=len(attempts) >= int(starts or 0))


def attempts_of(job_id: str, events: Iterable[tuple[float, Mapping[str, str]]]) -> list[Attempt]:
    """Return the attempts of a job from its queue's events, each with its time. Pure."""
    attempts = list[Attempt]()
    for at, fields in events:
        if fields.get("jobId") != job_id:
            continue
        event = fields.get("event", "")
        runs = bool(attempts) and attempts[-1].ended_at is None
        if event == "active":
            attempts.append(Attempt(at, None, None))
        elif event in _ENDS and runs:
            attempts[-1] = Attempt(attempts[-1].started_at, at, _ENDS[event])
    return attempts


def _moment(event_id: bytes) -> float:
    return read_seconds(event_id.partition(b"-")[0]) or 0.0


def _fields(flat: Sequence[bytes]) -> dict[str, str]:
    return {text(name): text(value) for name, value in pairs(flat)}


async def _parents(connection: Connection, prefix: str, key: str | None) -> list[Relative]:
    found = list[Relative]()
    while key is not None and len(found) < _ANCESTORS:
        parent = await _relative(connection, prefix, key, None)
        if parent is None:
            break
        found.append(parent)
        asked = connection.call(Purpose.STATUS, "HGET", key, "parentKey")
        raw = await of_record(asked, None)
        key = None if not raw else text(raw)
    return found


async def _relative(
    connection: Connection, prefix: str, key: str, state: str | None
) -> Relative | None:
    """Return the job of that key; None for a key that is not of this prefix."""
    queue, job_id = queue_and_id(prefix, key)
    if not key.startswith(f"{prefix}:") or not job_id:
        return None
    raw = await of_record(connection.call(Purpose.STATUS, "HGET", key, "name"), None)
    if raw is None:
        return Relative(queue, job_id, "", state or "gone")
    if state is None:
        state = await state_now(connection, QueueKeys(prefix, queue), job_id)
    return Relative(queue, job_id, readable(raw), state)
