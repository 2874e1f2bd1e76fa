"""Whether and when a failed job is tried again, by the rules of BullMQ's Backoffs. Pure."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from msgspec import Struct

from convolab_worker.bullmq.protocol.job_options import is_true, number
from convolab_worker.bullmq.protocol.keywords import BUILT_IN
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.functions import has_yield, is_async, place
from convolab_worker.settings.units import is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

S = TypeVar("S", bound="Callable[..., float | None]")

_MAX_DELAY_MS = 2**53 - 1  # JavaScript's largest exact integer
_NO_MORE = -1  # what strategies of BullMQ return for "no further attempt"
# Due at once, but as a delayed job: below 0, or "0", which is true in JavaScript.
_PASSED_MS = -0.1
_MOST_DOUBLINGS = 64  # a millisecond that is doubled so often is longer than the longest wait


def retry_delay(
    opts: Mapping[str, Any],
    attempts_made: int,
    *,
    random: float,
    custom: Callable[[str], float | None] | None = None,
) -> float | None:
    """Return the seconds until the next attempt (0: at once), or None if there is none.

    ``attempts_made`` are the attempts before the one that just failed; ``random`` is from 0 to 1.
    ``custom`` gives the seconds for a strategy that is not one of BullMQ's own, by its name.
    Raises ConfigurationError for a backoff that can't be understood.
    """
    attempts = number(opts.get("attempts", 0))
    if attempts is None or attempts_made + 1 >= attempts:
        return None
    backoff = opts.get("backoff")
    name = backoff.get("type") if isinstance(backoff, dict) else None
    if custom is not None and isinstance(name, str) and name not in BUILT_IN:
        seconds = custom(name)
        return seconds if seconds is None else min(seconds, _MAX_DELAY_MS / 1000)
    kind, delay_ms, jitter = _backoff(backoff)
    if kind == "exponential":
        # JavaScript's Math.round, for numbers up to the bound that is applied below.
        doubled = 2.0 ** min(max(attempts_made, 0), _MOST_DOUBLINGS) * delay_ms
        delay_ms = float(math.floor(min(doubled, _longest(backoff)) + 0.5))
    if jitter > 0 and delay_ms:
        delay_ms = math.floor(random * delay_ms * jitter + delay_ms * (1 - jitter))
    if delay_ms == _NO_MORE:
        return None
    return min(abs(max(delay_ms, _PASSED_MS)), _MAX_DELAY_MS) / 1000


def _backoff(backoff: object) -> tuple[str, float, float]:
    """The kind, delay (milliseconds) and jitter (0 to 1) of a job's ``backoff`` option."""
    if not is_true(backoff):
        return "fixed", 0.0, 0.0
    if _is_finite(backoff):
        return "fixed", float(backoff), 0.0
    if not isinstance(backoff, dict):
        msg = f"backoff: expected milliseconds or an object with a type, got {backoff!r}"
        raise ConfigurationError(msg)
    kind = backoff.get("type")
    if kind not in BUILT_IN:
        msg = f"backoff: unknown strategy {kind!r}; known are {' and '.join(BUILT_IN)}"
        raise ConfigurationError(msg)
    given = backoff.get("delay")
    delay, jitter = number(given), number(backoff.get("jitter"))
    if delay is None and kind == "exponential":  # in JavaScript a power times NaN, which is false
        delay = 0
    jitter = min(jitter or 0.0, sys.float_info.max)
    if not _is_finite(delay):
        msg = f"backoff: expected a delay in milliseconds, got {backoff!r}"
        raise ConfigurationError(msg)
    if not (delay or jitter > 0) and kind == "fixed" and isinstance(given, str) and given:
        return kind, _PASSED_MS, 0.0
    return kind, float(delay or 0), float(jitter)


def _longest(backoff: object) -> float:
    """The longest wait in milliseconds: this library's ``maxDelay``, which Node does not know."""
    longest = backoff.get("maxDelay") if isinstance(backoff, dict) else None
    return min(max(longest, 0.0), _MAX_DELAY_MS) if _is_finite(longest) else _MAX_DELAY_MS


def _is_finite(value: object) -> TypeGuard[float]:
    """Whether it is a finite number in JavaScript, too: Python's integers have no bound."""
    return is_number(value) and abs(value) <= sys.float_info.max


class FailedAttempt(Struct, frozen=True, kw_only=True):
    """An attempt that failed, as a backoff strategy sees it.

    ``attempt`` counts from 1 to ``max_attempts``; ``raw_data`` is the job's data as JSON text.
    """

    id: str
    name: str
    queue: str
    attempt: int
    max_attempts: int
    error: BaseException
    raw_data: bytes

    @property
    def data(self) -> Any:
        """Return the job's data, not validated."""
        return json.loads(self.raw_data)


class Strategies:
    """Functions from a failed attempt to the seconds before the next, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Callable[[FailedAttempt], float | None]] = {}

    def register(self, name: object) -> Callable[[S], S]:
        """Return a decorator that registers a function. Raises ConfigurationError."""
        if not isinstance(name, str) or not name or name in BUILT_IN:
            msg = f"backoff({name!r}): expected a name other than BullMQ's {' and '.join(BUILT_IN)}"
            raise ConfigurationError(msg)

        def register(strategy: S) -> S:
            if is_async(strategy) or has_yield(strategy):
                msg = f"backoff({name!r}): expected a plain function, got {strategy!r}"
                raise ConfigurationError(msg)
            self._check_free(name, strategy)
            self._by_name[name] = strategy
            return strategy

        return register

    def include(self, other: Strategies) -> None:
        """Take over every strategy of ``other``, or none where a name is taken."""
        for name, strategy in other._by_name.items():
            self._check_free(name, strategy)
        self._by_name.update(other._by_name)

    def delay(self, kind: str, failed: FailedAttempt) -> float | None:
        """Return the seconds that the strategy called ``kind`` gives; None for no further attempt.

        Raises ConfigurationError for one that is not known, raises, or gives no time.
        """
        strategy = self._by_name.get(kind)
        if strategy is None:
            known = ", ".join([*BUILT_IN, *self._by_name])
            msg = f"backoff: unknown strategy {kind!r}; known are {known}"
            raise ConfigurationError(msg)
        try:
            seconds = strategy(failed)
        except Exception as error:
            msg = f"backoff: strategy {kind!r} raised {type(error).__name__}: {error}"
            raise ConfigurationError(msg) from error
        if seconds is None or (is_number(seconds) and seconds == _NO_MORE):
            return None
        if not is_number(seconds) or not 0 <= seconds < float("inf"):
            msg = f"backoff: strategy {kind!r} gave {seconds!r}: expected seconds, or None"
            raise ConfigurationError(msg)
        return seconds

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def _check_free(self, name: str, strategy: Callable[[FailedAttempt], float | None]) -> None:
        known = self._by_name.get(name, strategy)
        if known is not strategy:
            msg = f"two backoff strategies called {name!r}: {place(known)} and {place(strategy)}"
            raise ConfigurationError(msg)


NO_STRATEGIES = Strategies()
