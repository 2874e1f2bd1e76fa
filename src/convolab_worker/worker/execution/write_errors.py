"""What an error of a write means: whether the outcome was written, and what is written instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker._logs import Log
from convolab_worker.bullmq.job_lock import take_back
from convolab_worker.bullmq.jobs.outcome import Completed, Failed, Lost, Outcome
from convolab_worker.bullmq.protocol.records import FAILED_CHILDREN, PENDING_CHILDREN
from convolab_worker.bullmq.worker_side import reconcile
from convolab_worker.bullmq.worker_side.backend import Refusal
from convolab_worker.bullmq.worker_side.reconcile import Fate
from convolab_worker.connection.commands.error_replies import is_of_another_type
from convolab_worker.errors import LockLost, RedisRefused, RedisUnavailable, ReplyLost
from convolab_worker.worker.execution.children import Aborted

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.connection.upkeep.reconnect import Reconnection
    from convolab_worker.worker.execution.executor import JobInHand
    from convolab_worker.worker.locks import HeldLock

_log = Log()


class WriteErrors:
    """Finds out, on ``backend``, what became of jobs whose outcome met an error.

    ``may_reclaim`` says whether this process never stood still while it held a lock;
    ``lock_duration`` is in seconds.
    """

    def __init__(
        self,
        backend: Backend,
        reconnection: Reconnection,
        *,
        lock_duration: float,
        may_reclaim: Callable[[HeldLock], bool],
    ) -> None:
        self._backend = backend
        self._reconnection = reconnection
        self._lock_duration = lock_duration
        self._may_reclaim = may_reclaim

    async def was_written(self, job: ActiveJob, error: RedisUnavailable, call: Call) -> bool:
        """Whether the outcome was written although Redis gave no good answer; waits for Redis."""
        if isinstance(error, RedisRefused):
            return await self._was_written_all_the_same(job, error)
        if not isinstance(error, ReplyLost):  # not even sent: the connection was gone already
            await self._reconnection.wait()
            return False
        fate = await self._reconnection.answered(
            lambda: reconcile.fate_of(self._backend, job, call)
        )
        if fate is Fate.TAKEN:
            _log.warning("job.outcome_uncertain", job_id=job.id, queue=job.queue)
        return fate is not Fate.NOT_WRITTEN

    async def _was_written_all_the_same(self, job: ActiveJob, error: RedisRefused) -> bool:
        """Undo at once what a refused script has done by half; whether it had done all of it.

        A job that a worker's death left like that would be in no list, and lost.
        """
        try:
            if not await reconcile.restore(self._backend, job, self._lock_duration, str(error)):
                return True
            if is_of_another_type(str(error)) and await reconcile.set_aside(
                self._backend, job.queue, job.id, job
            ):
                return False
        except RedisUnavailable as unmended:  # what is left is done before the next attempt
            _log.debug("job.not_restored", job_id=job.id, error=str(unmended))
        await self._reconnection.refused(error)
        return False

    async def instead(
        self, held: JobInHand, outcome: Outcome, error: Exception, *, was_refused: bool
    ) -> Outcome:
        """What to write after ``error``: the same, a failure, or nothing since the job is lost."""
        if isinstance(error, Aborted):
            return error.outcome
        if isinstance(error, Refusal):
            return await self._refused(held.job, error)
        if not isinstance(error, LockLost):  # a child that can't be added
            return Failed(str(error))
        if error.held and (asked := await self._cancelled(held.job, outcome)) is not None:
            return asked
        if await self._regained(held, outcome, error, was_refused=was_refused):
            return outcome
        return Lost(str(error))

    async def _cancelled(self, job: ActiveJob, outcome: Outcome) -> Outcome | None:
        """What to write where the lock holds a request to cancel: an end, if it has one, stands."""
        if isinstance(outcome, Lost):
            return None
        connection, keys = self._backend.connection, self._backend.keys[job.queue]
        taken = await self._reconnection.answered(
            lambda: take_back(connection, keys, job, self._lock_duration)
        )
        if taken is None:
            return None
        has_failed = isinstance(outcome, Failed) and outcome.retry_in is None
        if taken.asked is None or has_failed or isinstance(outcome, Completed):
            return outcome
        return taken.asked

    async def _regained(
        self, held: JobInHand, outcome: Outcome, lost: LockLost, *, was_refused: bool
    ) -> bool:
        """Whether a lock that ran out while Redis was away is ours again.

        Where a script was refused half-way, the job may be in no list: it is put back to ``active``
        first.
        """
        if isinstance(outcome, Lost) or not lost.ran_out or not self._may_reclaim(held):
            return False
        job, keys = held.job, self._backend.keys[held.job.queue]

        async def reclaimed() -> bool:
            if was_refused:
                await reconcile.restore(self._backend, job, self._lock_duration, "")
            connection, seconds = self._backend.connection, self._lock_duration
            return await reconcile.reclaim(connection, keys, job, seconds)

        return await self._reconnection.answered(reclaimed)

    async def _refused(self, job: ActiveJob, refusal: Refusal) -> Failed:
        """BullMQ would not complete the job, or make it wait; it is still ours, and fails."""
        if refusal.code == PENDING_CHILDREN:
            return Failed(f"Job {job.id} has pending dependencies: its handler returned too early")
        if refusal.code == FAILED_CHILDREN:
            return await self._failed_child(job)
        return Failed(f"BullMQ refused to move the job on, with its code {refusal.code}")

    async def _failed_child(self, job: ActiveJob) -> Failed:
        try:
            reason = await reconcile.failed_child_reason(self._backend, job)
            return Failed(reason or "a child has failed")
        except RedisUnavailable:  # the job's own failure is written again until it is
            return Failed("a child has failed")
