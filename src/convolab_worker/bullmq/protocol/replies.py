"""What BullMQ's scripts and keys answer, read without ever raising: pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from convolab_worker.bullmq.protocol.records import ActiveJob, read_active_job

# What the scripts answer instead of a job (bullmq.error_code).
JOB_MISSING, LOCK_MISSING, NOT_ACTIVE, PENDING_CHILDREN, LOCK_OF_ANOTHER = -1, -2, -3, -4, -6
FAILED_CHILDREN = -9
# The codes that mean: the job is not this worker's any more.
LOST = {
    JOB_MISSING: "the job was removed",
    LOCK_MISSING: "the lock had run out",
    NOT_ACTIVE: "the job is no longer active",
    LOCK_OF_ANOTHER: "another worker holds the lock",
}
# A delayed job's score is its due time in milliseconds times this, and a counter.
_SCORES_IN_A_MS = 0x1000
_LATEST_DUE = 253_402_300_800  # the year 10000, which Python's dates end before


class FetchResult(NamedTuple):
    """The answer to a fetch: a job, or when there may be one.

    ``due_at`` is when the next delayed job is due (seconds since the epoch), ``limited_for`` how
    long a rate limit lasts (seconds). ``asked`` is False where no job was asked for.
    """

    job: ActiveJob | None = None
    due_at: float | None = None
    limited_for: float = 0.0
    asked: bool = True


NOT_ASKED = FetchResult(asked=False)
_NOTHING = FetchResult()


@dataclass(frozen=True, slots=True)
class Marker:
    """What ended a blocking read: a job may be in ``queue``, at once or at ``due_at``.

    ``due_at`` is epoch seconds. Where ``cancelled`` is set it was no marker: somebody wants the job
    of that id, which this worker has, to be cancelled.
    """

    queue: str
    due_at: float | None
    cancelled: str | None = None


@dataclass(frozen=True, slots=True)
class Restrictions:
    """Why a queue gives no job: it is ``paused``, or ``concurrency`` jobs of it are active."""

    paused: bool
    concurrency: int | None


def read_fetch(queue: str, token: str, raw: Any) -> FetchResult:
    """Reads what ``moveToActive`` has answered, or a script that fetches the next job."""
    if not isinstance(raw, list) or not raw:
        return _NOTHING
    if isinstance(raw[0], list):
        return FetchResult(read_active_job(queue, raw[1], token, raw[0]))
    _, _, limited_ms, due_ms = [*raw, 0, 0, 0][:4]
    return FetchResult(
        due_at=read_due(due_ms), limited_for=max(read_number(limited_ms) or 0.0, 0.0) / 1000
    )


def read_number(raw: object) -> float | None:
    """Reads a number as Redis gives it, or None for anything else; NaN is no number."""
    if not isinstance(raw, (bytes, int, float)):
        return None
    try:
        number = float(raw)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def read_due(milliseconds: object) -> float | None:
    """Reads when a delayed job is due, in epoch seconds; None for a time that never comes.

    BullMQ's scripts promote no job whose score is below 0.
    """
    seconds = (read_number(milliseconds) or 0.0) / 1000
    return seconds if 0 < seconds < _LATEST_DUE else None


def read_score(score: object) -> float | None:
    """Reads a delayed job's score, as ``read_due`` reads its due time."""
    number = read_number(score)
    return None if number is None else read_due(number / _SCORES_IN_A_MS)


def read_restrictions(raw: list[bytes | None]) -> Restrictions:
    """Reads a queue's fields ``paused`` and ``concurrency``.

    BullMQ's scripts compare the number of active jobs with what Lua makes of the concurrency: 2.5
    lets 3 jobs be active, Infinity any number, 0 and less none. Where Lua makes nothing of it, the
    scripts stop with an error.
    """
    paused, concurrency = raw
    number = read_number(concurrency)
    most = None
    if number is not None and number != math.inf:
        most = math.ceil(max(number, 0))
    return Restrictions(paused is not None, most)
