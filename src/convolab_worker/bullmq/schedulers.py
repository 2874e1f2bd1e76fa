"""Job schedulers: fetching one iteration of a repeated job adds the next, as Node's workers do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import structlog

from convolab_worker.bullmq.backend import now_ms
from convolab_worker.bullmq.protocol.calls import Call, advance_scheduler
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import RedisRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convolab_worker.bullmq.backend import Backend
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.connection.reconnect import Reconnection

_log = structlog.get_logger("convolab_worker")
# What a pattern, a time zone or a date raises that can't be read: any JSON may stand there.
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)


async def advance(backend: Backend, reconnection: Reconnection, job: ActiveJob) -> None:
    """Adds the iteration that follows ``job``; the script adds it once, however often it is asked.

    Options that can't be read are logged and end the repetition, as with Node's workers.
    """
    try:
        call = next_iteration(backend.keys[job.queue], job, now_ms())
    except _UNREADABLE as error:
        _log.error("scheduler.not_advanced", scheduler=job.scheduler_id, error=str(error))
        return
    if call is None:
        return
    try:
        await reconnection.answered(lambda: run_script(backend.connection, Purpose.FETCH, call))
    except RedisRefused as error:
        _log.error("scheduler.not_advanced", scheduler=job.scheduler_id, error=str(error))


def next_iteration(keys: QueueKeys, job: ActiveJob, now: int) -> Call | None:
    """Returns the call that adds the next iteration; None after the last (``limit``, ``endDate``).

    Raises one of many errors for options that can't be read.
    """
    repeat = job.opts.get("repeat")
    if not isinstance(repeat, dict):
        return None
    count = int(repeat.get("count") or 0) + 1
    limit, end = repeat.get("limit"), _milliseconds(repeat.get("endDate"))
    if (limit is not None and count > limit) or (end is not None and now > end):
        return None
    base = max(now, int(job.opts.get("prevMillis") or 0))
    every, pattern = repeat.get("every"), repeat.get("pattern")
    if not every and not pattern:
        return None
    next_at = max(_next_of_pattern(pattern, repeat, base), base) if pattern else now
    opts = _next_options(job, repeat, next_at, now, count)
    return advance_scheduler(keys, job, opts, next_at=next_at, now_ms=now)


def _next_options(
    job: ActiveJob, repeat: Mapping[str, Any], next_at: int, now: int, count: int
) -> dict[str, Any]:
    offset = repeat.get("offset") if repeat.get("every") else None
    again = {
        **{key: value for key, value in repeat.items() if key != "immediately"},
        "offset": offset,
        "count": count,
        "startDate": _milliseconds(repeat.get("startDate")),
        "endDate": _milliseconds(repeat.get("endDate")),
    }
    next_opts = {
        "attempts": 0,
        **job.opts,
        "jobId": f"repeat:{job.scheduler_id}:{next_at}",
        "delay": max(next_at + (offset or 0) - now, 0),
        "timestamp": now,
        "prevMillis": next_at,
        "repeatJobKey": job.scheduler_id,
        "repeat": {key: value for key, value in again.items() if value is not None},
    }
    if repeat.get("every"):  # the script itself works out when
        del next_opts["prevMillis"]
    return next_opts


def _next_of_pattern(pattern: str, repeat: Mapping[str, Any], base: int) -> int:
    """Returns when a cron pattern is due next, in its time zone; six fields begin with seconds."""
    from croniter import croniter  # only repeated jobs need it

    start = _milliseconds(repeat.get("startDate"))
    base = base if start is None else max(base, start)
    zone = ZoneInfo(repeat["tz"]) if repeat.get("tz") else UTC
    moment = datetime.fromtimestamp(base / 1000, tz=zone)
    due: datetime = croniter(pattern, moment, second_at_beginning=True).get_next(datetime)
    return int(due.timestamp() * 1000)


def _milliseconds(date: Any) -> int | None:
    """Reads a date of a job's repeat options: epoch milliseconds, or ISO text."""
    if date is None or date == "":
        return None
    if isinstance(date, (int, float)):
        return int(date)
    return int(datetime.fromisoformat(str(date)).timestamp() * 1000)
