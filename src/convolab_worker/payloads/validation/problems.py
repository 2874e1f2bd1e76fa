"""Collects what is wrong with a value, and where, and writes the message."""

from __future__ import annotations

import json
import reprlib

MOST_PROBLEMS = 5
"""How many problems one message has; it says that there are more, but not which."""

_EXCERPT = 60
_LONGEST_PATH = 200
_LONGEST_TEXT = 300

_repr = reprlib.Repr()
_repr.maxlevel = 2
_repr.maxstring = _repr.maxother = _repr.maxlong = _EXCERPT


class Problems(list[tuple[str, str]]):
    """Pairs of a path below the checked value and what is wrong there.

    A check returns this instead of the checked value, so that a value that fits builds no path
    and raises nothing.
    """

    cause: BaseException | None = None
    """What the user's constructor or validator raised, for the exception's ``from``."""

    mistagged = False
    """A Literal differs, so in a union this is probably not the member that was meant."""

    def add(self, step: str, inner: Problems) -> None:
        """Add the problems of the part at ``step`` ('.name' or '[0]')."""
        self.extend((step + path, text) for path, text in inner)
        self.cause = self.cause or inner.cause
        self.mistagged = self.mistagged or inner.mistagged

    @property
    def enough(self) -> bool:
        """Whether further problems would add nothing to the message."""
        return len(self) > MOST_PROBLEMS

    def message(self, root: str) -> str:
        """Return one line with all problems; their paths start at ``root``."""
        shown = [f"{_short_path(root + path)}: {text}" for path, text in self[:MOST_PROBLEMS]]
        if self.enough:
            shown.append("and more")
        return printable("; ".join(shown))


def unexpected(expected: str, value: object) -> Problems:
    """Return the problem that ``value`` is not what was expected."""
    return Problems([("", f"expected {expected}, got {show(value)}")])


def refused(error: Exception) -> Problems:
    """Return the problem that the user's own constructor or validator raised ``error``."""
    problems = Problems([("", f"{str(error)[:_LONGEST_TEXT]} ({type(error).__name__})")])
    problems.cause = error
    return problems


def step(key: object) -> str:
    """Return one step of a path: ``.name``, ``[0]``, or ``["two words"]``."""
    if not isinstance(key, str):
        return f"[{key}]"
    return f".{key}" if key.isidentifier() and len(key) <= _EXCERPT else f"[{quote(key)}]"


def quote(text: str) -> str:
    """Return text as a JSON string of at most about 60 characters."""
    quoted = json.dumps(text[:_EXCERPT], ensure_ascii=False)
    return quoted if len(text) <= _EXCERPT else quoted[:-1] + '…"'


def show(value: object) -> str:
    """Return a value in at most about 60 characters, with its type's name."""
    if value is None:
        return "null"
    if isinstance(value, str):
        text = quote(value)
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = _short_repr(value)
    return f"{text} ({type(value).__name__})"


def printable(text: str) -> str:
    """Return text that UTF-8 can hold: a lone surrogate becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _short_repr(value: object) -> str:
    try:
        text = _repr.repr(value[:_EXCERPT] if isinstance(value, bytes | bytearray) else value)
    except Exception:  # noqa: BLE001 - a broken repr, or an int too long for decimal text
        return "a value"
    text = " ".join(text.split())
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def _short_path(path: str) -> str:
    half = _LONGEST_PATH // 2
    return path if len(path) <= _LONGEST_PATH else f"{path[:half]}…{path[-half:]}"
