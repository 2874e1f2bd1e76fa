"""Backoff strategies of an application's own, by the names that jobs' options give them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.places import is_async, place
from convolab_worker.handlers.retry import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

S = TypeVar("S", bound="Callable[..., float | None]")

# What BullMQ's own strategies answer for "no further attempt".
_NO_MORE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
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
        """The job's data, not validated."""
        return json.loads(self.raw_data)


class Strategies:
    """Functions from a failed attempt to the seconds before the next, by name."""

    def __init__(self) -> None:
        """Start with none."""
        self._by_name: dict[str, Callable[[FailedAttempt], float | None]] = {}

    def register(self, name: object) -> Callable[[S], S]:
        """A decorator that registers a function under ``name``. Raises ConfigurationError."""
        if not isinstance(name, str) or not name or name in BUILT_IN:
            msg = f"backoff({name!r}): expected a name other than BullMQ's {' and '.join(BUILT_IN)}"
            raise ConfigurationError(msg)

        def register(strategy: S) -> S:
            if is_async(strategy):
                msg = f"backoff({name!r}): expected a plain function, got {strategy!r}"
                raise ConfigurationError(msg)
            self._add(name, strategy)
            return strategy

        return register

    def include(self, other: Strategies) -> None:
        """Take over every strategy of ``other``, or none where a name is taken."""
        for name, strategy in other._by_name.items():
            self._check_free(name, strategy)
        self._by_name.update(other._by_name)

    def delay(self, kind: str, failed: FailedAttempt) -> float | None:
        """The seconds that the strategy called ``kind`` gives; None for no further attempt.

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
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is None or (is_number and seconds == _NO_MORE):
            return None
        if not is_number or not 0 <= seconds < float("inf"):
            msg = f"backoff: strategy {kind!r} gave {seconds!r}: expected seconds, or None"
            raise ConfigurationError(msg)
        return seconds

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._by_name)

    def _add(self, name: str, strategy: Callable[[FailedAttempt], float | None]) -> None:
        self._check_free(name, strategy)
        self._by_name[name] = strategy

    def _check_free(self, name: str, strategy: Callable[[FailedAttempt], float | None]) -> None:
        known = self._by_name.get(name, strategy)
        if known is not strategy:
            msg = f"two backoff strategies called {name!r}: {place(known)} and {place(strategy)}"
            raise ConfigurationError(msg)


NO_STRATEGIES = Strategies()
