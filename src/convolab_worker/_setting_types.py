"""Kinds of option: how each is read from text, which values are valid, and the words for them.

The options themselves are in ``settings``. A value that is not valid raises ``ValueError``, whose
text is what was expected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol

from convolab_worker._urls import (
    REDIS_SCHEMES,
    check_http_url,
    mask_url,
    parse_redis_url,
    starts_with,
)

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_RATE = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,5})?(ms|s|m|h)")
RATE_EXPECTED = "jobs per time, such as 10/s, 30/m or 100/5s"
_DIGITS = re.compile(r"[+-]?[0-9]{1,18}")
_EXAMPLES = "such as 90, 90s, 5m, 1h or 250ms"


def parse_duration(value: str | float) -> float:
    """Return the seconds that ``90``, ``90s``, ``5m``, ``1h``, ``250ms`` or a number means.

    Text without a unit is seconds. Raises ``ValueError`` for anything else, and for a number that
    is negative or not finite.
    """
    seconds = _seconds(value)
    if not (isfinite(seconds) and seconds >= 0):
        msg = f"expected a duration {_EXAMPLES}, got {value!r}"
        raise ValueError(msg)
    return seconds


def format_duration(seconds: float) -> str:
    """Return seconds in the largest unit that keeps them whole: ``90s``, ``5m``, ``1h``."""
    for unit in ("h", "m", "s"):
        amount = seconds / _SECONDS[unit]
        if amount >= 1 and amount == int(amount):
            return f"{int(amount)}{unit}"
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"


@dataclass(frozen=True, slots=True)
class StartRate:
    """At most ``starts`` in any ``seconds``."""

    starts: int
    seconds: float

    @property
    def interval(self) -> float:
        """The seconds from one start to the next."""
        return self.seconds / self.starts


def parse_rate(text: object) -> StartRate:
    """Return the rate that ``30/m`` or ``10/5s`` means. Raises ``ValueError`` for anything else."""
    match = _RATE.fullmatch("".join(text.split())) if isinstance(text, str) else None
    if match is None:
        msg = f"expected {RATE_EXPECTED}, got {text!r}"
        raise ValueError(msg)
    return StartRate(int(match[1]), float(match[2] or 1) * _SECONDS[match[3]])


def suggestion(name: str, known: list[str]) -> str:
    """Return ``; did you mean …?`` with the nearest of the known names, or the empty string."""
    from difflib import get_close_matches  # only a mistake needs it

    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def show(kind: Kind, value: Any) -> str:
    """Return a value as text for a message or a log, with secrets masked."""
    secret = isinstance(kind, Text) and kind.secret
    if value is None or not (secret or isinstance(kind, Url)):
        return repr(value)
    if secret or not isinstance(value, str):
        return "'***'"
    return repr(mask_url(value))


class Kind(Protocol):
    """How the values of an option are read, checked and written."""

    @property
    def expected(self) -> str:
        """What a valid value is, in words that follow "expected"."""

    def parse(self, text: str) -> Any:
        """Return the value that the text of a variable or a flag means, unchecked."""

    def check(self, value: Any) -> Any:
        """Return the value in its own type. Raises ``ValueError`` if it is not valid."""

    def text(self, value: Any) -> str:
        """Return a value as text that ``parse`` reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Seconds as a float, within bounds; text may have a unit."""

    low: float
    high: float

    @property
    def expected(self) -> str:
        """The bounds, with their units."""
        return f"a duration from {format_duration(self.low)} to {format_duration(self.high)}"

    def parse(self, text: str) -> float:
        """Return the seconds that the text means."""
        try:
            return parse_duration(text)
        except ValueError:
            msg = f"{self.expected}, {_EXAMPLES}"
            raise ValueError(msg) from None

    def text(self, value: Any) -> str:
        """Return the seconds with a unit."""
        return format_duration(value)

    def check(self, value: Any) -> float:
        """Return the seconds as a float."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            msg = f"{self.expected}, as a number of seconds"
            raise ValueError(msg)  # noqa: TRY004 - every invalid value raises the same error
        if self.low <= value <= self.high:
            return float(value)
        raise ValueError(self.expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A whole number within bounds."""

    low: int
    high: int | None = None

    @property
    def expected(self) -> str:
        """The bounds."""
        if self.high is None:
            return f"a whole number, {self.low} or more"
        return f"a whole number from {self.low} to {self.high}"

    def parse(self, text: str) -> int:
        """Return the number that the digits are; text such as 1e3 or 8.5 is refused."""
        if not _DIGITS.fullmatch(text):
            raise ValueError(self.expected)
        return int(text)

    def text(self, value: Any) -> str:
        """Return the digits."""
        return str(value)

    def check(self, value: Any) -> int:
        """Return the number; a bool and a float are refused."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and value >= self.low and (self.high is None or value <= self.high):
            return int(value)
        raise ValueError(self.expected)


class _TextKind:
    """A kind whose values are text, as they are written."""

    __slots__ = ()

    def parse(self, text: str) -> str:
        """Return the text; ``check`` judges it."""
        return text

    def text(self, value: Any) -> str:
        """Return the text."""
        return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(_TextKind):
    """One of a few names, in upper or lower case."""

    names: tuple[str, ...]

    @property
    def expected(self) -> str:
        """The names."""
        return "one of " + ", ".join(self.names)

    def check(self, value: Any) -> str:
        """Return the name in lower case."""
        if isinstance(value, str) and value.lower() in self.names:
            return value.lower()
        raise ValueError(self.expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(_TextKind):
    """Text that matches a pattern; ``expected`` says the pattern in words."""

    pattern: str
    expected: str
    secret: bool = False

    def check(self, value: Any) -> str:
        """Return the text."""
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return value
        raise ValueError(self.expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(_TextKind):
    """Jobs per time, as text that ``parse_rate`` reads."""

    expected: str = RATE_EXPECTED

    def parse(self, text: str) -> str:
        """Return the text without spaces; ``check`` judges it."""
        return text.replace(" ", "")

    def check(self, value: Any) -> str:
        """Return the text."""
        if isinstance(value, str) and _RATE.fullmatch(value):
            return value
        raise ValueError(self.expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """A tuple of different names that are not empty; text has commas between them."""

    expected: str

    def parse(self, text: str) -> tuple[str, ...]:
        """Return the names between the commas; empty names stay, and ``check`` refuses them."""
        return tuple(name.strip() for name in text.split(","))

    def text(self, value: Any) -> str:
        """Return the names with commas between them."""
        return ",".join(value)

    def check(self, value: Any) -> tuple[str, ...]:
        """Return the names as a tuple; the error says which name is wrong, and why."""
        if not isinstance(value, (tuple, list)) or not value:
            raise ValueError(self.expected)
        for name in value:
            fault = self._fault(name, value)
            if fault:
                msg = f"{self.expected}; {fault}"
                raise ValueError(msg)
        return tuple(value)

    @staticmethod
    def _fault(name: object, names: tuple[object, ...] | list[object]) -> str:
        if not isinstance(name, str):
            return f"{name!r} is not text"
        if not name:
            return "a name is empty"
        if ":" in name:
            return f"{name!r} has a colon, which BullMQ forbids"
        if not re.fullmatch(r"[^\s\x00-\x1f\x7f,]+", name):
            return f"{name!r} has white space, a comma or a control character"
        return f"{name!r} is there twice" if names.count(name) > 1 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Url(_TextKind):
    """An address with one of a few schemes; messages never show its password."""

    schemes: tuple[str, ...]

    @property
    def expected(self) -> str:
        """The schemes."""
        return starts_with(self.schemes)

    def check(self, value: Any) -> str:
        """Return the address as it was written."""
        if not isinstance(value, str):
            raise ValueError(self.expected)  # noqa: TRY004 - every invalid value raises the same error
        if self.schemes == REDIS_SCHEMES:
            parse_redis_url(value)
        else:
            check_http_url(value, self.schemes)
        return value


def _seconds(value: object) -> float:
    """Return what a duration means in seconds, or infinity if it means nothing."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        return float(match[1]) * _SECONDS[match[2] or "s"] if match else float("inf")
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return float("inf")
    try:
        return float(value)
    except OverflowError:
        return float("inf")
