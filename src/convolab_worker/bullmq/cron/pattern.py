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

from convolab_worker.bullmq.cron.hashed import HashedNumbers

if TYPE_CHECKING:
    from collections.abc import Sequence

DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
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
_MOST_VALUES = 256
_MOST_WEEKS = 5  # a month has no sixth Monday
# Names of months and of days are taken in either field.
_NAMES = {
    name: str(number)
    for names, first in (
        ("jan feb mar apr may jun jul aug sep oct nov dec", 1),
        ("sun mon tue wed thu fri sat", 0),
    )
    for number, name in enumerate(names.split(), first)
}
_WITH_H = r"|.*H\(\d+-\d+\).*|.*H/\d+.*"
_INTEGER = re.compile(r"\s*([+-]?\d+)", re.ASCII)


class InvalidPattern(ValueError):
    """A cron pattern, or a time zone, that Node's workers refuse too; the message says why."""


class Unit(Struct, frozen=True):
    """What one field of a pattern may hold; ``last`` says whether L is part of it."""

    name: str
    least: int
    most: int
    chars: str = ""
    has_names: bool = False

    @property
    def has_last(self) -> bool:
        return "L" in self.chars

    def admits(self, text: str) -> bool:
        return re.fullmatch(rf"[?,*\dH/{self.chars}-]+{_WITH_H}", text, re.ASCII) is not None


SECOND, MINUTE = Unit("second", 0, 59), Unit("minute", 0, 59)
HOUR = Unit("hour", 0, 23)
DAY = Unit("day of the month", 1, 31, "L")
MONTH = Unit("month", 1, 12, has_names=True)
WEEKDAY = Unit("day of the week", 0, 7, "L#", has_names=True)

# A value is a number, or text with an L: the last day, or the last such weekday, of a month.
Value = int | str


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
    nth_week: float  # the weekday's number in the month, 0 for any
    any_day: bool
    any_weekday: bool


def read_pattern(text: str, seed: str) -> CronPattern:
    """Returns what a pattern means; ``seed`` chooses the numbers that ``H`` stands for.

    Raises InvalidPattern.
    """
    second, minute, hour, day, month, weekday = _fields(_ALIASES.get(text, text))
    hashed = HashedNumbers(seed)
    seconds = _numbers(SECOND, _values(SECOND, second, hashed.next_number()))
    minutes = _numbers(MINUTE, _values(MINUTE, minute, hashed.next_number()))
    hours = _numbers(HOUR, _values(HOUR, hour, hashed.next_number()))
    months = _numbers(MONTH, _values(MONTH, month, hashed.next_number()))
    days = _values(DAY, day, hashed.next_number())
    which, nth_week = _nth_week(weekday)
    weekdays = _values(WEEKDAY, which, hashed.next_number())
    if "L" in weekdays:
        msg = "L alone is no day of the week: expected one before it, such as 5L"
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
    most = DAYS_IN_MONTH[months[0] - 1]
    kept = [value for value in days if isinstance(value, str) or value <= most] or days
    if not may_be_none and not _leading_number(kept[0], most + 1) <= most:
        msg = f"month {months[0]} has no day {kept[0]}"
        raise InvalidPattern(msg)
    return kept


def _last_weekdays(weekdays: Sequence[Value]) -> frozenset[int]:
    firsts = [str(value)[0] for value in weekdays]
    return frozenset(int(first) % 7 for first in firsts if first.isdecimal())


def _numbers(unit: Unit, values: Sequence[Value]) -> Sequence[int]:
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) < len(values):
        msg = f"{values[-1]} is no {unit.name}"
        raise InvalidPattern(msg)
    return numbers


# one field


def _values(unit: Unit, text: str, number: float) -> Sequence[Value]:
    """The values of one field, sorted; ``number``, from 0 to 1, chooses what H is."""
    if unit.has_names:
        text = re.sub("[A-Za-z]{3}", _numbered, text)
    if not unit.admits(text):
        msg = f"{text!r} can't be read as a {unit.name}"
        raise InvalidPattern(msg)
    text = re.sub(r"[*?]", f"{unit.least}-{unit.most}", text)
    found: list[Value] = []
    for atom in _without_hashes(unit, text, number).split(","):
        _check_count(unit, len(found))
        if not atom:
            msg = f"{text}: nothing stands between two commas"
            raise InvalidPattern(msg)
        found += _of_atom(unit, atom)
    if len({*found}) < len(found):
        msg = f"{text}: a {unit.name} is named twice"
        raise InvalidPattern(msg)
    return sorted(found, key=lambda value: (isinstance(value, str), value))


def _numbered(name: re.Match[str]) -> str:
    number = _NAMES.get(name[0].lower())
    if number is None:
        msg = f"{name[0]} is the name of no month and of no day"
        raise InvalidPattern(msg)
    return number


def _of_atom(unit: Unit, atom: str) -> Sequence[Value]:
    """The values of what stands between two commas."""
    bounds, has_step, steps = atom.partition("/")
    if "/" in steps:
        msg = f"{atom}: expected one step at most"
        raise InvalidPattern(msg)
    if has_step and "-" not in bounds:
        bounds = f"{bounds}-{unit.most}"
    if "-" in bounds:
        return _range(unit, bounds, _leading_number(steps, 0) if has_step else 1)
    return [_single(unit, bounds)]


def _single(unit: Unit, text: str) -> Value:
    if unit.has_last and "L" in text:
        if re.fullmatch(r"\d{0,2}L", text, re.ASCII) is None:
            msg = f"{text} is no {unit.name}"
            raise InvalidPattern(msg)
        return text
    number = _leading_number(text, unit.least - 1)
    if not unit.least <= number <= unit.most:
        msg = f"{text} is no {unit.name}: expected {unit.least} to {unit.most}"
        raise InvalidPattern(msg)
    if unit is WEEKDAY:
        return number % 7
    if not text.isdecimal():
        msg = f"{text} is no {unit.name}"
        raise InvalidPattern(msg)
    return number


def _range(unit: Unit, text: str, step: int) -> Sequence[int]:
    first, last = (_leading_number(bound, -1) for bound in text.split("-")[:2])
    if not unit.least <= first <= last <= unit.most:
        msg = f"{text} is no range of the {unit.name}: expected {unit.least} to {unit.most}"
        raise InvalidPattern(msg)
    if step <= 0:
        msg = f"{text}: expected a step of 1 or more"
        raise InvalidPattern(msg)
    values = [*range(first, last + 1, step)]
    is_sunday = unit is WEEKDAY and last % 7 == 0 and (last - first) % step == 0
    return [0, *(value for value in values if value)] if is_sunday else values


def _leading_number(value: Value, otherwise: int) -> int:
    """The whole number that a text begins with, as JavaScript's parseInt reads it."""
    found = _INTEGER.match(str(value))
    return otherwise if found is None else int(found[1])


def _check_count(unit: Unit, count: int) -> None:
    if count > _MOST_VALUES:
        msg = f"the {unit.name} has more than {_MOST_VALUES} values"
        raise InvalidPattern(msg)


# H: a number that differs from schedule to schedule


def _without_hashes(unit: Unit, text: str, number: float) -> str:
    counted = 0

    def chosen(match: re.Match[str]) -> str:
        nonlocal counted
        first, last, step = match.groups()
        least, most = unit.least, unit.most
        if first is not None:
            least, most = max(int(first), least), min(int(last), most)
            if int(first) > int(last) or least > most:
                msg = f"{match[0]} is no range of the {unit.name}"
                raise InvalidPattern(msg)
        if step is None:
            return str(_hashed(number, least, most))
        if int(step) <= 0:
            msg = f"{match[0]}: expected a step of 1 or more"
            raise InvalidPattern(msg)
        counted += -(-(most - least + 1) // int(step))
        _check_count(unit, counted)
        return _hashed_steps(number, least, most, int(step))

    return re.sub(r"H(?:\((\d+)-(\d+)\))?(?:/(\d+))?", chosen, text, flags=re.ASCII)


def _hashed(number: float, least: int, most: int) -> int:
    return int(number * (most - least + 1)) + least


def _hashed_steps(number: float, least: int, most: int, step: int) -> str:
    """Every ``step``-th value from a chosen one on; one value where none is reached."""
    first = least // step * step + int(number * step)
    values = [value for value in range(first, most + 1, step) if value >= least]
    return ",".join(map(str, values or [_hashed(number, least, most)]))
