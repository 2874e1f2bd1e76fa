"""Reads one field of a cron pattern: the values that it stands for. Pure.

What seems odd is cron-parser's way: see ``pattern``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_VALUES = 256
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
    """What one field of a pattern may hold, and which characters it alone has (``chars``)."""

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


def values_of(unit: Unit, text: str, number: float) -> Sequence[Value]:
    """The values of one field, sorted; ``number``, from 0 to 1, chooses what H is.

    Raises InvalidPattern.
    """
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


def numbers_of(unit: Unit, text: str, number: float) -> Sequence[int]:
    """The same for a field that may hold numbers only."""
    values = values_of(unit, text, number)
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) < len(values):
        msg = f"{values[-1]} is not a {unit.name}"
        raise InvalidPattern(msg)
    return numbers


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
        return _range(unit, bounds, leading_number(steps, 0) if has_step else 1)
    return [_single(unit, bounds)]


def _single(unit: Unit, text: str) -> Value:
    if unit.has_last and "L" in text:
        if re.fullmatch(r"\d{0,2}L", text, re.ASCII) is None:
            msg = f"{text} is not a {unit.name}"
            raise InvalidPattern(msg)
        return text
    number = leading_number(text, unit.least - 1)
    if not unit.least <= number <= unit.most:
        msg = f"{text} is not a {unit.name}: expected {unit.least} to {unit.most}"
        raise InvalidPattern(msg)
    if unit is WEEKDAY:
        return number % 7
    if not text.isdecimal():
        msg = f"{text} is not a {unit.name}"
        raise InvalidPattern(msg)
    return number


def _range(unit: Unit, text: str, step: int) -> Sequence[int]:
    first, last = (leading_number(bound, -1) for bound in text.split("-")[:2])
    if not unit.least <= first <= last <= unit.most:
        msg = f"{text} is not a range of the {unit.name}: expected {unit.least} to {unit.most}"
        raise InvalidPattern(msg)
    if step <= 0:
        msg = f"{text}: expected a step of 1 or more"
        raise InvalidPattern(msg)
    values = [*range(first, last + 1, step)]
    is_sunday = unit is WEEKDAY and last % 7 == 0 and (last - first) % step == 0
    return [0, *(value for value in values if value)] if is_sunday else values


def leading_number(value: Value, otherwise: int) -> int:
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
                msg = f"{match[0]} is not a range of the {unit.name}"
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
