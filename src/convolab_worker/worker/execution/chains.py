"""The chains of jobs in a worker's slots: each is run, settled, and followed by the next one.

A slot's chain is a task. It ends when its queue has no next job, when other queues have their turn,
or when no more is taken; a job whose handler is at its limit is parked, and begins a chain later.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import structlog

from convolab_worker.bullmq.outcome import Failed, Lost, Outcome, Returned
from convolab_worker.bullmq.protocol.replies import NOT_ASKED, FetchResult
from convolab_worker.bullmq.reconcile import holds
from convolab_worker.bullmq.schedulers import advance
from convolab_worker.errors import RedisUnavailable
from convolab_worker.worker.dispatch.slots import Turn
from convolab_worker.worker.execution.executor import NO_HANDLER, STOP_PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.worker.assembly import Parts

# A job whose lock was lost may have been taken by nobody: it is looked for so soon.
_LOST_SECONDS = 1.0


class Chains:
    """The jobs that a worker has: running, or parked.

    ``takes_no_more`` says whether the worker leaves off; ``on_ended`` hears of each chain's end,
    and ``on_unsure`` that something about a queue could not be asked.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        takes_no_more: Callable[[], bool],
        on_ended: Callable[[], None],
        on_unsure: Callable[[], None],
    ) -> None:
        """Have no job."""
        self._parts = parts
        self._slots = parts.slots
        self._takes_no_more = takes_no_more
        self._on_ended = on_ended
        self._on_unsure = on_unsure
        self._log = structlog.get_logger("convolab_worker").bind()
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost_takes: list[tuple[str, str]] = []  # queue and token, whose answers were lost

    @property
    def any(self) -> bool:
        """Whether a job is running or being settled."""
        return bool(self._tasks)

    # taken

    def admit(self, job: ActiveJob) -> None:
        """Run a job that was just taken in its reserved slot, or park it."""
        if self._takes_no_more():
            self._start(self._give_back(job), job)
        elif self._receive(job):
            self._start(self._chain(job), job)

    def _receive(self, job: ActiveJob) -> bool:
        """Keep a job that was just taken: True if it has the reserved slot, False if it parks."""
        parts = self._parts
        if self._slots.took(job.queue):
            parts.waiting.doubt(job.queue)
        parts.waiting.took(job.queue, time.time())
        parts.hold(job)
        if self._slots.admit(self._handler_key(job), job, time.monotonic()):
            return True
        parts.backend.exempt_from_stall_count(job, 1)
        self._log.debug("job.parked", job_id=job.id, queue=job.queue, name=job.name)
        return False

    def _handler_key(self, job: ActiveJob) -> str:
        handler = self._parts.runner.handler_of(job)
        return NO_HANDLER if handler is None else handler.key

    def unpark(self) -> None:
        """Begin the parked jobs whose handlers have room, while slots are free."""
        while (job := self._slots.unpark(time.monotonic())) is not None:
            self._parts.backend.exempt_from_stall_count(job, -1)
            self._start(self._chain(job), job)

    def _start(self, serving: Coroutine[Any, Any, None], job: ActiveJob) -> None:
        chain = asyncio.create_task(serving, name=f"slot {job.id}")
        self._tasks.add(chain)
        chain.add_done_callback(self._chain_ended)

    def _chain_ended(self, chain: asyncio.Task[None]) -> None:
        self._tasks.discard(chain)
        self._on_ended()
        if not chain.cancelled() and (error := chain.exception()) is not None:
            self._log.error("slot.died", exc_info=error)

    async def found_nothing(self, queue: str, take: FetchResult) -> None:
        """A take found no job: conclude what it says of the queue."""
        self._slots.cancel_reservation()
        if not take.asked:
            return
        now = time.time()
        seen = self._slots.nothing(queue)
        if take.limited_for > 0:
            self._slots.hold(queue, now + take.limited_for)
        elif take.due_at is not None:
            self._slots.due(queue, take.due_at)
        elif seen:
            await self._parts.waiting.hold_if_stopped(queue, now)
        else:
            self._parts.waiting.suspect(queue)

    # one slot

    async def _chain(self, job: ActiveJob) -> None:
        """Run a job, settle it and, while the slot stays on its queue, the next one."""
        turn = Turn(time.time())
        next_lease: ActiveJob | None = job
        while next_lease is not None:
            next_lease = await self._serve(next_lease, turn)

    async def _serve(self, job: ActiveJob, turn: Turn) -> ActiveJob | None:
        """Run and settle one job; the next one, if this slot has it."""
        outcome = await self._run(job)
        turn.jobs += 1
        self._slots.release(job.queue, self._handler_key(job))
        stays = await self._stays(job.queue, turn)
        asks_due = stays and self._slots.reserve(job.queue)
        asked_at = time.monotonic()
        try:
            take = await self._settle(job, outcome, stays=stays)
        except asyncio.CancelledError:  # at the end of a rest's patience, Redis being away
            if stays:
                self._slots.cancel_reservation()
                self.lost_takes.append((job.queue, job.token))
            raise
        if take.job is job and not stays:  # its children were done already: it goes on at once
            self._slots.reserve(job.queue)
        elif not stays:
            return None
        if asks_due:
            await self.ask_due(job.queue)
        if take.job is None:
            await self.found_nothing(job.queue, take)
            return None
        if take.job is not job and await self.is_too_late(take.job, asked_at):
            self._slots.cancel_reservation()
            return None
        if self._takes_no_more():
            await self._give_back(take.job)
            return None
        return take.job if self._receive(take.job) else None

    async def _run(self, job: ActiveJob) -> Outcome:
        if self._takes_no_more():
            return Returned()
        try:
            if job.scheduler_id is not None:
                await advance(self._parts.backend, self._parts.reconnection, job)
            return await self._parts.runner.run(job)
        except Exception as error:  # noqa: BLE001 - no thread to be had, a log that can't be written
            return self._parts.runner.failure(error, job)

    async def is_too_late(self, job: ActiveJob, asked_at: float) -> bool:
        """Whether a take's answer lay unread so long that another worker has its job by now.

        A handler that blocks the loop does that: a lock is only kept once its job is known.
        """
        if time.monotonic() - asked_at < self._parts.keeper.half_life:
            return False
        try:
            late = not await holds(self._parts.backend, job)
        except RedisUnavailable:  # its own settlement will find out
            return False
        if late:
            self._log.warning("job.taken_too_late", job_id=job.id, queue=job.queue)
            self._parts.waiting.suspect(job.queue)
        return late

    async def ask_due(self, queue: str) -> None:
        """Learn when the queue's next delayed job is due."""
        try:
            self._slots.due(queue, await self._parts.backend.next_due(queue))
        except RedisUnavailable:  # it is asked for again when the connection is back
            self._on_unsure()

    async def _give_back(self, job: ActiveJob) -> None:
        """Return a job that was taken while the worker began to leave off."""
        self._slots.cancel_reservation()
        self._parts.hold(job)
        await self._settle(job, Returned(), stays=False)

    async def _settle(self, job: ActiveJob, outcome: Outcome, *, stays: bool) -> FetchResult:
        parts = self._parts
        written: Outcome = Lost("its outcome could not be written")
        take = NOT_ASKED
        try:
            written, take = await parts.settlement.settle(job, outcome, fetch_next=stays)
        except Exception as error:  # noqa: BLE001 - a bug costs this job's time, not a slot
            self._log.exception("job.not_settled", job_id=job.id, queue=job.queue)
            bug = Failed(f"its outcome could not be written: {error!r}")
            with contextlib.suppress(Exception):
                written, take = await parts.settlement.settle(job, bug, fetch_next=stays)
        finally:
            parts.let_go(job)
        with contextlib.suppress(Exception):  # a log that can't be written is no reason to stop
            parts.runner.report(job, written)
        if isinstance(written, Lost):
            parts.waiting.suspect(job.queue, after=_LOST_SECONDS)
        return take

    async def _stays(self, queue: str, turn: Turn) -> bool:
        """Whether a slot that has just been freed takes its next job from the same queue."""
        if (
            self._takes_no_more()
            or self._slots.has_ripe
            or not self._slots.stays(queue, turn, time.time())
        ):
            return False
        if len(self._slots.standing) > 1:
            try:
                await self._parts.waiting.glance(queue, time.time())
            except RedisUnavailable as error:
                self._log.debug("redis.lost", error=str(error))
            if not self._slots.stays(queue, turn, time.time()):
                return False
        return self._slots.free > 0

    # ending

    def lose(self, job: ActiveJob) -> None:
        """The job's lock is gone: cancel its handler; what it gives is not written."""
        runner = self._parts.runner
        if not runner.lose(job) and self._slots.drop_parked(job):
            self._parts.let_go(job)
            runner.report(job, Lost("the lock was lost while the job was parked"))
        self._parts.waiting.suspect(job.queue, after=_LOST_SECONDS)

    def cancel(self, job: ActiveJob, asked: Failed | Returned) -> None:
        """Somebody wants the job to end: cancel its handler, and settle it as ``asked``."""
        self._log.info("job.cancelled", job_id=job.id, queue=job.queue)
        if not self._parts.runner.cancel(job, asked) and self._slots.drop_parked(job):
            self._start(self._settle_parked(job, asked), job)

    async def _settle_parked(self, job: ActiveJob, asked: Failed | Returned) -> None:
        self._parts.backend.exempt_from_stall_count(job, -1)
        await self._settle(job, asked, stays=False)

    async def ended(self, timeout: float) -> bool:
        """Wait for the jobs that run, at most ``timeout`` seconds; whether none is left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(timeout, 0.0))
        return not self._tasks

    async def expel(self) -> None:
        """End the jobs that still run; what their handlers don't finish goes back to its queue."""
        self._parts.runner.interrupt()
        if not await self.ended(STOP_PATIENCE_SECONDS + 0.3):
            for chain in self._tasks:
                chain.cancel()

    async def return_parked(self) -> None:
        """Return parked jobs, in one pipeline: what was sent first stands furthest back."""
        # The head of a queue is where the last one returned stands: the last parked goes first.
        jobs = self._slots.clear_parked()[::-1]
        try:
            async with asyncio.timeout(2 * STOP_PATIENCE_SECONDS):
                await asyncio.gather(*[self._return_one(job) for job in jobs])
        except TimeoutError:
            left = [job.id for job in jobs if job.id in self._parts.held[job.queue]]
            self._log.warning("jobs.not_returned", job_ids=left)
        for job in jobs:
            self._parts.let_go(job)

    async def _return_one(self, job: ActiveJob) -> None:
        self._parts.backend.exempt_from_stall_count(job, -1)
        await self._parts.settlement.settle(job, Returned(), fetch_next=False)
        self._parts.let_go(job)
