"""BullMQ's job options: their names, what a handler adds to them, and their meaning at an end.

What producers have stored is read without ever raising. How their keywords become options is in
``keywords``.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from convolab_worker.settings.units import is_number

if TYPE_CHECKING:
    from collections.abc import Mapping

# BullMQ's short names of job options, as stored (bullmq.job.optsDecodeMap).
LONG_NAMES: Mapping[str, str] = {
    "fpof": "failParentOnFailure",
    "cpof": "continueParentOnFailure",
    "idof": "ignoreDependencyOnFailure",
    "rdof": "removeDependencyOnFailure",
    "kl": "keepLogs",
    "de": "deduplication",
}
_NUMERAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_RADIXES = {"0x": 16, "0o": 8, "0b": 2}
_SHORT_NAMES = {long: short for short, long in LONG_NAMES.items()}
_LARGEST_IN_LUA = 2**53
_KEPT_BY = ("count", "age", "limit")


class Options(dict[str, Any]):
    """A job's options by their long names; jobs with the same options share one object.

    ``at_end`` keeps what ``end_options`` has made of them, ``completed_by`` what ``Defaults`` have.
    """

    __slots__ = ("at_end", "completed_by")

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.at_end: dict[str, Mapping[str, Any]] = {}
        self.completed_by: dict[Defaults, Options] = {}


class Defaults:
    """The ``options`` that jobs get of which their own say nothing.

    BullMQ's producers write 0 attempts where nobody said how many.
    """

    __slots__ = ("options",)

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def complete(self, opts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns ``opts`` with those that are missing; the same object where none is."""
        if not self.options:
            return opts
        known: dict[Defaults, Options] = opts.completed_by if isinstance(opts, Options) else {}
        found = known.get(self)
        if found is None:
            missing = {key: self.options[key] for key in self.options if _is_missing(opts, key)}
            if not missing:
                return opts
            found = known[self] = Options({**opts, **missing})
        return found


def _is_missing(opts: Mapping[str, Any], key: str) -> bool:
    said = opts.get(key)
    return said is None or (key == "attempts" and said == 0)


def number(value: object) -> float | None:
    """Returns the number that JavaScript takes a JSON value for where it needs one; None for NaN.

    ``attempts`` and other numbers are text where they come from an environment variable.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return None if isinstance(value, float) and math.isnan(value) else value
    if value is None or value == []:
        return 0
    if isinstance(value, list):  # its text is read: true or an object gives none
        is_text = len(value) == 1 and not isinstance(value[0], (bool, dict))
        return number(value[0]) if is_text else None
    return _number_in(value.strip()) if isinstance(value, str) else None


def is_true(value: object) -> bool:
    """Whether JavaScript takes a JSON value for true: empty lists and objects, too."""
    return bool(value) or isinstance(value, (list, dict))


def _number_in(text: str) -> float | None:
    radix = _RADIXES.get(text[:2].lower())
    try:
        if radix is not None:
            return int(text[2:], radix)
        if text in {"Infinity", "+Infinity", "-Infinity"}:
            return float(text)
        return float(text) if _NUMERAL.fullmatch(text) else None if text else 0
    except (ValueError, OverflowError):
        return None


def most_attempts(opts: Mapping[str, Any]) -> int:
    """Returns how often a job with these options may be tried: at least once."""
    attempts = opts.get("attempts")
    if type(attempts) is not int:
        attempts = math.ceil(min(max(number(attempts) or 1, 1), _LARGEST_IN_LUA))
    return max(attempts, 1)


def long_options(stored: object) -> dict[str, Any]:
    """Stored options by their long names; none of a number, text or list, as in JavaScript."""
    options = stored if isinstance(stored, dict) else {}
    return {LONG_NAMES.get(key, key): value for key, value in options.items()}


def short_options(opts: Mapping[str, Any]) -> dict[str, Any]:
    return {_SHORT_NAMES.get(key, key): value for key, value in opts.items()}


def end_options(opts: Mapping[str, Any], target: str) -> Mapping[str, Any]:
    """What the script that ends a job wants to know of its options.

    Making it takes longer than packing it, and jobs with the same options follow each other.
    """
    known: dict[str, Mapping[str, Any]] = opts.at_end if isinstance(opts, Options) else {}
    found = known.get(target)
    if found is None:
        remove = opts.get("removeOnComplete" if target == "completed" else "removeOnFail")
        found = known[target] = {
            "keepJobs": _keep_jobs(remove),
            "attempts": _sent(number(opts.get("attempts")), otherwise=0),
            "fpof": is_true(opts.get("failParentOnFailure")),
            "cpof": is_true(opts.get("continueParentOnFailure")),
            "idof": is_true(opts.get("ignoreDependencyOnFailure")),
            "rdof": is_true(opts.get("removeDependencyOnFailure")),
        }
    return found


def _keep_jobs(remove: object) -> Mapping[str, Any]:
    """What BullMQ's ``removeOnComplete`` and ``removeOnFail`` mean (Scripts.getKeepJobs).

    A part that is not a number is left out, and a part of a job counts as one: the script would
    stop half-way on them.
    """
    if isinstance(remove, (dict, list)):
        given = remove if isinstance(remove, dict) else {}
        known = {key: _sent(_as_lua(given.get(key)), otherwise=None) for key in _KEPT_BY}
    else:
        known = {"count": _sent(remove, otherwise=0 if remove else -1)}
    return {
        key: value if key == "age" else math.ceil(value) if value >= 0 else -1
        for key, value in known.items()
        if value is not None
    }


def _as_lua(value: object) -> object:
    """Text becomes a number where Lua calculates with it."""
    return number(value) if isinstance(value, str) and value.strip() else value


def _sent(value: object, *, otherwise: int | None) -> float | None:
    """``value`` if it is a number, the nearest that Lua keeps exactly, or ``otherwise``."""
    if not is_number(value) or math.isnan(value):
        return otherwise
    return min(max(value, -_LARGEST_IN_LUA), _LARGEST_IN_LUA)
