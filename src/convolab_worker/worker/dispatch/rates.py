"""How often a handler may start: pure, no I/O, no clock.

A rate such as ``30/m`` is spread evenly, one start every 2 s, and without a burst: in any window of
its length there are never more starts than it says, wherever the window begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Rates:
    """Which handlers rest after a start; ``intervals`` has the seconds, for those with a rate.

    A handler rests from its start until ``pass_time`` is told of a time after its rest. Times are
    monotonic: a clock that is set changes no rest.
    """

    __slots__ = ("_intervals", "_until")

    def __init__(self, intervals: Mapping[str, float]) -> None:
        """Begin with every handler rested."""
        self._intervals = intervals
        self._until: dict[str, float] = {}

    def __contains__(self, handler: str) -> bool:
        """Whether the handler has a rate."""
        return handler in self._intervals

    def is_resting(self, handler: str) -> bool:
        """Whether the handler may not start yet."""
        return handler in self._until

    def started(self, handler: str, now: float) -> None:
        """A job of the handler starts."""
        interval = self._intervals.get(handler)
        if interval is not None:
            self._until[handler] = now + interval

    def pass_time(self, now: float) -> None:
        """End the rests that are over."""
        for handler in [name for name, until in self._until.items() if until <= now]:
            del self._until[handler]

    def next_time(self) -> float | None:
        """When the first rest is over."""
        return min(self._until.values(), default=None)
