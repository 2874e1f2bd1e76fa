"""Writes a job's outcome, once: whatever becomes of the connection on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from convolab_worker.bullmq import flows, reconcile
from convolab_worker.bullmq.backend import (
    FAILED_CHILDREN,
    NOT_ASKED,
    PENDING_CHILDREN,
    Refusal,
    Take,
    now_ms,
)
from convolab_worker.bullmq.job_lock import take_back
from convolab_worker.bullmq.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Lost,
    Outcome,
    Postponed,
)
from convolab_worker.bullmq.protocol.stacktraces import extended
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

    from convolab_worker.bullmq.backend import Queues
    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.records import Lease
    from convolab_worker.connection.reconnect import Reconnection

_log = structlog.get_logger("convolab_worker")
# An error that is not a known state of the server, this often in a row, is about the job itself.
_PATIENT_REFUSALS = 5


class Settlement:
    """Settles outcomes on ``queues``; ``reconnection`` is waited for when an answer is lost."""

    def __init__(
        self,
        queues: Queues,
        reconnection: Reconnection,
        *,
        lock_duration: float,
        may_reclaim: Callable[[Lease], bool],
    ) -> None:
        """Keep the collaborators; ``may_reclaim`` says whether this process never stood still."""
        self._lock_duration = lock_duration
        self._may_reclaim = may_reclaim
        self._queues = queues
        self._reconnection = reconnection

    async def settle(
        self, lease: Lease, outcome: Outcome, *, fetch_next: bool
    ) -> tuple[Outcome, Take]:
        """Write ``outcome`` and, if asked, take the queue's next job under the same token.

        Gives the outcome that was written, which is another where BullMQ refused the first or the
        lock was lost, and the take. A take of the same lease means: run it again.
        """
        refusals = 0
        while True:
            at_ms = now_ms()
            try:
                take = await self._write(lease, outcome, at_ms, fetch_next=fetch_next)
            except RedisUnavailable as error:
                found = await self._find_out(lease, error, at_ms, fetch_next=fetch_next)
                if found is not None:
                    return outcome, found
                refusals += isinstance(error, RedisRefused)
                if refusals > _PATIENT_REFUSALS and meaning(str(error)) is None:
                    outcome = _given_up(outcome, error)
            except (ConvolabWorkerError, Refusal) as error:
                outcome = await self._instead(lease, outcome, error, was_refused=refusals > 0)
                if isinstance(outcome, Lost):
                    return outcome, NOT_ASKED
            else:
                self._reconnection.served()
                return outcome, take

    async def _instead(
        self, lease: Lease, outcome: Outcome, error: Exception, *, was_refused: bool
    ) -> Outcome:
        """What to write after ``error``: the same, a failure, or nothing since the job is lost."""
        if isinstance(error, Refusal):
            return await self._refused(lease, error)
        if not isinstance(error, LockLost):  # a child that can't be added
            return Failed(str(error))
        if error.held and (asked := await self._cancelled(lease, outcome)) is not None:
            return asked
        if await self._regained(lease, outcome, error, was_refused=was_refused):
            return outcome
        return Lost(str(error))

    async def _cancelled(self, lease: Lease, outcome: Outcome) -> Outcome | None:
        """What to write where the lock holds a request to cancel: a result all the same."""
        if isinstance(outcome, Lost):
            return None
        link, keys = self._queues.link, self._queues.keys[lease.queue]
        taken = await self._reconnection.answered(
            lambda: take_back(link, keys, lease, self._lock_duration)
        )
        if taken is None:
            return None
        return outcome if taken.asked is None or isinstance(outcome, Completed) else taken.asked

    async def _write(self, lease: Lease, outcome: Outcome, at_ms: int, *, fetch_next: bool) -> Take:
        if isinstance(outcome, (Completed, Failed, Postponed)):
            call = self._call(lease, outcome, at_ms, fetch_next=fetch_next)
            take = await self._queues.transit(lease, call)
            return NOT_ASKED if call.script == "retryJob" else take
        if isinstance(outcome, Lost):
            raise LockLost(outcome.reason)
        if isinstance(outcome, AwaitsChildren):
            await flows.enqueue(self._queues, lease, outcome.children, outcome.carried)
            moved = await self._queues.await_children(lease)
            if not moved and not await reconcile.is_locked(self._queues, lease):
                # A write before this one was executed, and the children have ended since.
                msg = "the job was moved on by a write whose answer was lost"
                raise LockLost(msg, ran_out=True)
            return NOT_ASKED if moved else Take(lease=lease)
        await self._queues.give_back(lease)
        return NOT_ASKED

    def _call(
        self,
        lease: Lease,
        outcome: Completed | Failed | Postponed,
        at_ms: int,
        *,
        fetch_next: bool,
    ) -> Call:
        transitions = self._queues.transitions[lease.queue]
        if isinstance(outcome, Completed):
            return transitions.finish(
                lease, target="completed", value=outcome.value, now_ms=at_ms, fetch_next=fetch_next
            )
        if isinstance(outcome, Postponed):
            return transitions.delay(
                lease,
                delay_ms=round(outcome.delay * 1000),
                now_ms=at_ms,
                skip_attempt=True,
                fetch_next=fetch_next,
            )
        fields = {"failedReason": outcome.reason, "stacktrace": extended(lease, outcome.stack)}
        if outcome.retry_in is None:
            return transitions.finish(
                lease,
                target="failed",
                value=outcome.reason,
                now_ms=at_ms,
                fetch_next=fetch_next,
                fields=fields,
            )
        if outcome.retry_in > 0:
            return transitions.delay(
                lease,
                delay_ms=round(outcome.retry_in * 1000),
                now_ms=at_ms,
                skip_attempt=False,
                fetch_next=fetch_next,
                fields=fields,
            )
        return transitions.retry(lease, now_ms=at_ms, fields=fields)

    async def _regained(
        self, lease: Lease, outcome: Outcome, lost: LockLost, *, was_refused: bool
    ) -> bool:
        """Whether a lock that ran out while Redis was away has been taken again, to write.

        A script that was refused half-way has removed the lock itself, and the job from active.
        """
        if isinstance(outcome, Lost) or not lost.ran_out or not self._may_reclaim(lease):
            return False
        keys = self._queues.keys[lease.queue]
        while True:
            try:
                if was_refused:
                    await reconcile.restore(self._queues, lease, self._lock_duration, "")
                return await reconcile.reclaim(self._queues.link, keys, lease, self._lock_duration)
            except RedisRefused as error:
                await self._reconnection.refused(error)
            except RedisUnavailable:
                await self._reconnection.wait()

    async def _refused(self, lease: Lease, refusal: Refusal) -> Failed:
        """BullMQ would not complete the job, or make it wait; it is still ours, and fails."""
        if refusal.code == PENDING_CHILDREN:
            return Failed(
                f"Job {lease.id} has pending dependencies: its handler returned too early"
            )
        if refusal.code == FAILED_CHILDREN:
            return await self._failed_child(lease)
        return Failed(f"BullMQ refused to move the job on, with its code {refusal.code}")

    async def _failed_child(self, lease: Lease) -> Failed:
        try:
            return Failed(await reconcile.failed_child_reason(self._queues, lease))
        except RedisUnavailable:  # the job's own failure is written again until it is
            return Failed("a child has failed")

    async def _find_out(
        self, lease: Lease, error: RedisUnavailable, at_ms: int, *, fetch_next: bool
    ) -> Take | None:
        """Connect again; the take, if the outcome was written, or None to write it again."""
        if isinstance(error, RedisRefused):
            return await self._mend(lease, error, fetch_next=fetch_next)
        if not isinstance(error, ReplyLost):  # not even sent: the connection was gone already
            await self._reconnection.wait()
            return None
        while True:
            await self._reconnection.wait()
            try:
                written = await reconcile.written(self._queues, lease, at_ms)
                if written is None:
                    return None
                if not written:
                    _log.warning("job.outcome_uncertain", job_id=lease.id, queue=lease.queue)
                if not fetch_next:
                    return NOT_ASKED
                found = await reconcile.find_by_token(self._queues, lease.queue, lease.token)
                return Take(lease=found)
            except RedisRefused as refused:
                await self._reconnection.refused(refused)
            except RedisUnavailable as lost:
                _log.debug("redis.lost", error=str(lost))

    async def _mend(self, lease: Lease, error: RedisRefused, *, fetch_next: bool) -> Take | None:
        """Undo at once what a refused script has done by half, and pause; the take, if all of it.

        A job that a worker's death left like that would be in no list, and lost.
        """
        try:
            if not await reconcile.restore(self._queues, lease, self._lock_duration, str(error)):
                if not fetch_next:
                    return NOT_ASKED
                found = await reconcile.find_by_token(self._queues, lease.queue, lease.token)
                return Take(lease=found)
            if reconcile.is_of_another_type(error) and await reconcile.set_aside(
                self._queues, lease.queue, lease.id, lease
            ):
                return None
        except RedisUnavailable as unmended:  # what is left is done before the next attempt
            _log.debug("job.not_restored", job_id=lease.id, error=str(unmended))
        await self._reconnection.refused(error)
        return None


def _given_up(outcome: Outcome, error: Exception) -> Outcome:
    """What to write instead of an outcome that Redis keeps refusing for no reason that passes."""
    if isinstance(outcome, Failed):
        return Lost(f"Redis refuses the job's failure: {error}")
    return Failed(f"Redis refuses the job's outcome: {error}")
