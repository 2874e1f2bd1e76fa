"""Decides when to wake the worker service, when to try again, and when to ask next: pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convolab_worker.settings.units import is_number

if TYPE_CHECKING:
    from collections.abc import Mapping

ATTEMPTS = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LONGEST_WAIT_ASKED_FOR = 120.0
# A request that was held for this long did its work: if a platform ended it then, all is well.
_HELD_LONG = 30.0
# A service that answers at once stays awake by itself: it needs no second wake in the same moment.
_AWAKE_FOR = 1.0
_DUE_SLACK = 0.05
_FUTILE_PAUSE, _LONGEST_FUTILE_PAUSE = 1.0, 300.0
_MOST_DOUBLINGS = 16

_AWAKE = 202
REDIRECTS, _REFUSALS, _FAULTS = 300, 400, 500
"""The first status of each family; statuses below are successes."""

_TOO_SOON = frozenset({408, 425, 429})
_HINTS = {
    401: "the token is not the service's: see CONVOLAB_WAKE_TOKEN and CONVOLAB_WAKE_AUDIENCE",
    403: "the caller may not invoke the service: see CONVOLAB_WAKE_AUDIENCE and the service's IAM",
    404: "nothing answers there: CONVOLAB_WAKE_URL is the service's address with the path /wake",
    405: "something else answers there: CONVOLAB_WAKE_URL is the service's address with /wake",
}
_MOVED = "the address redirects, and a token is not carried on: expected the final address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The service's answer: its status, and the JSON body of a held wake."""

    status: int
    retry_after: float | None = None
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """No answer: refused, too late or cut off; ``held`` counts the seconds since a good status."""

    reason: str
    held: float | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """The service is awake, or was.

    The next wake is due ``after`` seconds (None: with the next job), and never sooner than
    ``quiet_for``. ``futile`` counts the answers in a row by which no job was processed.
    """

    after: float | None = None
    quiet_for: float = 0.0
    futile: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """The next attempt is due after so many seconds; its number is ``attempt``."""

    after: float
    attempt: int


@dataclass(frozen=True, slots=True)
class GivenUp:
    """There is no further attempt: the service wakes by other means, such as a scheduler."""

    reason: str
    hint: str | None = None


def judge(
    result: Answered | Unanswered, *, attempt: int, futile: int, now: float, random: float
) -> Heard | Again | GivenUp:
    """Return what to do after attempt number ``attempt``, which counts from 1.

    ``futile`` is that of the last answer; ``now`` is epoch seconds, ``random`` from 0 to 1.
    """
    if isinstance(result, Unanswered):
        if result.held is not None and result.held >= _HELD_LONG:
            return Again(_pause(1, random), 1)
        return _again(result.reason, None, attempt, random)
    if result.status < REDIRECTS:
        if result.body.get("error"):  # in a stream the error comes too late to be a status
            return _again("it could not look for work", None, attempt, random)
        return _heard(result, futile, now)
    reason = f"status {result.status}"
    if result.status >= _FAULTS or result.status in _TOO_SOON:
        return _again(reason, result.retry_after, attempt, random)
    hint = _MOVED if result.status < _REFUSALS else _HINTS.get(result.status)
    return GivenUp(reason, hint)


def _again(reason: str, asked: float | None, attempt: int, random: float) -> Again | GivenUp:
    if attempt >= ATTEMPTS:
        return GivenUp(f"{reason}, {attempt} times")
    if asked is None:
        return Again(_pause(attempt, random), attempt + 1)
    if asked > _LONGEST_WAIT_ASKED_FOR:
        return GivenUp(f"{reason}, and it asks for a pause of {asked:g} s")
    return Again(asked + random * _FIRST_PAUSE, attempt + 1)


def _pause(attempt: int, random: float) -> float:
    """Return a pause that doubles with each attempt; half of it is random, to spread callers."""
    return float(min(_FIRST_PAUSE * 2 ** (attempt - 1), _LONGEST_PAUSE)) * (0.5 + random / 2)


def _heard(answer: Answered, futile: int, now: float) -> Heard:
    body = answer.body
    if answer.status == _AWAKE:
        return Heard(quiet_for=_AWAKE_FOR)
    if body.get("status") not in ("drained", "budget"):
        return Heard()
    futile = 0 if _number(body.get("processed")) else futile + 1
    pause = _futile_pause(futile)
    if body["status"] == "budget" and _number(body.get("remaining")):
        return Heard(pause, futile=futile)
    due_at = _number(body.get("next_due_at"))
    return Heard(max(due_at - now + _DUE_SLACK, pause) if due_at else None, futile=futile)


def _futile_pause(futile: int) -> float:
    """Return a pause that grows while due jobs stay where they are, as in a paused queue."""
    if not futile:
        return 0.0
    doubled = _FUTILE_PAUSE * 2 ** min(futile - 1, _MOST_DOUBLINGS)
    return float(min(doubled, _LONGEST_FUTILE_PAUSE))


def due_in(delay: float) -> float:
    """Return after how many seconds to wake for a job with that delay."""
    return delay + _DUE_SLACK


def retry_after(text: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for; None if it can't be read.

    The header has a number or a date; ``now`` is epoch seconds.
    """
    given = (text or "").strip()
    if given.isascii() and given.isdigit():
        return float(given)
    from email.utils import parsedate_to_datetime  # few services send a date

    try:
        return max(parsedate_to_datetime(given).timestamp() - now, 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def _number(value: object) -> float:
    return float(value) if is_number(value) else 0.0
