"""A worker's capacity: free slots, the handlers' own limits, and parked jobs. Pure.

A slot is free, reserved (a fetch is under way for it) or running. A job whose handler is at its own
limit, or whose ``rate`` makes it wait between two starts, is parked: it keeps its lock and takes no
slot.
"""

from __future__ import annotations

import operator
from collections import Counter, deque
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

_UNLIMITED = float("inf")


class StartRates:
    """Says which handlers may not start yet, by ``intervals``: seconds from one start to the next.

    A rate such as ``30/m`` is spread evenly, one start every 2 s and without a burst: no window of
    its length has more starts than the rate says. Times are monotonic.
    """

    __slots__ = ("_intervals", "_until")

    def __init__(self, intervals: Mapping[str, float]) -> None:
        self._intervals = intervals
        self._until: dict[str, float] = {}

    def __contains__(self, handler: str) -> bool:
        return handler in self._intervals

    def is_waiting(self, handler: str) -> bool:
        return handler in self._until

    def started(self, handler: str, now: float) -> None:
        interval = self._intervals.get(handler)
        if interval is not None:
            self._until[handler] = now + interval

    def pass_time(self, now: float) -> None:
        for handler in [name for name, until in self._until.items() if until <= now]:
            del self._until[handler]

    def next_time(self) -> float | None:
        return min(self._until.values(), default=None)


class Reservation:
    """A free slot that is kept for a fetch; leaving the ``with`` block frees it unless used."""

    __slots__ = ("_slots", "is_held")

    def __init__(self, slots: Slots[T]) -> None:
        self._slots = slots
        self.is_held = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_held:
            self.end()

    def end(self) -> None:
        """Free the slot, once: a job takes it, or nothing does."""
        if self.is_held:
            self.is_held = False
            self._slots.reserved -= 1


class Slots(Generic[T]):
    """The slots of a worker, and the jobs that are parked.

    ``handlers_of`` names for each queue the handlers that its jobs may need; ``limits`` gives a
    handler's own concurrency, ``intervals`` the seconds from one of its starts to the next, for
    those that have one.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        park_limit: int,
        handlers_of: Mapping[str, Sequence[str]],
        limits: Mapping[str, int],
        intervals: Mapping[str, float] | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._park_limit = park_limit
        self._handlers_of = handlers_of
        self._limits = limits
        self._rates = StartRates(intervals or {})
        self._has_rates = bool(intervals)
        self._is_limited = bool(limits) or self._has_rates
        self._running: Counter[str] = Counter()
        self._running_count = 0
        self.reserved = 0  # written by reservations
        self._parked: dict[str, deque[tuple[int, T]]] = {}
        self._parked_count = 0
        self._parkings = 0

    @property
    def running(self) -> int:
        return self._running_count

    @property
    def free(self) -> int:
        """How many slots are neither running nor reserved."""
        return self._concurrency - self._running_count - self.reserved

    @property
    def parked(self) -> int:
        return self._parked_count

    def reserve(self) -> Reservation:
        """Keep a free slot for a fetch, until the end of a ``with`` block."""
        self.reserved += 1
        return Reservation(self)

    def admit(self, reservation: Reservation, handler: str, job: T, now: float) -> bool:
        """Use a reserved slot for ``job``: True to run it from ``now`` on, False if it is parked.

        ``now`` is monotonic: a clock that is set lets no handler start too soon, or too late. Of
        one handler's jobs, the parked ones came before. A job that was adopted after a lost reply
        may find every slot used, and is parked too.
        """
        if reservation.is_held:
            reservation.is_held = False
            self.reserved -= 1
        has_slot = self._concurrency > self._running_count + self.reserved
        may_begin = handler not in self._parked and (
            not self._is_limited or self._has_room(handler)
        )
        if has_slot and may_begin:
            self._begin(handler, now)
            return True
        self._parkings += 1
        self._parked.setdefault(handler, deque()).append((self._parkings, job))
        self._parked_count += 1
        return False

    def release(self, handler: str) -> None:
        self._running[handler] -= 1
        self._running_count -= 1

    def unpark(self, now: float) -> T | None:
        """The longest parked job that can run now, in a slot that runs from here on; or None."""
        if not self._parked_count or self.free <= 0:
            return None
        startable = [handler for handler in self._parked if self._has_room(handler)]
        if not startable:
            return None
        handler = min(startable, key=lambda name: self._parked[name][0][0])
        self._begin(handler, now)
        return self._pop(handler)

    @property
    def has_startable(self) -> bool:
        """Whether a parked job could run, were a slot free."""
        return bool(self._parked) and any(self._has_room(handler) for handler in self._parked)

    def parked_jobs(self) -> dict[str, int]:
        """How many jobs are parked, by the key of their handler."""
        return {handler: len(waiting) for handler, waiting in self._parked.items()}

    def drop_parked(self, wanted: T) -> bool:
        """Forget a parked job; whether it was parked here."""
        for handler, waiting in self._parked.items():
            for entry in waiting:
                if entry[1] is wanted:
                    waiting.remove(entry)
                    self._parked_count -= 1
                    if not waiting:
                        del self._parked[handler]
                    return True
        return False

    def clear_parked(self) -> list[T]:
        """Take every parked job out, in the order in which they were parked."""
        entries = sorted(
            (entry for waiting in self._parked.values() for entry in waiting),
            key=operator.itemgetter(0),
        )
        self._parked.clear()
        self._parked_count = 0
        return [job for _, job in entries]

    def _pop(self, handler: str) -> T:
        waiting = self._parked[handler]
        _, job = waiting.popleft()
        if not waiting:
            del self._parked[handler]
        self._parked_count -= 1
        return job

    def _begin(self, handler: str, now: float) -> None:
        self._running[handler] += 1
        self._running_count += 1
        if self._has_rates:
            self._rates.started(handler, now)

    def _has_room(self, handler: str) -> bool:
        limit = self._limits.get(handler)
        has_place = limit is None or self._running[handler] < limit
        return has_place and not (self._has_rates and self._rates.is_waiting(handler))

    def has_limits(self, queue: str) -> bool:
        """Whether a handler of the queue has a concurrency or a rate of its own."""
        return any(
            handler in self._limits or handler in self._rates
            for handler in self._handlers_of.get(queue, ())
        )

    def is_open(self, queue: str) -> bool:
        """Whether a job fetched from ``queue`` could be run or parked, whichever one it is."""
        if not self._is_limited:
            return True
        handlers = self._handlers_of[queue]
        if not handlers:
            return True
        if not any(self._has_room(handler) for handler in handlers):
            return False
        if self._parked_count + self.reserved < self._park_limit:
            return True
        # No room to park: open only while whatever the fetches under way bring could run at once.
        return all(
            handler not in self._parked and self._starts_now(handler) > self.reserved
            for handler in handlers
            if handler in self._limits or handler in self._rates
        )

    def _starts_now(self, handler: str) -> float:
        """How many more jobs of the handler could start at once, were there slots."""
        if handler in self._rates:
            return int(self._has_room(handler))
        return self._limits.get(handler, _UNLIMITED) - self._running[handler]

    @property
    def has_rates(self) -> bool:
        return self._has_rates

    def end_waits(self, now: float) -> None:
        """Let handlers start again whose rate allows it at ``now``; monotonic, as in ``admit``."""
        if self._has_rates:
            self._rates.pass_time(now)

    def next_start(self) -> float | None:
        """The next moment at which ``end_waits`` lets a handler start again; monotonic."""
        return self._rates.next_time() if self._has_rates else None
