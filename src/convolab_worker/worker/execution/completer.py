"""Writes a job's outcome, once: whatever becomes of the connection on the way."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct

from convolab_worker._chance import chance
from convolab_worker._logs import Log
from convolab_worker.bullmq.jobs.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Limited,
    Lost,
    Outcome,
    Postponed,
)
from convolab_worker.bullmq.jobs.outcome_calls import call_of
from convolab_worker.bullmq.protocol.records import (
    NOT_ASKED,
    FetchResult,
)
from convolab_worker.bullmq.schedulers import advance
from convolab_worker.bullmq.script_runner import now_ms, run_script
from convolab_worker.bullmq.worker_side import reconcile
from convolab_worker.bullmq.worker_side.backend import Refusal, moved_on
from convolab_worker.connection.commands.error_replies import is_about_size, meaning
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import (
    ConvolabWorkerError,
    RedisRefused,
    RedisUnavailable,
    ReplyLost,
)
from convolab_worker.worker.execution.children import await_children
from convolab_worker.worker.execution.losses import (
    LARGE_BYTES,
    SMALL_CHARACTERS,
    Isolation,
    blamed,
    is_to_blame,
    loss_delay,
    refused_for_size,
    size_of,
    too_large,
)
from convolab_worker.worker.execution.write_errors import WriteErrors

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.connection.upkeep.reconnect import Reconnection
    from convolab_worker.worker.execution.executor import JobInHand
    from convolab_worker.worker.locks import HeldLock

_log = Log()
# An error that is not a known state of the server, this often in a row, is about the job itself.
_PATIENT_REFUSALS = 5


class Completion(Struct, frozen=True):
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
    silences: int = 0  # of these, with no answer in time
    servers: int = 0  # that were replaced by another one before it was lost last
    is_of_bug: bool = False  # it stands for an outcome that could not be written


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
        self._errors = WriteErrors(
            backend, reconnection, lock_duration=lock_duration, may_reclaim=may_reclaim
        )

    async def advance_scheduler(self, job: ActiveJob) -> None:
        """Add the iteration that follows a repeated job."""
        await advance(self._backend, self._reconnection, job)

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
        backend, job = self._backend, held.job
        transitions = backend.transitions[job.queue]
        tries = _Tries(outcome, fetch_next, int(was_refused))
        while type(tries.outcome) is not Lost:
            try:
                call = call_of(
                    transitions, job, tries.outcome, now_ms(), fetch_next=tries.fetch_next
                )
                is_small = (
                    type(tries.outcome) is Completed
                    and len(tries.outcome.value) <= SMALL_CHARACTERS
                )
                if not is_small and self._is_too_large(tries, call):
                    continue
                try:
                    if tries.losses:
                        completion = await self._write_alone(held, tries.outcome, call)
                    elif (
                        type(tries.outcome) is Completed
                    ):  # as ``_write`` does: most jobs come here
                        answer = await run_script(backend.connection, Purpose.COMPLETE, call)
                        completion = Completion(tries.outcome, moved_on(job, answer))
                    else:
                        completion = await self._write(backend, held, tries.outcome, call)
                except (ConvolabWorkerError, Refusal) as error:
                    if (end := await self._met(error, held, tries, call, once=once)) is not None:
                        return end
                else:
                    self._reconnection.served()
                    return completion
            except Exception as error:  # noqa: BLE001 - a bug costs this job's time, not a slot
                tries = _after_bug(job, tries, error)
        return Completion(tries.outcome)

    def _is_too_large(self, tries: _Tries, call: Call) -> bool:
        """Whether the outcome may not be sent, and is another one now."""
        size = size_of(call)
        if size <= self._max_size:
            return False
        tries.outcome = too_large(tries.outcome, size, self._max_size)
        return True

    async def _met(
        self, error: Exception, held: JobInHand, tries: _Tries, call: Call, *, once: bool
    ) -> Completion | None:
        """What came of a write that met an error; None to write again, perhaps something else."""
        if not isinstance(error, RedisUnavailable):
            tries.outcome = await self._errors.instead(
                held, tries.outcome, error, was_refused=tries.refusals > 0
            )
            return None
        if await self._errors.was_written(held.job, error, call):
            return await self._written(held.job, tries.outcome, fetch_next=tries.fetch_next)
        if once and isinstance(error, RedisRefused) and not is_about_size(str(error)):
            return Completion(tries.outcome, is_refused=True)
        is_parent = isinstance(tries.outcome, AwaitsChildren)
        size = held.job.largest_child if is_parent else size_of(call)
        await self._not_written(held.job, tries, error, size)
        return None

    async def _not_written(
        self, job: ActiveJob, tries: _Tries, error: RedisUnavailable, size: int
    ) -> None:
        """Decide what to write next; pause if the connection was lost with the write.

        The first loss is nobody's yet: all that were under way were lost with it.
        """
        if isinstance(error, RedisRefused):
            tries.refusals += 1
            if is_about_size(str(error)):
                tries.outcome = refused_for_size(tries.outcome, size, str(error))
            elif tries.refusals > _PATIENT_REFUSALS and meaning(str(error)) is None:
                tries.outcome = _given_up(tries.outcome, error)
            return
        if not (tries.losses or isinstance(error, ReplyLost)):
            return  # it was not sent
        silent = isinstance(error, ReplyLost) and error.silent
        replaced = self._reconnection.replaced
        if tries.servers != replaced:  # that explains the losses before it, and this one
            tries.servers, tries.losses, tries.silences = replaced, 0, 0
        if tries.losses and size >= LARGE_BYTES and not silent:
            self._lost_size = min(self._lost_size, size)
        tries.losses, tries.fetch_next = tries.losses + 1, False
        tries.silences += silent
        if is_to_blame(size, tries.losses, tries.silences):
            _log.error("job.write_given_up", job_id=job.id, queue=job.queue, bytes=size)
            tries.outcome = blamed(tries.outcome, size, tries.losses)
            tries.losses, tries.silences = 1, 0
            return
        _log.warning(
            "job.write_lost", job_id=job.id, queue=job.queue, bytes=size, losses=tries.losses
        )
        await self._reconnection.pause(loss_delay(tries.losses, random=chance()))

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
            rerun = await await_children(backend, held, outcome, self._max_size)
            return Completion(outcome, rerun=rerun)
        if isinstance(outcome, Limited):
            await backend.limit_queue(job, outcome.delay)
            return Completion(outcome, FetchResult(limited_for=outcome.delay, asked=False))
        await backend.return_to_queue(job)
        return Completion(outcome)

    async def _written(self, job: ActiveJob, outcome: Outcome, *, fetch_next: bool) -> Completion:
        """The outcome was written, and its answer was lost: find the job that came with it."""
        if not fetch_next:
            return Completion(outcome)
        found = await self._reconnection.answered(
            lambda: reconcile.find_by_token(self._backend, job.queue, job.token)
        )
        return Completion(outcome, FetchResult(job=found))


def _after_bug(job: ActiveJob, tries: _Tries, error: Exception) -> _Tries:
    """What to write of a job whose outcome could not be written for an error of our own."""
    if tries.is_of_bug:
        return _Tries(Lost("its outcome could not be written"), fetch_next=False)
    _log.exception("job.not_completed", job_id=job.id, queue=job.queue)
    failed = Failed(f"its outcome could not be written: {error!r}")
    return _Tries(failed, tries.fetch_next, is_of_bug=True)


def _given_up(outcome: Outcome, error: Exception) -> Outcome:
    """What to write instead of an outcome that Redis keeps refusing for no reason that passes."""
    if isinstance(outcome, Failed):
        return Lost(f"Redis refuses the job's failure: {error}")
    return Failed(f"Redis refuses the job's outcome: {error}")
