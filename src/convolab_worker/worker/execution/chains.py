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

from convolab_worker.bullmq.backend import NOT_ASKED, Take
from convolab_worker.bullmq.outcome import Failed, Lost, Outcome, Returned
from convolab_worker.bullmq.reconcile import holds
from convolab_worker.bullmq.schedulers import advance
from convolab_worker.errors import RedisUnavailable
from convolab_worker.worker.dispatch.slots import Turn
from convolab_worker.worker.execution.executor import NO_HANDLER, STOP_PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from convolab_worker.bullmq.protocol.records import Lease
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

    def admit(self, lease: Lease) -> None:
        """Run a job that was just taken in its reserved slot, or park it."""
        if self._takes_no_more():
            self._start(self._give_back(lease), lease)
        elif self._receive(lease):
            self._start(self._chain(lease), lease)

    def _receive(self, lease: Lease) -> bool:
        """Keep a job that was just taken: True if it has the reserved slot, False if it parks."""
        parts = self._parts
        if self._slots.took(lease.queue):
            parts.waiting.doubt(lease.queue)
        parts.waiting.took(lease.queue, time.time())
        parts.hold(lease)
        if self._slots.admit(self._handler_key(lease), lease, time.monotonic()):
            return True
        parts.queues.forgive_stall(lease, 1)
        self._log.debug("job.parked", job_id=lease.id, queue=lease.queue, name=lease.name)
        return False

    def _handler_key(self, lease: Lease) -> str:
        handler = self._parts.runner.handler_of(lease)
        return NO_HANDLER if handler is None else handler.key

    def unpark(self) -> None:
        """Begin the parked jobs whose handlers have room, while slots are free."""
        while (lease := self._slots.unpark(time.monotonic())) is not None:
            self._parts.queues.forgive_stall(lease, -1)
            self._start(self._chain(lease), lease)

    def _start(self, serving: Coroutine[Any, Any, None], lease: Lease) -> None:
        chain = asyncio.create_task(serving, name=f"slot {lease.id}")
        self._tasks.add(chain)
        chain.add_done_callback(self._chain_ended)

    def _chain_ended(self, chain: asyncio.Task[None]) -> None:
        self._tasks.discard(chain)
        self._on_ended()
        if not chain.cancelled() and (error := chain.exception()) is not None:
            self._log.error("slot.died", exc_info=error)

    async def found_nothing(self, queue: str, take: Take) -> None:
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

    async def _chain(self, lease: Lease) -> None:
        """Run a job, settle it and, while the slot stays on its queue, the next one."""
        turn = Turn(time.time())
        next_lease: Lease | None = lease
        while next_lease is not None:
            next_lease = await self._serve(next_lease, turn)

    async def _serve(self, lease: Lease, turn: Turn) -> Lease | None:
        """Run and settle one job; the next one, if this slot has it."""
        outcome = await self._run(lease)
        turn.jobs += 1
        self._slots.release(lease.queue, self._handler_key(lease))
        stays = await self._stays(lease.queue, turn)
        asks_due = stays and self._slots.reserve(lease.queue)
        asked_at = time.monotonic()
        try:
            take = await self._settle(lease, outcome, stays=stays)
        except asyncio.CancelledError:  # at the end of a rest's patience, Redis being away
            if stays:
                self._slots.cancel_reservation()
                self.lost_takes.append((lease.queue, lease.token))
            raise
        if take.lease is lease and not stays:  # its children were done already: it goes on at once
            self._slots.reserve(lease.queue)
        elif not stays:
            return None
        if asks_due:
            await self.ask_due(lease.queue)
        if take.lease is None:
            await self.found_nothing(lease.queue, take)
            return None
        if take.lease is not lease and await self.is_too_late(take.lease, asked_at):
            self._slots.cancel_reservation()
            return None
        if self._takes_no_more():
            await self._give_back(take.lease)
            return None
        return take.lease if self._receive(take.lease) else None

    async def _run(self, lease: Lease) -> Outcome:
        if self._takes_no_more():
            return Returned()
        try:
            if lease.scheduler_id is not None:
                await advance(self._parts.queues, self._parts.reconnection, lease)
            return await self._parts.runner.run(lease)
        except Exception as error:  # noqa: BLE001 - no thread to be had, a log that can't be written
            return self._parts.runner.failure(error, lease)

    async def is_too_late(self, lease: Lease, asked_at: float) -> bool:
        """Whether a take's answer lay unread so long that another worker has its job by now.

        A handler that blocks the loop does that: a lock is only kept once its job is known.
        """
        if time.monotonic() - asked_at < self._parts.keeper.half_life:
            return False
        try:
            late = not await holds(self._parts.queues, lease)
        except RedisUnavailable:  # its own settlement will find out
            return False
        if late:
            self._log.warning("job.taken_too_late", job_id=lease.id, queue=lease.queue)
            self._parts.waiting.suspect(lease.queue)
        return late

    async def ask_due(self, queue: str) -> None:
        """Learn when the queue's next delayed job is due."""
        try:
            self._slots.due(queue, await self._parts.queues.next_due(queue))
        except RedisUnavailable:  # it is asked for again when the connection is back
            self._on_unsure()

    async def _give_back(self, lease: Lease) -> None:
        """Return a job that was taken while the worker began to leave off."""
        self._slots.cancel_reservation()
        self._parts.hold(lease)
        await self._settle(lease, Returned(), stays=False)

    async def _settle(self, lease: Lease, outcome: Outcome, *, stays: bool) -> Take:
        parts = self._parts
        written: Outcome = Lost("its outcome could not be written")
        take = NOT_ASKED
        try:
            written, take = await parts.settlement.settle(lease, outcome, fetch_next=stays)
        except Exception as error:  # noqa: BLE001 - a bug costs this job's time, not a slot
            self._log.exception("job.not_settled", job_id=lease.id, queue=lease.queue)
            bug = Failed(f"its outcome could not be written: {error!r}")
            with contextlib.suppress(Exception):
                written, take = await parts.settlement.settle(lease, bug, fetch_next=stays)
        finally:
            parts.let_go(lease)
        with contextlib.suppress(Exception):  # a log that can't be written is no reason to stop
            parts.runner.report(lease, written)
        if isinstance(written, Lost):
            parts.waiting.suspect(lease.queue, after=_LOST_SECONDS)
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

    def lose(self, lease: Lease) -> None:
        """The lease's lock is gone: cancel its handler; what it gives is not written."""
        runner = self._parts.runner
        if not runner.lose(lease) and self._slots.drop_parked(lease):
            self._parts.let_go(lease)
            runner.report(lease, Lost("the lock was lost while the job was parked"))
        self._parts.waiting.suspect(lease.queue, after=_LOST_SECONDS)

    def cancel(self, lease: Lease, asked: Failed | Returned) -> None:
        """Somebody wants the job to end: cancel its handler, and settle it as ``asked``."""
        self._log.info("job.cancelled", job_id=lease.id, queue=lease.queue)
        if not self._parts.runner.cancel(lease, asked) and self._slots.drop_parked(lease):
            self._start(self._settle_parked(lease, asked), lease)

    async def _settle_parked(self, lease: Lease, asked: Failed | Returned) -> None:
        self._parts.queues.forgive_stall(lease, -1)
        await self._settle(lease, asked, stays=False)

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
        leases = self._slots.clear_parked()[::-1]
        try:
            async with asyncio.timeout(2 * STOP_PATIENCE_SECONDS):
                await asyncio.gather(*[self._return_one(lease) for lease in leases])
        except TimeoutError:
            left = [lease.id for lease in leases if lease.id in self._parts.held[lease.queue]]
            self._log.warning("jobs.not_returned", job_ids=left)
        for lease in leases:
            self._parts.let_go(lease)

    async def _return_one(self, lease: Lease) -> None:
        self._parts.queues.forgive_stall(lease, -1)
        await self._parts.settlement.settle(lease, Returned(), fetch_next=False)
        self._parts.let_go(lease)
