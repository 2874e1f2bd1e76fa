"""Reads cron patterns as cron-parser reads them, which Node's workers use. Pure.

A pattern has up to six fields: second, minute, hour, day of the month, month, day of the week. One
that has fewer lacks those in front: the seconds are 0 then, and any other is ``*``. What seems odd
below is cron-parser's way, and the differential test compares it: a schedule that Node has taken
must mean the same here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from convolab_worker.bullmq.cron.field import (
    DAY,
    HOUR,
    MINUTE,
    MONTH,
    SECOND,
    WEEKDAY,
    InvalidPattern,
    leading_number,
    numbers_of,
    values_of,
)
from convolab_worker.bullmq.cron.hashed import HashedNumbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.bullmq.cron.field import Value

_DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ALIASES = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
    "@minutely": "0 * * * * *",
    "@secondly": "* * * * * *",
    "@weekdays": "0 0 0 * * 1-5",
    "@weekends": "0 0 0 * * 0,6",
}
_DEFAULTS = ("0", "*", "*", "*", "*", "*")
_LONGEST_PATTERN = 1024
_MOST_WEEKS = 5  # a month has no sixth Monday


class CronPattern(Struct, frozen=True):
    """When a pattern is due. Values are sorted, numbers first; Sunday is 0."""

    seconds: Sequence[int]
    minutes: Sequence[int]
    hours: Sequence[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    last_day: bool
    last_weekdays: frozenset[int]
    nth_week: float  # which of the month's such weekdays; 0 for each
    any_day: bool
    any_weekday: bool


def read_pattern(text: str, seed: str) -> CronPattern:
    """Returns what a pattern means; ``seed`` chooses the numbers that ``H`` stands for.

    Raises InvalidPattern.
    """
    second, minute, hour, day, month, weekday = _fields(_ALIASES.get(text, text))
    hashed = HashedNumbers(seed)
    seconds = numbers_of(SECOND, second, hashed.next_number())
    minutes = numbers_of(MINUTE, minute, hashed.next_number())
    hours = numbers_of(HOUR, hour, hashed.next_number())
    months = numbers_of(MONTH, month, hashed.next_number())
    days = values_of(DAY, day, hashed.next_number())
    which, nth_week = _nth_week(weekday)
    weekdays = values_of(WEEKDAY, which, hashed.next_number())
    if "L" in weekdays:
        msg = "L alone is not a day of the week: expected one before it, such as 5L"
        raise InvalidPattern(msg)
    any_weekday, last_day = weekday in {"*", "?"}, "L" in day or "L" in days
    days = _of_one_month(days, months, may_be_none=last_day or not any_weekday)
    return CronPattern(
        seconds=seconds,
        minutes=minutes,
        hours=hours,
        days=frozenset(value for value in days if isinstance(value, int)),
        months=frozenset(months),
        weekdays=frozenset(value for value in weekdays if isinstance(value, int)),
        last_day=last_day,
        last_weekdays=_last_weekdays(weekdays) if "L" in weekday else frozenset(),
        nth_week=nth_week,
        any_day=day in {"*", "?"},
        any_weekday=any_weekday,
    )


def _fields(text: str) -> Sequence[str]:
    if len(text) > _LONGEST_PATTERN:
        msg = f"it has {len(text)} characters: expected {_LONGEST_PATTERN} at most"
        raise InvalidPattern(msg)
    fields = text.split()
    if not 1 <= len(fields) <= len(_DEFAULTS):
        msg = f"it has {len(fields)} fields: expected 1 to {len(_DEFAULTS)}"
        raise InvalidPattern(msg)
    return [*_DEFAULTS[: len(_DEFAULTS) - len(fields)], *fields]


def _nth_week(text: str) -> tuple[str, float]:
    """The day of the week and, behind a ``#``, its number in the month."""
    which, mark, nth = text.partition("#")
    if not mark:
        return which, 0
    if not {",", "-", "/"}.isdisjoint(text):
        msg = f"{text}: # goes with one day of the week, not with a list or range"
        raise InvalidPattern(msg)
    if re.fullmatch(r"\d+(\.\d*)?", nth, re.ASCII) is None or not 1 <= float(nth) <= _MOST_WEEKS:
        msg = f"{text}: expected 1 to 5 behind the #"
        raise InvalidPattern(msg)
    return which, float(nth)


def _of_one_month(
    days: Sequence[Value], months: Sequence[int], *, may_be_none: bool
) -> Sequence[Value]:
    """The days that a pattern's one month has, where it names one."""
    if len(months) != 1:
        return days
    most = _DAYS_IN_MONTH[months[0] - 1]
    kept = [value for value in days if isinstance(value, str) or value <= most] or days
    if not may_be_none and not leading_number(kept[0], most + 1) <= most:
        msg = f"month {months[0]} has no day {kept[0]}"
        raise InvalidPattern(msg)
    return kept


def _last_weekdays(weekdays: Sequence[Value]) -> frozenset[int]:
    firsts = [str(value)[0] for value in weekdays]
    return frozenset(int(first) % 7 for first in firsts if first.isdecimal())
