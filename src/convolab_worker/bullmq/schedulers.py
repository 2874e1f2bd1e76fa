"""Job schedulers: taking one iteration of a repeated job adds the next, as BullMQ's workers do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgpack
import structlog

from convolab_worker.bullmq.backend import now_ms
from convolab_worker.bullmq.producer import short_options
from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convolab_worker.bullmq.backend import Backend
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.connection.reconnect import Reconnection

_log = structlog.get_logger("convolab_worker")
_KEYS = (
    "repeat", "delayed", "wait", "paused", "meta", "prioritized", "marker", "id", "events", "pc",
)  # fmt: skip


async def advance(backend: Backend, reconnection: Reconnection, job: ActiveJob) -> None:
    """Add the iteration that follows ``job``; the script adds it once, however often it is asked.

    A pattern that can't be read is logged and ends the repetition, as with Node's workers.
    """
    try:
        call = next_iteration(backend.keys[job.queue], job, now_ms())
    except (ValueError, KeyError, TypeError) as error:
        _log.error("scheduler.not_advanced", scheduler=job.scheduler_id, error=str(error))
        return
    while call is not None:
        try:
            await script(call.script).run(backend.connection, Purpose.FETCH, call.keys, call.args)
            backend.counter.count_inner(Purpose.FETCH, script_costs.ADD)
        except RedisRefused as error:
            await reconnection.refused(error)
        except RedisUnavailable:
            await reconnection.wait()
        else:
            return


def next_iteration(keys: QueueKeys, job: ActiveJob, now: int) -> Call | None:
    """The call that adds the next iteration; None after the last (``limit``, ``endDate``).

    Raises ValueError, KeyError or TypeError for a pattern or time zone that can't be read.
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
    args = (
        next_at,
        job.scheduler_id,
        job.data,
        msgpack.packb(short_options(opts)),
        now,
        keys.base,
        job.id,
    )
    return Call("updateJobScheduler", [*keys.named(*_KEYS), keys.job(job.id), keys["active"]], args)


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
    if repeat.get("every"):  # whose moments the script itself works out
        del next_opts["prevMillis"]
    return next_opts


def _next_of_pattern(pattern: str, repeat: Mapping[str, Any], base: int) -> int:
    """When a cron pattern is due next, in its time zone; six fields begin with the seconds."""
    from croniter import croniter  # only repeated jobs need it

    start = _milliseconds(repeat.get("startDate"))
    base = base if start is None else max(base, start)
    zone = ZoneInfo(repeat["tz"]) if repeat.get("tz") else UTC
    moment = datetime.fromtimestamp(base / 1000, tz=zone)
    due: datetime = croniter(pattern, moment, second_at_beginning=True).get_next(datetime)
    return int(due.timestamp() * 1000)


def _milliseconds(date: Any) -> int | None:
    """A date of a job's repeat options: epoch milliseconds, or ISO text."""
    if date is None or date == "":
        return None
    if isinstance(date, (int, float)):
        return int(date)
    return int(datetime.fromisoformat(str(date)).timestamp() * 1000)
