"""Job schedulers: fetching one iteration of a repeated job adds the next, as Node's workers do."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker._logs import Log
from convolab_worker.bullmq.protocol.calls import Call, advance_scheduler
from convolab_worker.bullmq.protocol.job_options import is_true, number
from convolab_worker.bullmq.protocol.records import pairs, read_number, text
from convolab_worker.bullmq.script_runner import now_ms, run_script
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.connection.connection import Connection
    from convolab_worker.connection.upkeep.reconnect import Reconnection

_log = Log()
# What is raised for a pattern, time zone or date that can't be read: it may be any JSON.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
_MOST_LISTED = 999
# Before BullMQ 5.16: NAME:ID:END:ZONE:PATTERN, or an interval in the pattern's place.
_LEGACY_ID = r"(?as)[^:]*:[^:]*:\d*:[^:]*:(.* .*|\d+)"
_LEGACY = "BullMQ 6 goes on with no repeatable job from before 5.16: make it a job scheduler"


class ScheduleOver(Exception):
    """A schedule has ended as its options ask; the message says which option ended it."""


async def advance(backend: Backend, reconnection: Reconnection, job: ActiveJob) -> None:
    """Adds the iteration that follows ``job``; the script adds it once, however often it is asked.

    No schedule ends unnoticed: an end that its options ask for is logged. A schedule whose options
    can't be read ends in Node, too; that is logged as an error, and ``doctor`` tells it.
    """
    names = {"scheduler": job.scheduler_id, "queue": job.queue, "job_id": job.id}
    try:
        call = next_iteration(backend.keys[job.queue], job, now_ms())
    except ScheduleOver as over:
        _log.info("scheduler.ended", reason=str(over), **names)
        return
    except UNREADABLE as error:
        _log.error("scheduler.not_advanced", error=str(error), repeat=_told(job), **names)
        return
    try:
        next_job = await reconnection.answered(
            lambda: run_script(backend.connection, Purpose.FETCH, call)
        )
        if next_job is None and re.fullmatch(_LEGACY_ID, job.scheduler_id or ""):
            _log.error("scheduler.not_advanced", error=_LEGACY, repeat=_told(job), **names)
    except RedisUnavailable as error:
        _log.error("scheduler.not_advanced", error=str(error), repeat=_told(job), **names)


def _told(job: ActiveJob) -> dict[str, Any]:
    repeat = job.opts.get("repeat")
    known = ("pattern", "tz", "every", "limit", "endDate")
    return {key: repeat[key] for key in known if key in repeat} if isinstance(repeat, dict) else {}


def next_iteration(keys: QueueKeys, job: ActiveJob, now: int) -> Call:
    """Returns the call that adds the next iteration.

    Raises ScheduleOver after the last one (``limit``, ``endDate``), and one of UNREADABLE for
    options that can't be read.
    """
    repeat = job.opts.get("repeat")
    if not isinstance(repeat, dict):
        msg = "the job has no options of its schedule: expected opts.repeat"
        raise TypeError(msg)
    count = int(repeat.get("count") or 0) + 1
    end = milliseconds(repeat.get("endDate"))
    limit = number(repeat["limit"]) if "limit" in repeat else None
    if limit is not None and count > limit:
        msg = f"it has run {limit:g} times, its limit"
        raise ScheduleOver(msg)
    base = max(now, int(job.opts.get("prevMillis") or 0))
    next_at = next_due(repeat, base, now=now, seed=job.scheduler_id or "")
    if next_at is None:
        msg = f"its end has come: {datetime.fromtimestamp((end or 0) / 1000).astimezone()}"
        raise ScheduleOver(msg)
    opts = _next_options(job, repeat, next_at, now, count)
    return advance_scheduler(keys, job, opts, next_at=next_at, now_ms=now)


def next_due(repeat: Mapping[str, Any], base: int, *, now: int, seed: str) -> int | None:
    """Returns when a schedule is due next after ``base``; None behind its end.

    Times are epoch milliseconds. For ``every`` it is ``now``: BullMQ's script works out when.
    ``seed`` is for patterns with H, where the schedule has no ``hashSeed``. Raises one of
    UNREADABLE.
    """
    every, pattern = repeat.get("every"), repeat.get("pattern")
    if bool(every) == bool(pattern):
        msg = "expected either a pattern or every" if pattern else "it has no pattern and no every"
        raise ValueError(msg)
    end = milliseconds(repeat.get("endDate"))
    if end is not None and now > end:
        return None
    if every:
        return now
    found = _next_of_pattern(pattern, repeat, base, end, seed)
    return None if found is None else max(found, base)


def _next_options(
    job: ActiveJob, repeat: Mapping[str, Any], next_at: int, now: int, count: int
) -> dict[str, Any]:
    offset = repeat.get("offset") if repeat.get("every") else None
    offset = offset if is_true(offset) else None
    again = {
        **{key: value for key, value in repeat.items() if key != "immediately"},
        "offset": offset,
        "count": count,
        "startDate": milliseconds(repeat.get("startDate")),
        "endDate": milliseconds(repeat.get("endDate")),
    }
    shift = number(offset) or 0
    next_opts = {
        "attempts": 0,
        **job.opts,
        "jobId": f"repeat:{job.scheduler_id}:{next_at}",
        "delay": max(next_at + shift - now, 0),
        "timestamp": now,
        "prevMillis": next_at,
        "repeatJobKey": job.scheduler_id,
        "repeat": {key: value for key, value in again.items() if value is not None},
    }
    if repeat.get("every"):  # the script itself works out when
        del next_opts["prevMillis"]
    return next_opts


def _next_of_pattern(
    pattern: object, repeat: Mapping[str, Any], base: int, end: int | None, seed: str
) -> int | None:
    # Only repeated jobs need these.
    from convolab_worker.bullmq.cron.field import InvalidPattern
    from convolab_worker.bullmq.cron.occurrences import next_after
    from convolab_worker.bullmq.cron.pattern import read_pattern
    from convolab_worker.bullmq.cron.zones import zone_offset

    if not isinstance(pattern, str):
        msg = f"the pattern {pattern!r} is not text"
        raise InvalidPattern(msg)
    try:
        read = read_pattern(pattern, repeat.get("hashSeed") or seed)
        offset = zone_offset(repeat.get("tz"))
        start = milliseconds(repeat.get("startDate"))
        return next_after(read, offset, base if start is None else max(base, start), end)
    except InvalidPattern as error:
        msg = f"the pattern {pattern!r} can't be followed: {error}"
        raise InvalidPattern(msg) from None


class ListedSchedule(NamedTuple):
    """A schedule as BullMQ keeps it, and what is wrong with it.

    ``due_ms`` is when its next iteration is due by that. ``over`` says which of its options has
    ended it; ``problem`` says why it can't go on.
    """

    id: str
    queue: str
    due_ms: float
    over: str | None = None
    problem: str | None = None


async def listed(connection: Connection, keys: QueueKeys, now: int) -> list[ListedSchedule]:
    """Returns the queue's schedules: three commands each, in two pipelines, and one for all."""
    flat = await connection.call(
        Purpose.STATUS, "ZRANGE", keys["repeat"], 0, _MOST_LISTED, "WITHSCORES"
    )
    due = [(text(raw), read_number(score) or 0.0) for raw, score in pairs(flat)]
    asked = [
        (
            connection.call(Purpose.STATUS, "HGETALL", f"{keys['repeat']}:{name}"),
            connection.call(Purpose.STATUS, "EXISTS", keys.job(f"repeat:{name}:{at:.0f}")),
        )
        for name, at in due
    ]
    found = []
    for (name, at), (fields, has_job) in zip(due, asked, strict=True):
        schedule = ListedSchedule(name, keys.queue, at)
        repeat = {text(field): text(value) for field, value in pairs(await fields)}
        found.append(_judged(schedule, repeat, has_job=bool(await has_job), now=now))
    return found


def _judged(
    schedule: ListedSchedule, repeat: Mapping[str, Any], *, has_job: bool, now: int
) -> ListedSchedule:
    try:
        is_over = (
            next_due(repeat, max(now, int(schedule.due_ms)), now=now, seed=schedule.id) is None
        )
    except UNREADABLE as error:
        return schedule._replace(problem=str(error))
    limit = read_number(str(repeat.get("limit", "")).encode())
    is_over |= limit is not None and float(repeat.get("ic") or 0) >= limit
    if has_job or schedule.due_ms > now:
        return schedule
    if is_over:
        return schedule._replace(over="its end or its limit")
    at = datetime.fromtimestamp(schedule.due_ms / 1000).astimezone()
    return schedule._replace(problem=f"nothing of it was added since {at:%Y-%m-%d %H:%M}")


def milliseconds(date: Any) -> int | None:
    """Reads a date of a job's repeat options: epoch milliseconds, or ISO text; None if unset."""
    if not date:
        return None
    if isinstance(date, (int, float)) or str(date).isdecimal():
        return int(date)
    return int(datetime.fromisoformat(str(date)).timestamp() * 1000)
