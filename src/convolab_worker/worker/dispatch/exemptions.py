"""Exempts parked jobs from BullMQ's count of stalls: a crash before they start is not theirs.

counted  -- begin() -->           exempt    the job's counter is lower by one
exempt   -- end(), end_now() -->  counted
any      -- an answer is lost --> doubtful  until ``catch_up``, after the next connection
doubtful -- catch_up() -->        counted   compares first: whatever was executed, it is even
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    import asyncio

    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.connection.upkeep.reconnect import Reconnection


class Exemptions:
    """Knows which jobs of this worker are exempt, and which may be."""

    def __init__(self, backend: Backend, reconnection: Reconnection) -> None:
        self._backend = backend
        self._reconnection = reconnection
        self._exempt: set[ActiveJob] = set()
        self._doubtful: set[ActiveJob] = set()

    def begin(self, job: ActiveJob) -> None:
        """The job is parked. Nothing waits for it."""
        self._exempt.add(job)
        begun = self._backend.exempt_from_stall_count(job, 1)
        begun.add_done_callback(lambda done: self._answered(job, done))

    def end(self, job: ActiveJob) -> None:
        """The job starts. Nothing waits for it."""
        if job in self._exempt:
            self._exempt.remove(job)
            ended = self._backend.exempt_from_stall_count(job, -1)
            ended.add_done_callback(lambda done: self._answered(job, done))

    async def end_now(self, job: ActiveJob) -> None:
        """The job is about to leave this worker: its stalls are counted again before that."""
        if job in self._exempt:
            self._exempt.remove(job)
            self._doubtful.add(job)  # until it is answered, even if this is cancelled
            try:
                await self._backend.exempt_from_stall_count(job, -1)
            except RedisRefused:
                self._doubtful.remove(job)  # the job itself can be returned all the same
            except RedisUnavailable:
                pass
            else:
                self._doubtful.remove(job)
        if job in self._doubtful:
            await self._reconnection.answered(lambda: self._end_again(job))

    def forget(self, job: ActiveJob) -> None:
        """The job is another worker's by now."""
        self._exempt.discard(job)
        self._doubtful.discard(job)

    async def catch_up(self) -> None:
        """Count again the stalls of jobs whose answers were lost. Raises RedisUnavailable."""
        while self._doubtful:
            await self._end_again(next(iter(self._doubtful)))

    async def _end_again(self, job: ActiveJob) -> None:
        with contextlib.suppress(RedisRefused):
            await self._backend.end_exemption_again(job)
        self._doubtful.discard(job)

    def _answered(self, job: ActiveJob, done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and isinstance(done.exception(), RedisUnavailable):
            self._exempt.discard(job)
            if not isinstance(done.exception(), RedisRefused):
                self._doubtful.add(job)
