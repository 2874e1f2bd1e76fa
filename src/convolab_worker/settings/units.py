"""Values that people write: numbers, text, durations, rates, how many jobs to keep. Pure.

What is not valid raises ``ValueError``, whose text is what was expected.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import TypeGuard

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION_EXAMPLES = "such as 90, 90s, 5m, 1h or 250ms"
RATE = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,5})?(ms|s|m|h)")
RATE_EXPECTED = "jobs per time, such as 10/s, 30/m or 100/5s"
_KEEP = re.compile(r"(?:([0-9]{1,12})/)?([^/]+)")
KEEP_EXPECTED = "how many jobs to keep: 1000, 1h, 1000/1d, none or all"
_MOST_KEPT_DIGITS = 12
_MOST_SECONDS = 1e10  # some 300 years
_LARGEST = 2**53


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number; True and False, which Python counts among them, are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is text, and not the empty one."""
    return isinstance(value, str) and value != ""


def is_written(value: object) -> TypeGuard[str]:
    """Whether it is text that goes to Redis as it is: UTF-8 has no lone surrogates."""
    if not is_text(value):
        return False
    try:
        return value.isascii() or value.encode() != b""
    except UnicodeEncodeError:
        return False


def is_seconds(value: object) -> TypeGuard[float]:
    """Whether it is a time in seconds, 0 or more, that a date can be away from now."""
    return is_number(value) and 0 <= value < _MOST_SECONDS


def is_count(value: object, least: int, most: int = _LARGEST) -> bool:
    """Whether it is a whole number from ``least`` to ``most``, no more than a float can count."""
    return is_whole(value) and least <= value <= most


def parse_duration(value: str | float) -> float:
    """Return the seconds of ``90``, ``90s``, ``5m``, ``1h``, ``2d``, ``250ms`` or a number.

    Text without a unit is seconds. Raises ``ValueError`` for anything else, and for a number that
    is negative or not finite.
    """
    seconds = _seconds(value)
    if not (isfinite(seconds) and seconds >= 0):
        msg = f"expected a duration {DURATION_EXAMPLES}, got {value!r}"
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


class StartRate:
    """At most ``starts`` in any ``seconds``; ``text`` is what was written, as in ``30/m``."""

    __slots__ = ("seconds", "starts", "text")

    def __init__(self, starts: int, seconds: float, text: str = "") -> None:
        self.starts, self.seconds, self.text = starts, seconds, text

    def __repr__(self) -> str:
        return f"StartRate({self.starts}, {self.seconds}, {self.text!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StartRate):
            return NotImplemented
        return (self.starts, self.seconds) == (other.starts, other.seconds)

    def __hash__(self) -> int:
        return hash((self.starts, self.seconds))

    @property
    def interval(self) -> float:
        """The seconds from one start to the next."""
        return self.seconds / self.starts


def parse_rate(text: object) -> StartRate:
    """Return the rate that ``30/m`` or ``10/5s`` means. Raises ``ValueError`` for anything else."""
    match = RATE.fullmatch("".join(text.split())) if isinstance(text, str) else None
    if match is None:
        msg = f"expected {RATE_EXPECTED}, got {text!r}"
        raise ValueError(msg)
    return StartRate(int(match[1]), float(match[2] or 1) * _SECONDS[match[3]], match[0])


def parse_keep(value: object) -> bool | int | dict[str, int]:
    """Return BullMQ's removeOnComplete for ``1000``, ``1h``, ``1000/1d``, ``none`` or ``all``.

    A number alone, or text of digits alone, is a count of jobs; with a unit it is an age. Raises
    ``ValueError`` for anything else.
    """
    text = "".join(str(value).split()) if type(value) in (int, str) else ""
    if text in {"none", "all"}:
        return text == "none"
    if text.isdecimal() and text.isascii() and len(text) <= _MOST_KEPT_DIGITS:
        return int(text)
    match = _KEEP.fullmatch(text)
    age = _seconds(match[2]) if match is not None and not match[2].isdecimal() else 0.0
    if match is None or not 1 <= age < float("inf") or age != int(age):
        msg = f"expected {KEEP_EXPECTED}, got {value!r}"
        raise ValueError(msg)
    return {"age": int(age)} if match[1] is None else {"age": int(age), "count": int(match[1])}


def _seconds(value: object) -> float:
    """Return what a duration means in seconds, or infinity if it means nothing."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        return float(match[1]) * _SECONDS[match[2] or "s"] if match else float("inf")
    if not is_number(value):
        return float("inf")
    try:
        return float(value)
    except OverflowError:
        return float("inf")
