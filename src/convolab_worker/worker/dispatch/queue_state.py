"""What is known of one queue: pure, no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

_FOREVER = float("inf")

# After so many takes in a row that found a job, it pays to count those that wait.
_SURE_AFTER = 3


@dataclass(slots=True)
class Standing:
    """What is known of one queue. Times are epoch seconds."""

    ready: bool = False
    sure: bool = False  # ready until a take finds nothing; otherwise for one take, on a hint
    seen: bool = False  # its jobs were seen, and no take has found one since
    hinted: bool = False  # became ready again since the last take from it began
    owed: bool = False  # became ready, and nothing was taken from it since
    passed: int = 0  # takes from owed queues while it was ready and not owed
    full: bool = False  # held since its own concurrency (in BullMQ) is used up
    asks_due: bool = False  # a due time has passed, and the next one is not known
    due_at: float | None = None
    held_until: float | None = None  # a rate limit, a pause, the queue's own concurrency
    served: int = 0  # the number of the last take from it: the rotation
    found: int = 0  # takes in a row that found a job
    waiting: int | None = None  # jobs that were counted there and not taken since

    def took(self) -> bool:
        """A take found a job; a hint is used up by it. True if there was another hint meanwhile."""
        self.seen = False
        self.found += 1
        if self.waiting is not None:
            self.counted(self.waiting - 1)
        if self.sure:
            return False
        self.ready = self.owed = False
        hinted, self.hinted = self.hinted, False
        return hinted

    def nothing(self) -> bool:
        """A take found nothing; True if jobs had been seen there."""
        seen = self.seen
        self.ready = self.sure = self.seen = self.owed = False
        self.found, self.waiting = 0, None
        return seen

    def counted(self, waiting: int) -> None:
        """So many jobs wait; if none, any more that are found came later, and are counted anew."""
        self.waiting = waiting
        if waiting <= 0:
            self.found, self.waiting = 0, None

    @property
    def wants_count(self) -> bool:
        """Whether to count the jobs that wait, so as to take several at once."""
        return self.sure and self.waiting is None and self.found >= _SURE_AFTER

    def takes(self, room: int) -> int:
        """How many takes to send at once, at least 1, where there is ``room`` for so many jobs.

        As many as are known to wait, and no more than have found one before: where something stops
        the queue, no more find nothing than have found a job.
        """
        return 1 if self.waiting is None else max(1, min(self.found, self.waiting, room))

    def is_held(self, now: float) -> bool:
        """Whether nothing is to be taken from it yet."""
        return self.held_until is not None and self.held_until > now

    def is_limited(self, now: float) -> bool:
        """Whether it is held until a known time: unlike a pause, no marker announces its end."""
        return self.is_held(now) and self.held_until != _FOREVER
