"""Job schedulers as producers see them: their keywords, the calls that write them, their records.

Pure. When a schedule is due, and how it goes on, is in ``bullmq/schedulers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - an API may answer with a Schedule
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgpack

from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.job_options import long_options, short_options
from convolab_worker.bullmq.protocol.keyword_types import ScheduledJobOptions
from convolab_worker.bullmq.protocol.records import (
    json_or_text,
    pairs,
    read_number,
    read_seconds,
    text,
)
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.units import is_count, is_seconds, is_text

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.keys import QueueKeys

COLLISION, SLOTS_BUSY = -10, -11
"""What ``addJobScheduler`` answers where its next job's id is taken, and that job stays."""

_KEYS = (
    "repeat", "delayed", "wait", "paused", "meta", "prioritized", "marker", "id", "events", "pc",
    "active",
)  # fmt: skip
_MOST_LIMIT = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """A schedule to be written: ``data`` is JSON text, ``opts`` BullMQ's options by long names.

    ``repeat`` is Node's RepeatOptions, with dates in milliseconds.
    """

    id: str
    name: str
    data: str
    opts: Mapping[str, Any]
    repeat: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A job scheduler as it is in Redis, whoever wrote it.

    ``every`` is in seconds; ``cron`` is the pattern, in the time zone ``tz`` or, without one, in
    that of the worker. ``next_at``, ``start`` and ``until`` are seconds since the epoch. ``limit``
    is the most jobs, ``count`` how many it has made. ``data`` is that of its jobs, and ``options``
    are theirs, by BullMQ's names.
    """

    id: str
    queue: str
    name: str
    next_at: float
    every: float | None = None
    cron: str | None = None
    tz: str | None = None
    limit: int | None = None
    start: float | None = None
    until: float | None = None
    count: int = 0
    data: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


class ScheduleOptions(ScheduledJobOptions, total=False):
    """The keywords of ``schedule``: when it is due, its queue, and the options of its jobs.

    ``every`` is the seconds from one job to the next, the first one being due at once. ``cron`` is
    a pattern of five fields, or of six that begin with the seconds, in the time zone ``tz`` or,
    without one, in that of whatever worker runs the job. ``limit`` is how many jobs there are at
    most. ``start`` and ``until`` bound them: datetimes with a time zone, or seconds since the
    epoch. ``immediately`` has the first job of a pattern start at once. ``queue`` is the client's
    first by default, or that of a JobType.
    """

    every: float | None
    cron: str | None
    tz: str | None
    limit: int | None
    start: datetime | float | None
    until: datetime | float | None
    immediately: bool | None
    queue: str | None


_WHEN = ("every", "cron", "tz", "limit", "start", "until", "immediately")


def repeat_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns Node's RepeatOptions of ScheduleOptions' keywords, and the keywords that are left.

    Whether a pattern and a time zone can be read is not known here. Raises ConfigurationError.
    """
    every, cron, tz, limit, start, until, immediately = (options.get(what) for what in _WHEN)
    left = {what: value for what, value in options.items() if what not in _WHEN}
    is_time = is_seconds(every) and round((every or 0) * 1000) >= 1
    for what, is_good, expected in (
        ("every", (every is None) != (cron is None), "either every=SECONDS or cron=PATTERN"),
        ("every", every is None or is_time, "seconds, a thousandth or more"),
        ("cron", cron is None or is_text(cron), "text"),
        ("tz", tz is None or (is_text(tz) and cron is not None), "a time zone for a pattern"),
        ("limit", limit is None or is_count(limit, 1), "1 or more"),
        ("immediately", immediately in {None, False, True}, "True or False"),
        ("immediately", not immediately or (cron and start is None), "a pattern without a start"),
        ("delay", left.get("delay") is None, "it left out: a schedule has its own"),
        ("deduplication", left.get("deduplication") is None, "it left out: no two are at once"),
        ("job_id", left.get("job_id") is None, "it left out: each job has its own"),
    ):
        if not is_good:
            raise _wrong(what, options.get(what), expected)
    given = {
        "every": None if every is None else round(every * 1000),
        "pattern": cron,
        "tz": tz,
        "limit": limit,
        "startDate": _milliseconds("start", start),
        "endDate": _milliseconds("until", until),
    }
    return {key: value for key, value in given.items() if value is not None}, left


def _milliseconds(what: str, moment: object) -> int | None:
    if moment is None:
        return None
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        return round(moment.timestamp() * 1000)
    if isinstance(moment, datetime) or not is_seconds(moment):
        raise _wrong(what, moment, "a datetime with a time zone, or seconds since the epoch")
    return round(moment * 1000)


def _wrong(what: str, value: object, expected: str) -> ConfigurationError:
    return ConfigurationError(f"schedule({what}={value!r}): expected {expected}")


def add_schedule(
    keys: QueueKeys,
    schedule: NewSchedule,
    next_at: int,
    now_ms: int,
    carried: Mapping[str, Any],
) -> Call:
    """Write a schedule, in the place of one of its id, and its next job; the answer is that job.

    ``next_at`` is when a pattern is due next (epoch milliseconds). The answer is the job's id and
    its delay, or COLLISION or SLOTS_BUSY. ``carried`` are options of that one job.
    """
    repeat = schedule.repeat
    record = {key: value for key, value in repeat.items() if key != "count"}
    job_opts = {
        **short_options(schedule.opts),
        **carried,
        "jobId": f"repeat:{schedule.id}:{next_at}",
        "delay": max(next_at - now_ms, 0),
        "timestamp": now_ms,
        "repeatJobKey": schedule.id,
        "repeat": {**repeat, "count": 1},
    }
    if "pattern" in repeat:  # the script itself works out when ``every`` is due
        job_opts["prevMillis"] = next_at
    args = (
        next_at,
        msgpack.packb({"name": schedule.name, **record}),
        schedule.id,
        schedule.data,
        msgpack.packb(short_options(schedule.opts)),
        msgpack.packb(job_opts),
        now_ms,
        keys.base,
        "",
    )
    return Call("addJobScheduler", keys.named(*_KEYS), args)


def remove_schedule(keys: QueueKeys, schedule_id: str) -> Call:
    """Remove a schedule and its next job; the answer is 0, or 1 where there was none."""
    args = (schedule_id, keys.base)
    names = keys.named("repeat", "delayed", "events")
    return Call("removeJobScheduler", names, args)


def read_schedule(
    queue: str, schedule_id: bytes, score: bytes, flat: Sequence[bytes]
) -> Schedule | None:
    """Reads a schedule's hash as HGETALL gives it, without ever raising; None where it is empty."""
    raw = {text(name): value for name, value in pairs(flat)}
    if not raw:
        return None
    fields = {name: text(value) for name, value in raw.items()}
    return Schedule(
        id=text(schedule_id),
        queue=queue,
        name=fields.get("name", ""),
        next_at=read_seconds(score) or 0.0,
        every=read_seconds(raw.get("every")),
        cron=fields.get("pattern"),
        tz=fields.get("tz"),
        limit=_whole(raw.get("limit")),
        start=read_seconds(raw.get("startDate")),
        until=read_seconds(raw.get("endDate")),
        count=_whole(raw.get("ic")) or 0,
        data=json_or_text(fields.get("data")),
        options=long_options(json_or_text(fields.get("opts"))),
    )


def _whole(raw: bytes | None) -> int | None:
    number = read_number(raw)
    return None if number is None or abs(number) > _MOST_LIMIT else int(number)
