"""What the drains of a worker have done, and what is left in its queues when one ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from convolab_worker.telemetry.metrics import Metrics
    from convolab_worker.worker.dispatch.dispatcher import Dispatcher

# How long a count of what is left may take when its time is over already.
LATE_COUNT_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """What a drain did: jobs that finished, those of them that failed for good, what is left.

    ``remaining`` counts waiting, prioritized and delayed jobs. ``next_due_at`` (epoch seconds) is
    when there will be something to do: the first delayed one is due, a rate limit ends, or the
    lock of a job that another worker has; None if nothing is known.
    """

    processed: int
    failed: int
    remaining: int
    next_due_at: float | None


class Tally:
    """Counts one worker's jobs, by its ``metrics``, from the beginning of the newest drain."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._before = metrics.outcomes
        self._counting: asyncio.Task[tuple[int, float | None]] | None = None
        self.drains = 0

    def begin(self) -> None:
        """A drain of held requests begins: jobs are counted from here on."""
        self._before = self._metrics.outcomes
        self.drains += 1

    def so_far(self) -> tuple[int, int]:
        """How many jobs ended in this drain, and how many of those failed for good."""
        done = self._metrics.outcomes
        failed = done["failed"] - self._before["failed"]
        return done["completed"] - self._before["completed"] + failed, failed

    async def result(self, *, drained: bool, seconds: float) -> DrainResult:
        """Return what was done in this drain, and what is left; callers share one count of that.

        Raises RedisUnavailable if it takes longer than ``seconds``, or than a moment if they are
        over.
        """
        processed, failed = self.so_far()
        if self._counting is None:
            self._counting = asyncio.create_task(
                self._dispatcher.count_remaining(drained=drained), name="convolab-count"
            )
            self._counting.add_done_callback(self._counted)
        try:
            async with asyncio.timeout(max(seconds, LATE_COUNT_SECONDS)):
                remaining, due = await asyncio.shield(self._counting)
        except TimeoutError:
            msg = "Redis does not answer: what is left can't be counted"
            raise RedisUnavailable(msg) from None
        return DrainResult(processed=processed, failed=failed, remaining=remaining, next_due_at=due)

    def _counted(self, task: asyncio.Task[tuple[int, float | None]]) -> None:
        self._counting = None
        if not task.cancelled():
            task.exception()
