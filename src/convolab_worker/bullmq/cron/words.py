"""Cron patterns in English, for people who look at schedules. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.bullmq.cron.pattern import read_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.bullmq.cron.pattern import CronPattern

_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_MOST_TIMES = 6  # most moments of a day that are named one by one
_RANGE = 3  # as many in a row are told as a range
_SIXTY, _HOURS = 60, 24


def in_words(text: str, seed: str) -> str:
    """Return what a pattern means, such as ``at 03:00 on Monday to Friday``.

    ``seed`` chooses the numbers that ``H`` stands for. Raises InvalidPattern.
    """
    pattern = read_pattern(text, seed)
    parts = [_time(pattern), _day(pattern)]
    if len(pattern.months) < len(_MONTHS):
        parts.append(
            "in " + _listed([_MONTHS[month - 1] for month in sorted(pattern.months)], _MONTHS)
        )
    return " ".join(part for part in parts if part)


def _time(pattern: CronPattern) -> str:
    hours, minutes, seconds = pattern.hours, pattern.minutes, pattern.seconds
    second = "" if list(seconds) == [0] else _of(seconds, "second")
    if len(minutes) * len(hours) <= _MOST_TIMES and len(seconds) == 1:
        ending = "" if not second else f":{seconds[0]:02}"
        times = [f"{hour:02}:{minute:02}{ending}" for hour in hours for minute in minutes]
        return f"at {_joined(times)}"
    parts = [second]
    if not (second and len(minutes) == _SIXTY):
        parts.append(_of(minutes, "minute"))
    if len(hours) < _HOURS:
        parts.append(_within(hours))
    elif len(minutes) < _SIXTY and not _step(minutes, _SIXTY):
        parts.append("of every hour")
    return " ".join(part for part in parts if part)


def _of(numbers: Sequence[int], unit: str) -> str:
    """Return ``every minute``, ``every 5 minutes`` or ``at minutes 7 and 9``."""
    step = _step(numbers, _SIXTY)
    if step:
        return f"every {unit}" if step == 1 else f"every {step} {unit}s"
    return f"at {unit}{'s' if len(numbers) > 1 else ''} {_listed([*map(str, numbers)])}"


def _within(hours: Sequence[int]) -> str:
    step = _step(hours, _HOURS)
    if step:
        return f"of every {_ordinal(step)} hour from 00:00 on"
    if len(hours) >= _RANGE and hours[-1] - hours[0] == len(hours) - 1:
        return f"from {hours[0]:02}:00 to {hours[-1]:02}:59"
    return "in the hours from " + _joined([f"{hour:02}:00" for hour in hours])


def _step(numbers: Sequence[int], size: int) -> int:
    """Return the step of numbers that go from 0 through all of ``size`` evenly; 0 for others."""
    step = size // len(numbers)
    return step if list(numbers) == list(range(0, size, step)) and size % step == 0 else 0


def _day(pattern: CronPattern) -> str:
    days = [str(day) for day in sorted(pattern.days)]
    if pattern.last_day:
        days.append("last")
    month = f"on day {_listed(days)} of the month" if days else ""
    names = [_DAYS[day] for day in sorted({day % 7 for day in pattern.weekdays})]
    if pattern.nth_week:
        names = [f"the {_ordinal(int(pattern.nth_week))} {name}" for name in names]
    names += [f"the last {_DAYS[day % 7]}" for day in sorted(pattern.last_weekdays)]
    week = f"on {_listed(names, _DAYS)}" if names else ""
    if pattern.any_day:
        return "" if pattern.any_weekday else week
    return month if pattern.any_weekday else f"{month}, and {week}"


def _listed(words: Sequence[str], order: Sequence[str] | None = None) -> str:
    """Return the words as a list; three or more that follow each other as a range."""
    places = [order.index(word) if order and word in order else _number(word) for word in words]
    told, start = list[str](), 0
    for end in range(1, len(words) + 1):
        before, here = places[end - 1], places[end] if end < len(words) else None
        if before is not None and here is not None and here == before + 1:
            continue
        run = words[start:end]
        told += [f"{run[0]} to {run[-1]}"] if len(run) >= _RANGE else run
        start = end
    return _joined(told)


def _number(word: str) -> int | None:
    return int(word) if word.isdecimal() else None


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _ordinal(number: int) -> str:
    names = {1: "first", 2: "second", 3: "third"}
    return names.get(number, f"{number}th")
