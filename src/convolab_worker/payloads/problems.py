"""How a message shows where something is wrong, and what was found there."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from convolab_worker.errors import InvalidPayload

_EXCERPT = 60
_LONGEST_PATH = 200

_repr = reprlib.Repr()
_repr.maxlevel = 2
_repr.maxstring = _repr.maxother = _repr.maxlong = _EXCERPT

ABSENT = object()
"""Stands for a value that is not there."""


def find(value: Any, keys: list[Any]) -> Any:
    """Return the part of a value at the end of ``keys``, or ABSENT."""
    for key in keys:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return ABSENT
    return value


def step(key: object) -> str:
    """Write one step of a path: ``.name``, ``[0]``, or ``["two words"]``."""
    if not isinstance(key, str):
        return f"[{key}]"
    return f".{key}" if key.isidentifier() and len(key) <= _EXCERPT else f"[{quote(key)}]"


def short_path(path: str) -> str:
    """Cut the middle out of a long path."""
    half = _LONGEST_PATH // 2
    return path if len(path) <= _LONGEST_PATH else f"{path[:half]}…{path[-half:]}"


def quote(text: str) -> str:
    """Write text as a JSON string of at most about 60 characters."""
    quoted = json.dumps(text[:_EXCERPT], ensure_ascii=False)
    return quoted if len(text) <= _EXCERPT else quoted[:-1] + '…"'


def show(value: object) -> str:
    """Write a value in at most about 60 characters, with its type's name."""
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
    """Make text writable as UTF-8: a lone surrogate becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def refused(error: Exception) -> InvalidPayload:
    """Return the words for an ``error`` that the user's constructor or validator has raised."""
    return InvalidPayload(printable(f"data: {str(error)[:300]} ({type(error).__name__})"))


def _short_repr(value: object) -> str:
    try:
        text = _repr.repr(value[:_EXCERPT] if isinstance(value, bytes | bytearray) else value)
    except Exception:  # noqa: BLE001 - a broken repr, or an int too long for decimal text
        return "a value"
    text = " ".join(text.split())
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"
