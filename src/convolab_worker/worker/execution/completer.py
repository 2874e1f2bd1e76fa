"""Writes a job's outcome, once: whatever becomes of the connection on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from convolab_worker.bullmq import flows, reconcile
from convolab_worker.bullmq.backend import Refusal, now_ms
from convolab_worker.bullmq.job_lock import take_back
from convolab_worker.bullmq.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Lost,
    Outcome,
    Postponed,
)
from convolab_worker.bullmq.protocol.records import extended_stacktrace
from convolab_worker.bullmq.protocol.replies import (
    FAILED_CHILDREN,
    NOT_ASKED,
    PENDING_CHILDREN,
    FetchResult,
)
from convolab_worker.bullmq.reconcile import Fate
from convolab_worker.connection.error_replies import meaning
from convolab_worker.errors import (
    ConvolabWorkerError,
    LockLost,
    RedisRefused,
    RedisUnavailable,
    ReplyLost,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.bullmq.backend import Backend
    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.connection.reconnect import Reconnection

_log = structlog.get_logger("convolab_worker")
# An error that is not a known state of the server, this often in a row, is about the job itself.
_PATIENT_REFUSALS = 5


class JobCompleter:
    """Settles outcomes on ``queues``; ``reconnection`` is waited for when an answer is lost."""

    def __init__(
        self,
        backend: Backend,
        reconnection: Reconnection,
        *,
        lock_duration: float,
        may_reclaim: Callable[[ActiveJob], bool],
    ) -> None:
        """Keep the collaborators; ``may_reclaim`` says whether this process never stood still."""
        self._lock_duration = lock_duration
        self._may_reclaim = may_reclaim
        self._backend = backend
        self._reconnection = reconnection

    async def settle(
        self, job: ActiveJob, outcome: Outcome, *, fetch_next: bool
    ) -> tuple[Outcome, FetchResult]:
        """Write ``outcome`` and, if asked, take the queue's next job under the same token.

        Gives the outcome that was written, which is another where BullMQ refused the first or the
        lock was lost, and the take. A take of the same job means: run it again.
        """
        refusals = 0
        while True:
            at_ms = now_ms()
            try:
                take = await self._write(job, outcome, at_ms, fetch_next=fetch_next)
            except RedisUnavailable as error:
                found = await self._find_out(job, outcome, error, at_ms, fetch_next=fetch_next)
                if found is not None:
                    return outcome, found
                refusals += isinstance(error, RedisRefused)
                if refusals > _PATIENT_REFUSALS and meaning(str(error)) is None:
                    outcome = _given_up(outcome, error)
            except (ConvolabWorkerError, Refusal) as error:
                outcome = await self._instead(job, outcome, error, was_refused=refusals > 0)
                if isinstance(outcome, Lost):
                    return outcome, NOT_ASKED
            else:
                self._reconnection.served()
                return outcome, take

    async def _instead(
        self, job: ActiveJob, outcome: Outcome, error: Exception, *, was_refused: bool
    ) -> Outcome:
        """What to write after ``error``: the same, a failure, or nothing since the job is lost."""
        if isinstance(error, Refusal):
            return await self._refused(job, error)
        if not isinstance(error, LockLost):  # a child that can't be added
            return Failed(str(error))
        if error.held and (asked := await self._cancelled(job, outcome)) is not None:
            return asked
        if await self._regained(job, outcome, error, was_refused=was_refused):
            return outcome
        return Lost(str(error))

    async def _cancelled(self, job: ActiveJob, outcome: Outcome) -> Outcome | None:
        """What to write where the lock holds a request to cancel: a result all the same."""
        if isinstance(outcome, Lost):
            return None
        connection, keys = self._backend.connection, self._backend.keys[job.queue]
        taken = await self._reconnection.answered(
            lambda: take_back(connection, keys, job, self._lock_duration)
        )
        if taken is None:
            return None
        return outcome if taken.asked is None or isinstance(outcome, Completed) else taken.asked

    async def _write(
        self, job: ActiveJob, outcome: Outcome, at_ms: int, *, fetch_next: bool
    ) -> FetchResult:
        if isinstance(outcome, (Completed, Failed, Postponed)):
            call = self._call(job, outcome, at_ms, fetch_next=fetch_next)
            take = await self._backend.transition(job, call)
            return NOT_ASKED if call.script == "retryJob" else take
        if isinstance(outcome, Lost):
            raise LockLost(outcome.reason)
        if isinstance(outcome, AwaitsChildren):
            await flows.enqueue(self._backend, job, outcome.children, outcome.carried)
            moved = await self._backend.await_children(job)
            if not moved and not await reconcile.holds(self._backend, job):
                # A write before this one was executed, and the children have ended since.
                msg = "the job was moved on by a write whose answer was lost"
                raise LockLost(msg, ran_out=True)
            return NOT_ASKED if moved else FetchResult(job=job)
        await self._backend.return_to_queue(job)
        return NOT_ASKED

    def _call(
        self,
        job: ActiveJob,
        outcome: Completed | Failed | Postponed,
        at_ms: int,
        *,
        fetch_next: bool,
    ) -> Call:
        transitions = self._backend.transitions[job.queue]
        if isinstance(outcome, Completed):
            return transitions.finish(
                job, target="completed", value=outcome.value, now_ms=at_ms, fetch_next=fetch_next
            )
        if isinstance(outcome, Postponed):
            return transitions.delay(
                job,
                delay_ms=round(outcome.delay * 1000),
                now_ms=at_ms,
                skip_attempt=True,
                fetch_next=fetch_next,
            )
        fields = {
            "failedReason": outcome.reason,
            "stacktrace": extended_stacktrace(job, outcome.stack),
        }
        if outcome.retry_in is None:
            return transitions.finish(
                job,
                target="failed",
                value=outcome.reason,
                now_ms=at_ms,
                fetch_next=fetch_next,
                fields=fields,
            )
        if outcome.retry_in > 0:
            return transitions.delay(
                job,
                delay_ms=round(outcome.retry_in * 1000),
                now_ms=at_ms,
                skip_attempt=False,
                fetch_next=fetch_next,
                fields=fields,
            )
        return transitions.retry(job, now_ms=at_ms, fields=fields)

    def _last_call(self, job: ActiveJob, outcome: Outcome, at_ms: int, *, fetch_next: bool) -> Call:
        """The call with which ``_write`` moves the job on."""
        if isinstance(outcome, (Completed, Failed, Postponed)):
            return self._call(job, outcome, at_ms, fetch_next=fetch_next)
        transitions = self._backend.transitions[job.queue]
        if isinstance(outcome, AwaitsChildren):
            return transitions.await_children(job, now_ms=at_ms)
        return transitions.return_to_queue(job)

    async def _regained(
        self, job: ActiveJob, outcome: Outcome, lost: LockLost, *, was_refused: bool
    ) -> bool:
        """Whether a lock that ran out while Redis was away has been taken again, to write.

        A script that was refused half-way has removed the lock itself, and the job from active.
        """
        if isinstance(outcome, Lost) or not lost.ran_out or not self._may_reclaim(job):
            return False
        keys = self._backend.keys[job.queue]
        while True:
            try:
                if was_refused:
                    await reconcile.restore(self._backend, job, self._lock_duration, "")
                return await reconcile.reclaim(
                    self._backend.connection, keys, job, self._lock_duration
                )
            except RedisRefused as error:
                await self._reconnection.refused(error)
            except RedisUnavailable:
                await self._reconnection.wait()

    async def _refused(self, job: ActiveJob, refusal: Refusal) -> Failed:
        """BullMQ would not complete the job, or make it wait; it is still ours, and fails."""
        if refusal.code == PENDING_CHILDREN:
            return Failed(f"Job {job.id} has pending dependencies: its handler returned too early")
        if refusal.code == FAILED_CHILDREN:
            return await self._failed_child(job)
        return Failed(f"BullMQ refused to move the job on, with its code {refusal.code}")

    async def _failed_child(self, job: ActiveJob) -> Failed:
        try:
            return Failed(await reconcile.failed_child_reason(self._backend, job))
        except RedisUnavailable:  # the job's own failure is written again until it is
            return Failed("a child has failed")

    async def _find_out(
        self,
        job: ActiveJob,
        outcome: Outcome,
        error: RedisUnavailable,
        at_ms: int,
        *,
        fetch_next: bool,
    ) -> FetchResult | None:
        """Connect again; the take, if the outcome was written, or None to write it again."""
        if isinstance(error, RedisRefused):
            return await self._mend(job, error, fetch_next=fetch_next)
        if not isinstance(error, ReplyLost):  # not even sent: the connection was gone already
            await self._reconnection.wait()
            return None
        call = self._last_call(job, outcome, at_ms, fetch_next=fetch_next)
        while True:
            await self._reconnection.wait()
            try:
                fate = await reconcile.fate_of(self._backend, job, call)
                if fate is Fate.NOT_WRITTEN:
                    return None
                if fate is Fate.TAKEN:
                    _log.warning("job.outcome_uncertain", job_id=job.id, queue=job.queue)
                if not fetch_next:
                    return NOT_ASKED
                found = await reconcile.find_by_token(self._backend, job.queue, job.token)
                return FetchResult(job=found)
            except RedisRefused as refused:
                await self._reconnection.refused(refused)
            except RedisUnavailable as lost:
                _log.debug("redis.lost", error=str(lost))

    async def _mend(
        self, job: ActiveJob, error: RedisRefused, *, fetch_next: bool
    ) -> FetchResult | None:
        """Undo at once what a refused script has done by half, and pause; the take, if all of it.

        A job that a worker's death left like that would be in no list, and lost.
        """
        try:
            if not await reconcile.restore(self._backend, job, self._lock_duration, str(error)):
                if not fetch_next:
                    return NOT_ASKED
                found = await reconcile.find_by_token(self._backend, job.queue, job.token)
                return FetchResult(job=found)
            if reconcile.is_of_another_type(error) and await reconcile.set_aside(
                self._backend, job.queue, job.id, job
            ):
                return None
        except RedisUnavailable as unmended:  # what is left is done before the next attempt
            _log.debug("job.not_restored", job_id=job.id, error=str(unmended))
        await self._reconnection.refused(error)
        return None


def _given_up(outcome: Outcome, error: Exception) -> Outcome:
    """What to write instead of an outcome that Redis keeps refusing for no reason that passes."""
    if isinstance(outcome, Failed):
        return Lost(f"Redis refuses the job's failure: {error}")
    return Failed(f"Redis refuses the job's outcome: {error}")
