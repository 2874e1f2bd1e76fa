"""Which queue is fetched from next, how often, and which ones are listened to. Pure.

Of the ready queues, a *newly ready* one is fetched from before the others, which have their turns
in rotation; a queue that was skipped for newly ready ones too often goes with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.worker.dispatch.queue_state import Availability

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from convolab_worker.worker.dispatch.queue_state import QueueState, Turn
    from convolab_worker.worker.dispatch.slots import Slots

# A ready queue is skipped this often for newly ready ones, then it counts as newly ready itself.
MOST_SKIPS = 2
# After so many fetches in a row that found a job, it pays to count the jobs that wait.
_COUNT_AFTER_HITS = 3
_READY = Availability.READY


class QueueChoice:
    """Chooses among queues by their ``states``, which QueueTable writes, and by the free ``slots``.

    Queues of ``one_by_one`` give their jobs one after the other: how many of them could start at
    once is not known.
    """

    def __init__(
        self,
        states: Mapping[str, QueueState],
        slots: Slots[Any],
        one_by_one: Collection[str],
    ) -> None:
        self.states = states
        self.slots = slots
        self._one_by_one = one_by_one

    def next_queue(self) -> str | None:
        """The queue to fetch from now, if a slot is free and a queue is ready."""
        if self.slots.free <= 0:
            return None
        candidates = [queue for queue in self.states if self._is_fetchable(queue)]
        return min(candidates, key=self._rank) if candidates else None

    def _rank(self, queue: str) -> tuple[bool, int]:
        return (not self._comes_first(queue), self.states[queue].fetch_seq)

    def _comes_first(self, queue: str) -> bool:
        state = self.states[queue]
        return state.newly_ready or state.skipped >= MOST_SKIPS

    def _is_fetchable(self, queue: str) -> bool:
        return self.states[queue].availability is _READY and self.slots.is_open(queue)

    def fetch_count(self, queue: str) -> int:
        """How many fetches from ``queue`` to send at once, at least 1.

        As many as jobs are known to wait, and no more than have found one before: where something
        stops the queue, no more fetches find nothing than have found a job. Other ready queues have
        their share of the free slots.
        """
        state = self.states[queue]
        if state.waiting is None or queue in self._one_by_one:
            return 1
        ready = sum(self._is_fetchable(other) for other in self.states)
        return max(1, min(state.hits, state.waiting, self.slots.free // max(ready, 1)))

    def wants_count(self, queue: str) -> bool:
        """Whether to count the jobs that wait in ``queue``, so as to fetch several at once."""
        state = self.states[queue]
        may_burst = state.certain and state.waiting is None and state.hits >= _COUNT_AFTER_HITS
        return may_burst and self.slots.free > 1 and queue not in self._one_by_one

    def stays(self, queue: str, turn: Turn, now: float) -> bool:
        """Whether a slot that ends a job of ``queue`` fetches its next one from there too."""
        if not self._is_fetchable(queue):
            return False
        if len(self.states) == 1:
            return True
        others = [other for other in self.states if other != queue and self._is_fetchable(other)]
        if not others:
            return True
        return not turn.is_over(now) and not any(self._comes_first(other) for other in others)

    def listenable(self) -> list[str]:
        """The queues whose markers to listen to: none while no slot is free.

        A paused queue is one of them, since its marker ends the pause. No marker announces the end
        of LIMITED and FULL.
        """
        if self.slots.free <= 0:
            return []
        quiet = (Availability.EMPTY, Availability.PAUSED)
        return [
            queue
            for queue, state in self.states.items()
            if state.availability in quiet and self.slots.is_open(queue)
        ]

    def unwatched(self, queue: str) -> list[str]:
        """Other queues that nobody listens to while every slot is kept for ``queue``."""
        if self.slots.free > 0:
            return []
        return [
            other
            for other, state in self.states.items()
            if other != queue and state.availability is Availability.EMPTY
        ]

    def is_busy(self, queue: str) -> bool:
        """Whether this worker can't take a job of the queue now, and another one should."""
        return self.slots.free <= 0 or not self.slots.is_open(queue)

    def waits_for_rate(self) -> bool:
        """Whether known jobs wait for nothing but the next start that a handler's rate allows."""
        slots = self.slots
        if not slots.has_rates or slots.free <= 0:
            return False
        return slots.parked > 0 or any(
            state.availability is _READY and not slots.is_open(queue)
            for queue, state in self.states.items()
        )
