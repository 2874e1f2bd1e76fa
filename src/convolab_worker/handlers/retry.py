"""Whether and when a failed job is tried again: pure, by the rules of BullMQ's Backoffs."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUILT_IN = ("fixed", "exponential")
_MAX_DELAY_MS = 2**53 - 1  # what a JavaScript producer's dashboards can count
_MOST_DOUBLINGS = 64  # a millisecond, doubled so often, is more than that


def retry_delay(
    opts: Mapping[str, Any],
    attempts_made: int,
    *,
    random: float,
    custom: Callable[[str], float | None] | None = None,
) -> float | None:
    """Seconds until the next attempt (0: at once), or None if there is none.

    ``attempts_made`` are the attempts before the one that just failed; ``random`` is from 0 to 1.
    ``custom`` gives the seconds for a strategy that is not one of BullMQ's own, by its name.
    Raises ConfigurationError for a backoff that can't be understood.
    """
    attempts = opts.get("attempts", 0)
    if not _is_number(attempts) or attempts_made + 1 >= attempts:
        return None
    backoff = opts.get("backoff")
    name = backoff.get("type") if isinstance(backoff, dict) else None
    if custom is not None and isinstance(name, str) and name not in BUILT_IN:
        seconds = custom(name)
        return seconds if seconds is None else min(seconds, _MAX_DELAY_MS / 1000)
    kind, delay_ms, jitter = _backoff(backoff)
    if kind == "exponential":
        # JavaScript's Math.round, up to what is cut below anyway.
        doubled = 2.0 ** min(max(attempts_made, 0), _MOST_DOUBLINGS) * delay_ms
        delay_ms = float(math.floor(min(doubled, _MAX_DELAY_MS) + 0.5))
    if jitter > 0:
        delay_ms = math.floor(random * delay_ms * jitter + delay_ms * (1 - jitter))
    return min(max(delay_ms, 0.0), _MAX_DELAY_MS) / 1000


def _backoff(backoff: object) -> tuple[str, float, float]:
    """The kind, delay (milliseconds) and jitter (0 to 1) of a job's ``backoff`` option."""
    if not backoff and not isinstance(backoff, (dict, list)):  # what is false in JavaScript
        return "fixed", 0.0, 0.0
    if _is_number(backoff):
        return "fixed", float(backoff), 0.0  # type: ignore[arg-type]
    if not isinstance(backoff, dict):
        msg = f"backoff: expected milliseconds or an object with a type, got {backoff!r}"
        raise ConfigurationError(msg)
    kind = backoff.get("type")
    if kind not in BUILT_IN:
        msg = f"backoff: unknown strategy {kind!r}; known are {' and '.join(BUILT_IN)}"
        raise ConfigurationError(msg)
    delay, jitter = backoff.get("delay") or 0, backoff.get("jitter") or 0
    if not (_is_number(delay) and _is_number(jitter) and 0 <= jitter <= 1):
        msg = f"backoff: expected a delay in milliseconds and a jitter from 0 to 1, got {backoff!r}"
        raise ConfigurationError(msg)
    return kind, float(delay), float(jitter)


def _is_number(value: object) -> bool:
    """Whether JavaScript would read it as a finite number; Python's integers have no bound."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )
