"""Fetches jobs into free slots, and follows each job with the next one of its queue.

A slot's chain of jobs is a task. It ends when its queue has no next job, when other queues have
their turn, or when fetching stops; a job whose handler is at its limit is parked, and begins a
chain later. Whatever ends a chain frees its slot and takes its job out of the register.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.bullmq.jobs.outcome import AwaitsChildren, Limited, Lost, Outcome, Returned
from convolab_worker.bullmq.worker_side.reconcile import fetch
from convolab_worker.errors import RedisUnavailable, ReplyLost
from convolab_worker.worker.dispatch.lost_jobs import LostJobs
from convolab_worker.worker.dispatch.queue_state import FollowUp, Turn
from convolab_worker.worker.execution.handler_call import SHUTDOWN, STOP_PATIENCE_SECONDS, AbortKind

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from convolab_worker.bullmq.protocol.records import ActiveJob, FetchResult
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.worker.dispatch.exemptions import Exemptions
    from convolab_worker.worker.dispatch.listener import Wakeup
    from convolab_worker.worker.dispatch.prober import QueueProber
    from convolab_worker.worker.dispatch.queue_table import QueueTable
    from convolab_worker.worker.dispatch.slots import Reservation
    from convolab_worker.worker.execution.completer import Completion, JobCompleter
    from convolab_worker.worker.execution.executor import JobExecutor, JobInHand
    from convolab_worker.worker.execution.handler_call import Abort
    from convolab_worker.worker.locks import LockKeeper

_log = Log()
# A job whose lock was lost may be nobody's: stalled jobs are looked for so soon.
_LOST_SECONDS = 1.0
_NO_JOB = (None, FollowUp.NONE)


class Fetcher:
    """Owns the chains of jobs in a worker's slots, and the fetches that fill them."""

    def __init__(
        self,
        backend: Backend,
        table: QueueTable,
        executor: JobExecutor,
        completer: JobCompleter,
        keeper: LockKeeper[JobInHand],
        prober: QueueProber,
        wakeup: Wakeup,
        exemptions: Exemptions,
    ) -> None:
        self._backend = backend
        self._table = table
        self._choice = table.choice
        self._slots = table.slots
        self._executor = executor
        self._completer = completer
        self._keeper = keeper
        self._prober = prober
        self._wakeup = wakeup
        self._exemptions = exemptions
        self._is_stopped = False
        self._chains: dict[asyncio.Task[None], JobInHand] = {}
        self.lost = LostJobs(backend, prober.stalled)
        self.found = 0  # jobs fetched so far
        self.ended = 0  # chains that have ended so far

    @property
    def is_running(self) -> bool:
        return bool(self._chains)

    def start(self) -> None:
        self._is_stopped = False

    def stop(self) -> None:
        """Fetch nothing more; a job that a fetch under way brings goes back to its queue."""
        self._is_stopped = True

    # fetching

    async def fill(self, queue: str) -> None:
        """Fetch from the queue: several jobs in one pipeline, where they are known to wait."""
        fetches = [self._fetch(queue) for _ in range(self._choice.fetch_count(queue))]
        if self._choice.wants_count(queue):
            fetches.append(self._count(queue))
        if len(fetches) == 1:
            await fetches[0]
            return
        for error in await asyncio.gather(*fetches, return_exceptions=True):
            if error is not None:
                raise error

    async def _count(self, queue: str) -> None:
        self._table.counted(queue, await self._backend.count_waiting(queue))

    async def _fetch(self, queue: str) -> None:
        token, asked_at = self._backend.new_token(), time.monotonic()
        with self._slots.reserve() as slot:
            self._table.fetch_started(queue)
            try:
                result = await fetch(self._backend, queue, token)
                held, wanted = await self._accept(queue, result, slot, asked_at)
            except (ReplyLost, asyncio.CancelledError):
                self.lost.add(queue, token)
                raise
        if held is not None:
            self._begin(held)
        if wanted is not FollowUp.NONE:
            await self._follow_up(queue, wanted)

    async def _accept(
        self, queue: str, result: FetchResult, slot: Reservation, asked_at: float
    ) -> tuple[JobInHand | None, FollowUp]:
        """Take over what a fetch brought: the job if it has the slot, and what to ask next."""
        job = result.job
        if job is None:
            slot.end()
            return None, self._table.fetch_empty(queue, result, time.time())
        # The answer may have lain unread while a handler blocked the loop: a lock is only kept once
        # its job is known.
        now = time.monotonic()
        if now - asked_at >= self._keeper.half_life:
            if not await self._completer.still_holds(job):
                _log.warning("job.fetched_too_late", job_id=job.id, queue=queue)
                return None, FollowUp.CHECK_STALLED
            now = time.monotonic()
        if self._is_stopped:
            return await self._admit_unless_stopped(job, slot, now), FollowUp.NONE
        wanted = self._table.fetch_found(queue)
        return self._admit(self._receive(job, now), slot, now), wanted

    def _receive(self, job: ActiveJob, renewed_at: float, *, is_doubted: bool = False) -> JobInHand:
        """Register the job; its lock is kept from now on, and renewed at once if in doubt."""
        held = self._executor.receive(job, renewed_at)
        held.is_doubted = is_doubted
        self._keeper.job_added(held)
        return held

    async def _admit_unless_stopped(
        self, job: ActiveJob, slot: Reservation, renewed_at: float, *, is_doubted: bool = False
    ) -> JobInHand | None:
        """Take a job in hand: it has the slot, is parked, or goes back if fetching has stopped."""
        held = self._receive(job, renewed_at, is_doubted=is_doubted)
        if not self._is_stopped:
            return self._admit(held, slot, time.monotonic())
        slot.end()
        try:
            await self._complete(held, Returned())
        finally:
            self._executor.untrack(held)
        return None

    def _admit(self, held: JobInHand, slot: Reservation, now: float) -> JobInHand | None:
        """Give the job the slot at ``now`` (monotonic), or park it; None if it is parked."""
        job = held.job
        self.found += 1
        self._prober.stalled.fetched(job.queue, time.time())
        held.has_slot = self._slots.admit(slot, held.handler_key, held, now)
        if held.has_slot:
            return held
        self._exemptions.begin(job)
        _log.debug("job.parked", job_id=job.id, queue=job.queue, job_name=job.name)
        return None

    async def adopt_lost(self) -> None:
        """Find what was lost with a connection; write the end that one has had, or run it."""
        await self._exemptions.catch_up()
        while self.lost:
            lost, job = await self.lost.ask()
            held, outcome = None, None
            if job is not None:
                outcome = lost.outcome_of(job)
                held = await self._adopt(job, outcome)
            self.lost.remove(lost)  # not before: its return may be cut off
            if held is None:
                continue
            if outcome is None:
                self._begin(held)
            else:
                self._spawn(self._write_late(held, outcome), held)

    async def _adopt(self, job: ActiveJob, outcome: Outcome | None) -> JobInHand | None:
        """Take the job in hand again; None if it is parked, or no longer ours."""
        now = time.monotonic()
        if outcome is None:
            with self._slots.reserve() as slot:
                return await self._admit_unless_stopped(job, slot, now, is_doubted=True)
        held = self._receive(job, now, is_doubted=True)
        if not self._is_stopped:
            return held
        try:
            await self._complete(held, outcome, was_refused=True)
        finally:
            self._executor.untrack(held)
        return None

    async def _write_late(self, held: JobInHand, outcome: Outcome) -> None:
        held.outcome = outcome
        completion = await self._complete(held, outcome, was_refused=True)
        if completion.rerun and (again := (await self._rerun(held))[0]) is not None:
            self._begin(again)

    def unpark(self) -> None:
        """Begin the parked jobs whose handlers have room, while slots are free."""
        while (held := self._slots.unpark(time.monotonic())) is not None:
            held.has_slot = True
            self._exemptions.end(held.job)
            self._begin(held)

    async def _follow_up(self, queue: str, wanted: FollowUp) -> None:
        await self._prober.follow_up(queue, wanted)
        self._wakeup.set()  # what was learnt, or could not be, is the dispatcher's to use

    # one slot

    def _begin(self, held: JobInHand) -> None:
        self._spawn(self._run_chain(held), held)

    def _spawn(self, work: Coroutine[Any, Any, None], held: JobInHand) -> None:
        chain = asyncio.create_task(work, name=f"slot {held.job.id}")
        self._chains[chain] = held
        chain.add_done_callback(self._chain_ended)

    def _chain_ended(self, chain: asyncio.Task[None]) -> None:
        held = self._chains.pop(chain)
        if chain.cancelled() and held in self._executor.jobs:  # before its first step, or parked
            self.lost.add(held.job.queue, held.job.token, held)
        self._let_go(held)
        self.ended += 1
        self._wakeup.set()
        if not chain.cancelled() and (error := chain.exception()) is not None:
            _log.error("slot.died", exc_info=error)

    async def _run_chain(self, held: JobInHand) -> None:
        """Run a job, complete it and, while the slot stays on its queue, the next one."""
        turn, queue, wanted = Turn(time.time()), held.job.queue, FollowUp.NONE
        following: JobInHand | None = held
        while following is not None:
            current = following
            try:
                if wanted is not FollowUp.NONE:
                    await self._follow_up(queue, wanted)
                following, wanted = await self._serve(current, turn)
            except asyncio.CancelledError:  # it, or the job after it, may be active under its token
                current.outcome = current.outcome or Returned()
                self.lost.add(queue, current.job.token, current)
                raise
            finally:
                if current.has_slot or current in self._executor.jobs:
                    self._let_go(current)
        if wanted is not FollowUp.NONE:
            await self._follow_up(queue, wanted)

    def _let_go(self, held: JobInHand) -> None:
        """Free the job's slot, and take it out of the register; again it does nothing."""
        self._free_slot(held)
        self._executor.untrack(held)

    def _free_slot(self, held: JobInHand) -> None:
        if held.has_slot:
            held.has_slot = False
            self._slots.release(held.handler_key)
            self._table.job_ended(held.job.queue)

    async def _serve(self, held: JobInHand, turn: Turn) -> tuple[JobInHand | None, FollowUp]:
        """Run and complete one job; the next one, if this slot has it, and what to ask."""
        queue = held.job.queue
        try:
            if self._is_stopped:
                outcome: Outcome = Returned()
            else:
                if held.job.scheduler_id is not None:
                    await self._completer.advance_scheduler(held.job)
                outcome = await self._executor.run(held)
        except Exception as error:  # noqa: BLE001 - no thread to be had, a log that can't be written
            outcome = self._executor.failure(error, held.job)
        held.outcome = outcome
        if type(outcome) is Limited:  # before its return wakes this worker's own blocking read
            self._table.limited(queue, outcome.delay, time.time())
        turn.jobs += 1
        self._free_slot(held)
        stays = self._stays(queue, turn)
        if stays and len(self._table.states) > 1:
            stays = await self._stays_after_a_look(queue, turn)
        if not stays:
            completion = await self._complete(held, outcome, once=True)
            return await self._completed(held, outcome, completion)
        with self._slots.reserve() as slot:
            self._table.fetch_started(queue)
            asked_at = time.monotonic()
            completion = await self._completer.complete(held, outcome, fetch_next=True, once=True)
            if not completion.is_refused:
                self._written(held, completion)
            if completion.next.asked:
                return await self._accept(queue, completion.next, slot, asked_at)
        return await self._completed(held, outcome, completion)

    async def _completed(
        self, held: JobInHand, outcome: Outcome, completion: Completion
    ) -> tuple[JobInHand | None, FollowUp]:
        """Go on after a job that brought no next one; a refused write goes on without a slot."""
        if completion.is_refused:
            self._wakeup.set()
            completion = await self._complete(held, outcome, was_refused=True)
        if completion.next.limited_for > 0:
            self._table.limited(held.job.queue, completion.next.limited_for, time.time())
        if completion.rerun:
            return await self._rerun(held)
        if isinstance(completion.outcome, AwaitsChildren):
            queues = {child.queue or held.job.queue for child in completion.outcome.children}
            for queue in queues & self._table.states.keys():
                self._table.children_added(queue)
        return _NO_JOB

    async def _rerun(self, held: JobInHand) -> tuple[JobInHand | None, FollowUp]:
        """Run the job again at once: all of its children had ended already."""
        with self._slots.reserve() as slot:
            again = await self._admit_unless_stopped(held.job, slot, held.renewed_at)
            return again, FollowUp.NONE

    async def _complete(self, held: JobInHand, outcome: Outcome, **how: bool) -> Completion:
        """Complete a job, and fetch none with its end."""
        queue, completion = held.job.queue, await self._completer.complete(held, outcome, **how)
        if completion.is_refused:
            return completion
        self._written(held, completion)
        if not self._is_stopped and completion.next.job is None:
            wanted = self._table.place_freed(queue)
            if wanted is not FollowUp.NONE:
                await self._follow_up(queue, wanted)
        return completion

    def _written(self, held: JobInHand, completion: Completion) -> None:
        """The job is completed: no longer ours, counted and told of."""
        self._executor.untrack(held)
        if completion.next.job is None:  # the job's place of its queue is free now, and not before
            self._table.job_ended(held.job.queue)
        self._executor.report(held, completion.outcome)
        if type(completion.outcome) is Lost:
            self._prober.stalled.schedule(held.job.queue, after=_LOST_SECONDS)

    def _stays(self, queue: str, turn: Turn) -> bool:
        """Whether a slot that has just been freed fetches its next job from the same queue."""
        if self._is_stopped or (self._slots.parked and self._slots.has_startable):
            return False
        return self._choice.stays(queue, turn, time.time()) and self._slots.free > 0

    async def _stays_after_a_look(self, queue: str, turn: Turn) -> bool:
        """Whether it does so, once the worker's other queues were looked at, if it is time to.

        Meanwhile nothing else may use the slot: Redis does not know yet that its job has ended.
        """
        with self._slots.reserve():
            try:
                await self._prober.probe_others(queue, time.time())
            except RedisUnavailable as error:
                _log.debug("redis.lost", error=str(error))
        return self._choice.stays(queue, turn, time.time()) and self._slots.free > 0

    # ending

    def abort(self, held: JobInHand, abort: Abort) -> None:
        """End a job: it has lost its lock, or somebody has cancelled it."""
        if abort.kind is AbortKind.CANCELLED:
            _log.info("job.cancelled", job_id=held.job.id, queue=held.job.queue)
        else:
            self._prober.stalled.schedule(held.job.queue, after=_LOST_SECONDS)
            self._wakeup.set()
        if self._slots.drop_parked(held):
            self._spawn(self._end_parked(held, abort), held)
        else:
            self._executor.abort(held, abort)

    async def _end_parked(self, held: JobInHand, abort: Abort) -> None:
        outcome: Outcome = abort.outcome or Returned()
        if abort.kind is AbortKind.LOCK_LOST:
            outcome = Lost("the lock was lost while the job was parked")
            self._exemptions.forget(held.job)
        else:
            await self._exemptions.end_now(held.job)
        held.outcome = outcome
        await self._complete(held, outcome)

    async def all_ended(self, timeout: float) -> bool:
        """Wait for the jobs that run, at most ``timeout`` seconds; whether none is left."""
        if self._chains:
            await asyncio.wait(self._chains, timeout=max(timeout, 0.0))
        return not self._chains

    async def abort_all(self) -> None:
        """End the jobs that still run; what their handlers don't finish goes back to its queue."""
        self._executor.abort_all(SHUTDOWN)
        if not await self.all_ended(STOP_PATIENCE_SECONDS + 0.3):
            for chain in self._chains:
                chain.cancel()
            await self.all_ended(STOP_PATIENCE_SECONDS)

    async def return_parked(self) -> None:
        """Return parked jobs in one pipeline."""
        # The head of a queue is where the last one returned stands: the last parked goes first.
        parked = self._slots.clear_parked()[::-1]
        try:
            async with asyncio.timeout(STOP_PATIENCE_SECONDS):
                await asyncio.gather(*[self._return(held) for held in parked])
        except TimeoutError:
            left = [held for held in parked if held in self._executor.jobs]
            _log.warning("jobs.not_returned", job_ids=[held.job.id for held in left])
            for held in left:
                self.lost.add(held.job.queue, held.job.token, held)
        for held in parked:
            self._executor.untrack(held)

    async def _return(self, held: JobInHand) -> None:
        await self._exemptions.end_now(held.job)
        held.outcome = Returned()
        await self._completer.complete(held, held.outcome)
        self._executor.untrack(held)
