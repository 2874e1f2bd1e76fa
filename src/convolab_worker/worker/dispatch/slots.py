"""Which queue to take from, and which handlers may start another job now: pure, no I/O, no clock.

What is known of a queue (``Standing``):

    quiet   -- a marker, a sweep, a due time --> ready    a job may be there: take from it
    ready   -- a take found nothing -->          quiet    its marker is waited for
    any     -- limited, paused, full -->         held     left alone until a time, or its marker

A slot is free, reserved (a take is under way for it) or running. A job whose handler is at its own
limit, or rests after a start (see ``rates``), is parked: it keeps its lock, and takes no slot.

Of the queues that are ready, one that has just become so is *owed* a take before the others, which
have their turns in rotation; one that was passed over for owed ones too often goes with them.
"""

from __future__ import annotations

import operator
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from convolab_worker.worker.dispatch.queue_state import Standing
from convolab_worker.worker.dispatch.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

_FOREVER = float("inf")

# A slot stays on its queue for this many jobs or this long, then others that are ready have a turn.
TURN_JOBS = 32
TURN_SECONDS = 1.0
# A ready queue waits for this many takes from owed ones, then it counts as owed itself.
MOST_PASSES = 2


@dataclass(slots=True)
class Turn:
    """How long a slot has stayed on its queue."""

    started_at: float
    jobs: int = 0

    def is_over(self, now: float) -> bool:
        """Whether other queues that are ready come first now."""
        return self.jobs >= TURN_JOBS or not 0 <= now - self.started_at < TURN_SECONDS


class Slots(Generic[T]):
    """The slots of a worker, the jobs parked beside them, and what is known of its queues.

    ``handlers_of`` names for each queue the handlers that its jobs may need; ``limits`` gives a
    handler's own concurrency, ``intervals`` the seconds from one of its starts to the next, for
    those that have one. A queue with such handlers (every queue, with ``one_by_one``) gives its
    jobs one after the other: how many of them could start at once is not known.
    """

    def __init__(
        self,
        queues: Sequence[str],
        *,
        concurrency: int,
        park_limit: int,
        handlers_of: Mapping[str, Sequence[str]],
        limits: Mapping[str, int],
        intervals: Mapping[str, float] | None = None,
        one_by_one: bool = False,
    ) -> None:
        """Begin with every slot free and nothing known of any queue."""
        self.standing = {queue: Standing() for queue in queues}
        held_back = {*limits, *(intervals or {})}
        self._one_by_one = {
            queue
            for queue in queues
            if one_by_one or not held_back.isdisjoint(handlers_of.get(queue, ()))
        }
        self._concurrency = concurrency
        self._park_limit = park_limit
        self._handlers_of = handlers_of
        self._limits = limits
        self._rates = Rates(intervals or {})
        self._has_rates = bool(intervals)
        self._running: Counter[str] = Counter()
        self._running_count = 0
        self._reserved = 0
        self._takes = 0
        self._parked: dict[str, deque[tuple[int, T]]] = {}
        self._parked_count = 0
        self._parkings = 0

    # slots

    @property
    def running(self) -> int:
        """Slots whose handler is running."""
        return self._running_count

    @property
    def free(self) -> int:
        """Slots that are neither running nor reserved."""
        return self._concurrency - self._running_count - self._reserved

    @property
    def parked(self) -> int:
        """Jobs that wait in memory for their handler's limit."""
        return self._parked_count

    def reserve(self, queue: str) -> bool:
        """Keep a free slot for a take from ``queue``; True if its next due time is not known."""
        self._reserved += 1
        self._takes += 1
        standing = self.standing[queue]
        if standing.owed:
            for other in self.standing.values():
                other.passed += other.ready and not other.owed
        standing.owed = standing.hinted = False
        standing.passed, standing.served = 0, self._takes
        asks_due, standing.asks_due = standing.asks_due, False
        return asks_due

    def cancel_reservation(self) -> None:
        """Free a reserved slot: the take found nothing, or failed."""
        self._reserved -= 1

    def admit(self, handler: str, job: T, now: float) -> bool:
        """Use a reserved slot for ``job``: True to run it from ``now`` on, False if it was parked.

        ``now`` is monotonic: a clock that is set lets no handler start too soon, or too late.

        Of one handler's jobs, those that are parked came before. A job that is ours already (taken
        by a take whose answer was lost) may find every slot used, and is parked too.
        """
        self._reserved -= 1
        if self.free > 0 and self._has_room(handler) and handler not in self._parked:
            self._begin(handler, now)
            return True
        self._parkings += 1
        self._parked.setdefault(handler, deque()).append((self._parkings, job))
        self._parked_count += 1
        return False

    def release(self, queue: str, handler: str) -> None:
        """Free the slot of a job whose handler ended."""
        self._running[handler] -= 1
        self._running_count -= 1
        standing = self.standing[queue]
        if standing.full:
            standing.full, standing.held_until = False, None
            self.ready(queue, sure=True)

    def unpark(self, now: float) -> T | None:
        """The longest parked job that can run now, in a slot that runs from here on; or None."""
        if self.free <= 0 or not self._parked_count:
            return None
        ripe = [handler for handler in self._parked if self._has_room(handler)]
        if not ripe:
            return None
        handler = min(ripe, key=lambda name: self._parked[name][0][0])
        self._begin(handler, now)
        return self._pop(handler)

    @property
    def has_ripe(self) -> bool:
        """Whether a parked job could run, were a slot free."""
        return any(self._has_room(handler) for handler in self._parked)

    def drop_parked(self, wanted: T) -> bool:
        """Forget a parked job, if it is parked here."""
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
        return has_place and not (self._has_rates and self._rates.is_resting(handler))

    @property
    def rests(self) -> bool:
        """Whether jobs that are known wait for nothing but the end of a handler's rest."""
        if not self._has_rates or self.free <= 0:
            return False
        return self._parked_count > 0 or any(
            standing.ready and standing.held_until is None and not self.is_open(queue)
            for queue, standing in self.standing.items()
        )

    # queues

    def is_open(self, queue: str) -> bool:
        """Whether a job taken from ``queue`` could be run or parked, whichever one it is."""
        handlers = self._handlers_of[queue]
        if not (self._limits or self._has_rates) or not handlers:
            return True
        if not any(self._has_room(handler) for handler in handlers):
            return False
        if self._parked_count + self._reserved < self._park_limit:
            return True
        # No room to park: open only while whatever the takes under way bring could run at once.
        return all(
            handler not in self._parked and self._starts_now(handler) > self._reserved
            for handler in handlers
            if handler in self._limits or handler in self._rates
        )

    def _starts_now(self, handler: str) -> float:
        """How many more jobs of the handler could start at once, were there slots."""
        if handler in self._rates:
            return int(self._has_room(handler))
        return self._limits.get(handler, _FOREVER) - self._running[handler]

    def next_queue(self, now: float) -> str | None:
        """The queue to take from now, if a slot is free and one is ready."""
        if self.free <= 0:
            return None
        candidates = [queue for queue in self.standing if self._takeable(queue, now)]
        if not candidates:
            return None
        return min(candidates, key=self._rank)

    def _rank(self, queue: str) -> tuple[bool, int]:
        return (not self._comes_first(queue), self.standing[queue].served)

    def _comes_first(self, queue: str) -> bool:
        standing = self.standing[queue]
        return standing.owed or standing.passed >= MOST_PASSES

    def _takeable(self, queue: str, now: float) -> bool:
        standing = self.standing[queue]
        return standing.ready and not standing.is_held(now) and self.is_open(queue)

    def takes(self, queue: str, now: float) -> int:
        """How many takes from ``queue`` to send at once; others that are ready have their share."""
        if queue in self._one_by_one:
            return 1
        ready = sum(self._takeable(other, now) for other in self.standing)
        return self.standing[queue].takes(self.free // max(ready, 1))

    def wants_count(self, queue: str) -> bool:
        """Whether to count the jobs that wait in ``queue``, beside a take."""
        standing = self.standing[queue]
        return standing.wants_count and self.free > 1 and queue not in self._one_by_one

    def counted(self, queue: str, waiting: int) -> None:
        """So many jobs were seen to wait in ``queue``."""
        self.standing[queue].counted(waiting)

    def stays(self, queue: str, turn: Turn, now: float) -> bool:
        """Whether a slot that ends a job of ``queue`` takes its next one from there too."""
        if not self._takeable(queue, now):
            return False
        if len(self.standing) == 1:
            return True
        others = [other for other in self.standing if other != queue and self._takeable(other, now)]
        if not others:
            return True
        return not turn.is_over(now) and not any(self._comes_first(other) for other in others)

    def waitable(self, now: float) -> list[str]:
        """The queues whose markers to wait for: quiet, open, and only while a slot is free.

        A paused queue is one of them, whatever is known of its jobs: its marker ends the pause.
        """
        if self.free <= 0:
            return []
        return [
            queue
            for queue, standing in self.standing.items()
            if (not standing.ready or standing.held_until == _FOREVER)
            and self.is_open(queue)
            and not standing.is_limited(now)
        ]

    def unwatched(self, queue: str) -> list[str]:
        """Other queues that nobody waits for while every slot stays busy with ``queue``."""
        if self.free > 1:
            return []
        return [
            other
            for other, standing in self.standing.items()
            if other != queue and not standing.ready and standing.held_until is None
        ]

    def ready(self, queue: str, *, sure: bool = False) -> None:
        """A job may be there: on a hint, or (``sure``) as its jobs were seen."""
        standing = self.standing[queue]
        standing.hinted = True
        if not standing.ready:
            standing.ready = standing.owed = True
            if not sure:  # what was found before came alone, or long ago
                standing.found = 0
        if sure:
            standing.sure = standing.seen = True

    def took(self, queue: str) -> bool:
        """A take found a job; a hint is used up by it.

        True if the queue was hinted at again while the take was under way: that may have been the
        take's own marker, or tell of another job.
        """
        return self.standing[queue].took()

    def nothing(self, queue: str) -> bool:
        """A take found nothing; True if jobs had been seen there, so that something holds them.

        What was heard of the queue while the take was under way may be newer than its answer: then
        the queue is ready again, and nothing is concluded yet.
        """
        standing = self.standing[queue]
        seen = standing.nothing()
        if standing.hinted:
            self.ready(queue, sure=seen)
            return False
        return seen

    def due(self, queue: str, due_at: float | None) -> None:
        """The queue's next delayed job is due then; of two times the earlier one counts."""
        standing = self.standing[queue]
        if due_at is not None and (standing.due_at is None or due_at < standing.due_at):
            standing.due_at = due_at

    def hold(self, queue: str, until: float, *, full: bool = False) -> None:
        """Take nothing from the queue before ``until`` or, if it is ``full``, the end of a job."""
        standing = self.standing[queue]
        standing.held_until, standing.full = until, full

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so much (back, if negative): holds last no longer for it."""
        for standing in self.standing.values():
            if standing.held_until is not None:
                standing.held_until += seconds

    def pass_time(self, now: float) -> list[str]:
        """Make queues ready whose due time or hold is over; the ones that became so."""
        woken = []
        for queue, standing in self.standing.items():
            due = standing.due_at is not None and standing.due_at <= now
            freed = standing.held_until is not None and standing.held_until <= now
            if due:
                standing.due_at, standing.asks_due = None, True
            if freed:
                standing.held_until, standing.full = None, False
            if due or freed:
                self.ready(queue, sure=freed)
                woken.append(queue)
        return woken

    def next_time(self) -> float | None:
        """The next moment at which ``pass_time`` makes a queue ready."""
        times = [standing.due_at for standing in self.standing.values()]
        times += [standing.held_until for standing in self.standing.values()]
        known = [time for time in times if time is not None]
        return min(known) if known else None

    def end_rests(self, now: float) -> None:
        """Let handlers start again whose rest is over; monotonic, as in ``admit``."""
        self._rates.pass_time(now)

    def next_rested(self) -> float | None:
        """The next moment at which ``end_rests`` lets a handler start again; monotonic."""
        return self._rates.next_time()
