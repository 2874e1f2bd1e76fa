"""Finds jobs whose worker died: active, and without a lock.

BullMQ looks every 30 s and needs two passes, since it can't tell how long a lock will last. Here
the locks' remaining time is asked for, and the next check is due when the first of them would end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from convolab_worker._logs import Log
from convolab_worker.bullmq.worker_side import reconcile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from convolab_worker.bullmq.worker_side.backend import Backend

_log = Log()
_FOREVER = float("inf")
# How long workers that were cut off take to reconnect and lock their jobs again, at most.
_RETURN_SECONDS = 6.0
_MARGIN_SECONDS = 0.05


class StalledChecker:
    """Owns when each queue's active jobs are checked next; times are epoch seconds.

    ``ids_in_hand`` gives the ids of this worker's own jobs of a queue.
    """

    def __init__(
        self,
        backend: Backend,
        ids_in_hand: Callable[[str], set[str]],
        *,
        max_stalled: int,
        lock_duration: float,
    ) -> None:
        self._backend = backend
        self._ids_in_hand = ids_in_hand
        self._max_stalled = max_stalled
        self._lock_duration = lock_duration
        self._checks: dict[str, float] = {}
        self._others: set[str] = set()  # queues in which another worker was seen to have jobs
        self._not_before = 0.0

    def fetched(self, queue: str, now: float) -> None:
        """This worker has a job of the queue: it checks once in a lock's duration."""
        self._checks.setdefault(queue, now + self._lock_duration)

    def schedule(self, queue: str, *, after: float | None = None) -> None:
        """Schedule a check: an active job of the queue may have lost its worker.

        ``after`` is in seconds; by default the duration of a lock.
        """
        self._others.add(queue)
        at = time.time() + (self._lock_duration if after is None else after)
        self._checks[queue] = min(at, self._checks.get(queue, _FOREVER))

    def seen_active(self, queue: str, now: float, *, anew: bool) -> None:
        """A probe saw active jobs of the queue; ``anew`` means that nothing known before counts."""
        if anew or not self._ids_in_hand(queue):
            self._others.add(queue)
            at = now if anew else self._checks.get(queue, now)
            self._checks[queue] = max(at, self._not_before)

    def is_news(self, queue: str) -> bool:
        return queue not in self._checks and not self._ids_in_hand(queue)

    def none_active(self, queues: Iterable[str]) -> None:
        """Nobody has a job of those queues: none can stall."""
        for queue in queues:
            if not self._ids_in_hand(queue):
                self._others.discard(queue)
                self._checks.pop(queue, None)

    def outage_over(self, seconds: float, now: float) -> None:
        """Redis was away so long: leave locks that may have run out to their workers for a while.

        The workers that held them need a moment to lock their jobs again.
        """
        if seconds > self._lock_duration / 4:
            self._not_before = now + min(max(self._lock_duration / 2, 1.5), _RETURN_SECONDS)

    def next_time(self) -> float | None:
        return min(self._checks.values(), default=None)

    def next_foreign(self) -> float | None:
        """When the lock of a job that another worker has runs out, where one was seen."""
        return min((self._checks[q] for q in self._others & {*self._checks}), default=None)

    def due(self, now: float) -> list[str]:
        return [queue for queue, at in self._checks.items() if at <= now]

    async def check(self, queue: str, now: float) -> bool:
        """Recover the queue's stalled jobs; whether there were any."""
        del self._checks[queue]
        ours = self._ids_in_hand(queue)
        if not ours and queue not in self._others:
            return False
        self._others.discard(queue)
        locks = await reconcile.locks_of_active(self._backend, queue)
        others = {job_id: left for job_id, left in locks.items() if job_id not in ours}
        if not others:
            if ours:
                self._checks[queue] = now + self._lock_duration
            return False
        unlocked = [job_id for job_id, left in others.items() if left is None]
        recovered = await self._recover(queue, unlocked) if unlocked else []
        self._others.add(queue)
        left = [seconds for seconds in others.values() if seconds is not None]
        self._checks[queue] = now + min(left, default=self._lock_duration) + _MARGIN_SECONDS
        return bool(recovered)

    async def _recover(self, queue: str, unlocked: list[str]) -> list[str]:
        recovered = await reconcile.recover_stalled(
            self._backend, queue, unlocked, self._max_stalled
        )
        if recovered:
            _log.warning("jobs.stalled", queue=queue, job_ids=recovered)
        return recovered

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so much (back, if negative): checks move with it."""
        for queue in self._checks:
            self._checks[queue] += seconds
