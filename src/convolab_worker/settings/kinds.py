"""Kinds of options: how each is read from text, which values are valid, and words for these.

The options themselves are in ``options``. A value that is not valid raises ``ValueError``, whose
text is what was expected.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, Protocol

from convolab_worker.settings.units import (
    DURATION_EXAMPLES,
    KEEP_EXPECTED,
    RATE,
    RATE_EXPECTED,
    format_duration,
    is_number,
    is_whole,
    parse_duration,
    parse_keep,
)
from convolab_worker.settings.urls import check_url, mask_url, starts_with

_CONTROLS = r"\x00-\x1f\x7f"
_SURROGATES = r"\ud800-\udfff"  # halves of a character, which UTF-8 can't carry
_ANY_NAME = re.compile(rf"[^{_CONTROLS}{_SURROGATES}]+")
_PLAIN_NAME = re.compile(rf"[^\s{_CONTROLS}{_SURROGATES},]+")
_DIGITS = re.compile(r"[+-]?[0-9]{1,18}")


def suggestion(name: str, known: list[str], *, likeness: float = 0.5) -> str:
    """Return ``; did you mean …?`` with the nearest of the known names, or the empty string.

    ``likeness`` is how much of it has to be the same, from 0 to 1.
    """
    from difflib import get_close_matches  # only a mistake needs it

    near = get_close_matches(name, known, n=1, cutoff=likeness)
    return f"; did you mean {near[0]}?" if near else ""


class Kind(Protocol):
    """What sort of value an option takes.

    ``parse`` returns the value that the text of a variable or a flag means, unchecked; ``text``
    writes a value as ``parse`` reads it. ``check`` returns the value in its own type, and raises
    ``ValueError`` where it is outside. ``expected`` is what it has to be, in words.
    """

    @property
    def expected(self) -> str: ...

    def parse(self, text: str) -> Any: ...

    def text(self, value: Any) -> str: ...

    def check(self, value: Any) -> Any: ...


def show(kind: Kind, value: Any) -> str:
    """Return a value as text for a message or a log, with secrets masked."""
    secret = isinstance(kind, Text) and kind.secret
    if value is None or not (secret or isinstance(kind, Url)):
        return repr(value)
    if secret or not isinstance(value, str):
        return "'***'"
    return repr(mask_url(value))


class _AsWritten:
    """The half of a kind whose value is the text itself; ``check`` says which are valid."""

    __slots__ = ()

    def parse(self, text: str) -> Any:
        return text

    def text(self, value: Any) -> str:
        return str(value)


class Duration:
    """Seconds as a float, within bounds; text may have a unit."""

    __slots__ = ("high", "low")

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    @property
    def expected(self) -> str:
        return f"a duration from {format_duration(self.low)} to {format_duration(self.high)}"

    def parse(self, text: str) -> float:
        try:
            return parse_duration(text)
        except ValueError:
            msg = f"{self.expected}, {DURATION_EXAMPLES}"
            raise ValueError(msg) from None

    def text(self, value: Any) -> str:
        return format_duration(value)

    def check(self, value: Any) -> float:
        if not is_number(value):
            msg = f"{self.expected}, as a number of seconds"
            raise ValueError(msg)
        if self.low <= value <= self.high:
            return float(value)
        raise ValueError(self.expected)


class Whole(_AsWritten):
    """A whole number within bounds."""

    __slots__ = ("high", "low")

    def __init__(self, low: int, high: int | None = None) -> None:
        self.low = low
        self.high = high

    @property
    def expected(self) -> str:
        if self.high is None:
            return f"a whole number, {self.low} or more"
        return f"a whole number from {self.low} to {self.high}"

    def parse(self, text: str) -> int:
        if not _DIGITS.fullmatch(text):  # so that 1e3 and 8.5 are refused
            raise ValueError(self.expected)
        return int(text)

    def check(self, value: Any) -> int:
        if is_whole(value) and self.low <= value and (self.high is None or value <= self.high):
            return int(value)
        raise ValueError(self.expected)


class Choice(_AsWritten):
    """One of a few names, in upper or lower case."""

    __slots__ = ("names",)

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(self.names)

    def check(self, value: Any) -> str:
        if isinstance(value, str) and value.lower() in self.names:
            return value.lower()
        raise ValueError(self.expected)


class Text(_AsWritten):
    """Text that matches a pattern; ``expected`` says the pattern in words."""

    __slots__ = ("expected", "pattern", "secret")

    def __init__(self, pattern: str, expected: str, *, secret: bool = False) -> None:
        self.pattern = pattern
        self.expected = expected
        self.secret = secret

    def check(self, value: Any) -> str:
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return value
        raise ValueError(self.expected)


class Rate(Text):
    """Jobs per time, as text that ``parse_rate`` reads; spaces in it do not count."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(RATE.pattern, RATE_EXPECTED)

    def parse(self, text: str) -> str:
        return text.replace(" ", "")


class KeptJobs(_AsWritten):
    """How many jobs that have ended are kept, as ``parse_keep`` reads it; a value is text."""

    __slots__ = ()
    expected = KEEP_EXPECTED

    def check(self, value: Any) -> str:
        try:
            parse_keep(value)
        except ValueError:
            raise ValueError(self.expected) from None
        return "".join(str(value).split())


class Names:
    """A tuple of different names that are not empty; text has commas between them.

    Names of ``any_text`` may have white space and commas. Those with commas are written as a JSON
    list.
    """

    __slots__ = ("any_text", "expected")

    def __init__(self, expected: str, *, any_text: bool = False) -> None:
        self.expected = expected
        self.any_text = any_text

    def parse(self, text: str) -> tuple[str, ...]:
        if self.any_text and text.startswith("["):
            with contextlib.suppress(ValueError):
                return tuple(json.loads(text))
        return tuple(name.strip() for name in text.split(","))

    def text(self, value: Any) -> str:
        has_commas = any("," in name for name in value)
        return json.dumps(value, ensure_ascii=False) if has_commas else ",".join(value)

    def check(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, (tuple, list)) or not value:
            raise ValueError(self.expected)
        for name in value:
            fault = self._fault(name, value)
            if fault:
                msg = f"{self.expected}; {fault}"
                raise ValueError(msg)
        return tuple(value)

    def _fault(self, name: object, names: tuple[object, ...] | list[object]) -> str:
        if not isinstance(name, str):
            return f"{name!r} is not text"
        if not name:
            return "a name is empty"
        if ":" in name:
            return f"{name!r} has a colon, which BullMQ forbids"
        allowed = _ANY_NAME if self.any_text else _PLAIN_NAME
        if not allowed.fullmatch(name):
            others = "" if self.any_text else "white space, a comma or "
            return f"{name!r} has {others}a control character, or a lone surrogate"
        return f"{name!r} is there twice" if names.count(name) > 1 else ""


class Url(_AsWritten):
    """An address with one of a few schemes; messages never show its password."""

    __slots__ = ("schemes",)

    def __init__(self, schemes: tuple[str, ...]) -> None:
        self.schemes = schemes

    @property
    def expected(self) -> str:
        return starts_with(self.schemes)

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(self.expected)  # noqa: TRY004 - every invalid value raises the same error
        check_url(value, self.schemes)
        return value
