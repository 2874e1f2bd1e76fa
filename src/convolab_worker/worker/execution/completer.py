"""Writes a job's outcome, once: whatever becomes of the connection on the way."""

from __future__ import annotations

import contextlib
import random
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from convolab_worker._logs import Log
from convolab_worker.bullmq import flows, producer, reconcile
from convolab_worker.bullmq.backend import Refusal, now_ms
from convolab_worker.bullmq.job_lock import take_back
from convolab_worker.bullmq.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Limited,
    Lost,
    Outcome,
    Postponed,
    Returned,
)
from convolab_worker.bullmq.protocol.records import (
    FAILED_CHILDREN,
    NOT_ASKED,
    PENDING_CHILDREN,
    FetchResult,
    extended_stacktrace,
)
from convolab_worker.bullmq.reconcile import Fate
from convolab_worker.bullmq.schedulers import advance
from convolab_worker.connection.error_replies import meaning
from convolab_worker.errors import (
    ConvolabWorkerError,
    LockLost,
    RedisRefused,
    RedisUnavailable,
    ReplyLost,
)
from convolab_worker.worker.execution.losses import (
    LARGE_BYTES,
    SMALL_CHARACTERS,
    Isolation,
    blamed,
    loss_delay,
    most_losses,
    size_of,
    too_large,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.bullmq.backend import Backend
    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.connection.reconnect import Reconnection
    from convolab_worker.worker.execution.executor import JobInHand
    from convolab_worker.worker.locks import HeldLock

_log = Log()
# An error that is not a known state of the server, this often in a row, is about the job itself.
_PATIENT_REFUSALS = 5


class Completion(NamedTuple):
    """What was written of a job, and what came of the fetch with it.

    ``outcome`` is another than was asked for where BullMQ refused that one or the lock was lost.
    ``rerun`` says that the job is still ours and runs again at once: its children were done.
    ``is_refused`` says that Redis refused the write, and nothing was written.
    """

    outcome: Outcome
    next: FetchResult = NOT_ASKED
    rerun: bool = False
    is_refused: bool = False


class _Tries(Struct):
    """What is being written, and how often it was refused, or lost with its connection."""

    outcome: Outcome
    fetch_next: bool
    refusals: int = 0
    losses: int = 0
    servers: int = 0  # that were replaced by another one before it was lost last


class _Aborted(ConvolabWorkerError):
    """The job comes to ``outcome`` instead: it was told to end before its end was written."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("the job was told to end")
        self.outcome = outcome


class JobCompleter:
    """Completes jobs on ``backend``, however long Redis is away.

    ``may_reclaim`` says whether this process never stood still while it held a lock. What was lost
    with the connection is sent again in ``isolation``; ``max_size`` is in bytes.
    """

    def __init__(
        self,
        backend: Backend,
        reconnection: Reconnection,
        *,
        lock_duration: float,
        may_reclaim: Callable[[HeldLock], bool],
        isolation: Isolation,
        max_size: int,
    ) -> None:
        self._backend = backend
        self._isolation = isolation
        self._max_size = max_size
        self._lost_size = inf  # what is as large as that was lost with a connection of its own
        self._reconnection = reconnection
        self._lock_duration = lock_duration
        self._may_reclaim = may_reclaim

    async def advance_scheduler(self, job: ActiveJob) -> None:
        """Add the iteration that follows a repeated job."""
        await advance(self._backend, self._reconnection, job)

    async def end_exemption(self, job: ActiveJob) -> None:
        """Count the job's stalls again, before it is returned; once, if the reply is lost."""
        try:
            await self._backend.exempt_from_stall_count(job, -1)
        except RedisRefused:  # the job itself can be returned all the same
            return
        except RedisUnavailable:
            with contextlib.suppress(RedisRefused):
                await self._reconnection.answered(lambda: self._backend.end_exemption_again(job))

    async def still_holds(self, job: ActiveJob) -> bool:
        """Whether the job's lock is still ours; yes if that can't be asked now."""
        try:
            return await reconcile.holds(self._backend, job)
        except RedisUnavailable:  # its own completion will find out
            return True

    async def complete(
        self,
        held: JobInHand,
        outcome: Outcome,
        *,
        fetch_next: bool = False,
        once: bool = False,
        was_refused: bool = False,
    ) -> Completion:
        """Write ``outcome`` and, if asked, fetch the queue's next job under the same token.

        A write that Redis refuses is tried again until it is taken or given up, which may be long;
        with ``once`` the caller is told of the first refusal instead, and asks again with
        ``was_refused``.
        """
        try:
            return await self._until_written(
                held, outcome, fetch_next=fetch_next, once=once, was_refused=was_refused
            )
        except Exception as error:  # noqa: BLE001 - a bug costs this job's time, not a slot
            _log.exception("job.not_completed", job_id=held.job.id, queue=held.job.queue)
            bug = Failed(f"its outcome could not be written: {error!r}")
        with contextlib.suppress(Exception):
            return await self._until_written(
                held, bug, fetch_next=fetch_next, once=once, was_refused=was_refused
            )
        return Completion(Lost("its outcome could not be written"))

    async def _until_written(
        self, held: JobInHand, outcome: Outcome, *, fetch_next: bool, once: bool, was_refused: bool
    ) -> Completion:
        tries = _Tries(outcome, fetch_next, refusals=int(was_refused))
        while not isinstance(tries.outcome, Lost):
            call = self._call(held.job, tries.outcome, fetch_next=tries.fetch_next)
            if type(tries.outcome) is not Completed or len(tries.outcome.value) > SMALL_CHARACTERS:
                size = size_of(call)
                if size > self._max_size:
                    tries.outcome = too_large(tries.outcome, size, self._max_size)
                    continue
            try:
                if not tries.losses:
                    completion = await self._write(self._backend, held, tries.outcome, call)
                else:
                    completion = await self._write_alone(held, tries.outcome, call)
            except RedisUnavailable as error:
                if await self._was_written(held.job, error, call):
                    return await self._written(held.job, tries.outcome, fetch_next=tries.fetch_next)
                if once and isinstance(error, RedisRefused):
                    return Completion(tries.outcome, is_refused=True)
                is_parent = isinstance(tries.outcome, AwaitsChildren)
                size = held.job.largest_child if is_parent else size_of(call)
                await self._not_written(held.job, tries, error, size)
            except (ConvolabWorkerError, Refusal) as error:
                tries.outcome = await self._instead(
                    held, tries.outcome, error, was_refused=tries.refusals > 0
                )
            else:
                self._reconnection.served()
                return completion
        return Completion(tries.outcome)

    async def _not_written(
        self, job: ActiveJob, tries: _Tries, error: RedisUnavailable, size: int
    ) -> None:
        """Decide what to write next; pause if the connection was lost with the write.

        The first loss is nobody's yet: all that were under way were lost with it.
        """
        if isinstance(error, RedisRefused):
            tries.refusals += 1
            if tries.refusals > _PATIENT_REFUSALS and meaning(str(error)) is None:
                tries.outcome = _given_up(tries.outcome, error)
            return
        if not (tries.losses or isinstance(error, ReplyLost)):
            return  # it was not sent
        silent = isinstance(error, ReplyLost) and error.silent
        replaced = self._reconnection.replaced
        if tries.servers != replaced:  # that explains the losses before it, and this one
            tries.servers, tries.losses = replaced, 0
        if tries.losses and size >= LARGE_BYTES and not silent:
            self._lost_size = min(self._lost_size, size)
        tries.losses, tries.fetch_next = tries.losses + 1, False
        if tries.losses > most_losses(size, silent=silent):
            _log.error("job.write_given_up", job_id=job.id, queue=job.queue, bytes=size)
            tries.outcome, tries.losses = blamed(tries.outcome, size, tries.losses), 1
            return
        _log.warning(
            "job.write_lost", job_id=job.id, queue=job.queue, bytes=size, losses=tries.losses
        )
        await self._reconnection.pause(loss_delay(tries.losses, random=random.random()))

    # writing

    async def _write_alone(self, held: JobInHand, outcome: Outcome, call: Call) -> Completion:
        """Write an outcome with which the connection was lost: on a connection of its own."""
        return await self._isolation.run(
            lambda connection: self._write(self._backend.on(connection), held, outcome, call)
        )

    async def _write(
        self, backend: Backend, held: JobInHand, outcome: Outcome, call: Call
    ) -> Completion:
        job = held.job
        if isinstance(outcome, (Completed, Failed, Postponed)):
            result = await backend.transition(job, call)
            return Completion(outcome, NOT_ASKED if call.script == "retryJob" else result)
        if isinstance(outcome, AwaitsChildren):
            return await self._await_children(backend, held, outcome)
        if isinstance(outcome, Limited):
            await backend.limit_queue(job, outcome.delay)
            return Completion(outcome, FetchResult(limited_for=outcome.delay, asked=False))
        await backend.return_to_queue(job)
        return Completion(outcome)

    async def _add_children(
        self, backend: Backend, held: JobInHand, outcome: AwaitsChildren
    ) -> None:
        """Add the children. Raises _Aborted if the job is told to end, and there are more to add.

        The next run, which asks for the same children, adds those.
        """
        job = held.job
        left = await flows.left_to_add(backend, job, outcome.children)
        is_first = True
        for batch in flows.pipelines(backend, job, left, outcome.carried):
            if held.aborted is not None and not is_first:
                raise _Aborted(held.aborted.outcome or Returned())
            job.has_asked, is_first = True, False
            job.largest_child = max(len(child.data) for _, child in batch)
            if job.largest_child > self._max_size:
                raise _Aborted(too_large(outcome, job.largest_child, self._max_size))
            await producer.add_all(backend.connection, batch)

    async def _await_children(
        self, backend: Backend, held: JobInHand, outcome: AwaitsChildren
    ) -> Completion:
        job = held.job
        for _ in range(2):
            await self._add_children(backend, held, outcome)
            if await backend.await_children(job):
                return Completion(outcome)
            if not await reconcile.holds(backend, job):
                # A write before this one was executed, and the children have ended since.
                msg = "the job was moved on by a write whose answer was lost"
                raise LockLost(msg, ran_out=True)
            if await flows.have_ended(backend, job, outcome.children):
                return Completion(outcome, rerun=True)
        # Twice there was nothing to wait for, and nothing had ended: it would go round for ever.
        raise flows.nothing_to_wait_for(outcome.children, ())

    def _call(self, job: ActiveJob, outcome: Outcome, *, fetch_next: bool) -> Call:
        at_ms, transitions = now_ms(), self._backend.transitions[job.queue]
        if isinstance(outcome, Completed):
            return transitions.finish(job, "completed", outcome.value, at_ms, fetch_next=fetch_next)
        if isinstance(outcome, Failed):
            return self._failure_call(job, outcome, at_ms, fetch_next=fetch_next)
        if isinstance(outcome, Postponed):
            delay_ms = round(outcome.delay * 1000)
            return transitions.delay(job, delay_ms, at_ms, skip_attempt=True, fetch_next=fetch_next)
        if isinstance(outcome, AwaitsChildren):
            return transitions.await_children(job, now_ms=at_ms)
        return transitions.return_to_queue(job)

    def _failure_call(
        self, job: ActiveJob, failed: Failed, at_ms: int, *, fetch_next: bool
    ) -> Call:
        transitions = self._backend.transitions[job.queue]
        stacktrace = extended_stacktrace(job, failed.stack)
        fields = {"failedReason": failed.reason, "stacktrace": stacktrace}
        if failed.retry_in is not None and failed.retry_in <= 0:
            return transitions.retry(job, now_ms=at_ms, fields=fields)
        if failed.retry_in is None:
            return transitions.finish(
                job, "failed", failed.reason, at_ms, fetch_next=fetch_next, fields=fields
            )
        delay_ms = round(failed.retry_in * 1000)
        return transitions.delay(
            job, delay_ms, at_ms, skip_attempt=False, fetch_next=fetch_next, fields=fields
        )

    # finding out

    async def _written(self, job: ActiveJob, outcome: Outcome, *, fetch_next: bool) -> Completion:
        """The outcome was written, and its answer was lost: find the job that came with it."""
        if not fetch_next:
            return Completion(outcome)
        found = await self._reconnection.answered(
            lambda: reconcile.find_by_token(self._backend, job.queue, job.token)
        )
        return Completion(outcome, FetchResult(job=found))

    async def _was_written(self, job: ActiveJob, error: RedisUnavailable, call: Call) -> bool:
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
            if reconcile.is_of_another_type(error) and await reconcile.set_aside(
                self._backend, job.queue, job.id, job
            ):
                return False
        except RedisUnavailable as unmended:  # what is left is done before the next attempt
            _log.debug("job.not_restored", job_id=job.id, error=str(unmended))
        await self._reconnection.refused(error)
        return False

    # another outcome

    async def _instead(
        self, held: JobInHand, outcome: Outcome, error: Exception, *, was_refused: bool
    ) -> Outcome:
        """What to write after ``error``: the same, a failure, or nothing since the job is lost."""
        if isinstance(error, _Aborted):
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
            return Failed(await reconcile.failed_child_reason(self._backend, job))
        except RedisUnavailable:  # the job's own failure is written again until it is
            return Failed("a child has failed")


def _given_up(outcome: Outcome, error: Exception) -> Outcome:
    """What to write instead of an outcome that Redis keeps refusing for no reason that passes."""
    if isinstance(outcome, Failed):
        return Lost(f"Redis refuses the job's failure: {error}")
    return Failed(f"Redis refuses the job's outcome: {error}")
