"""The one loop that takes jobs and hands them to slots, and the chain of jobs in each slot."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import structlog

from convolab_worker.errors import RedisRefused, RedisUnavailable, ReplyLost
from convolab_worker.outcome import Failed, Lost, Outcome, Returned
from convolab_worker.queues import NOT_ASKED, Take
from convolab_worker.recovery import find_by_token, holds, take as take_next
from convolab_worker.rest import ALWAYS_AT_WORK, Habits, Rest
from convolab_worker.runner import NO_HANDLER, STOP_PATIENCE_SECONDS
from convolab_worker.schedulers import advance
from convolab_worker.slots import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from convolab_worker.assembly import Parts
    from convolab_worker.lease import Lease

# The loop turns at least this often, at no command, so that a clock that jumps delays nothing.
_LONGEST_NAP_SECONDS = 30.0
_FOREVER = float("inf")
# A job whose lock was lost may have been taken by nobody: it is looked for so soon.
_LOST_SECONDS = 1.0
# Wakes that come faster than this share a look.
_WAKE_SECONDS = 1.0
# Clocks are kept by small steps; more than this is a clock that was set, or a machine that slept.
_CLOCK_JUMP_SECONDS = 2.0


class Engine:
    """Runs the jobs of ``parts.queues`` until it is stopped, or drained.

    ``on_drained`` is called when nothing is left to take; it says whether to rest then.
    """

    def __init__(self, parts: Parts, habits: Habits = ALWAYS_AT_WORK) -> None:
        """Start nothing."""
        self._parts = parts
        self._slots = parts.slots
        self._log = structlog.get_logger("convolab_worker").bind()
        self._chains: set[asyncio.Task[None]] = set()
        self._lost_takes: list[tuple[str, str]] = []
        self._generation = -1
        self._away_since = _FOREVER
        self._wake_wanted = False
        self._may_look_at = 0.0
        self._looked = False  # at every queue, and nothing was taken and no job ended since
        self._clock_offset = time.time() - time.monotonic()
        self._draining = False
        self._pump: asyncio.Task[None] | None = None
        self._halting = asyncio.Lock()
        self._halted = False
        self.rest = Rest(habits, parts.reconnection, self.next_time)
        self.on_drained: Callable[[], bool] | None = None
        self.stopping = False
        self.expected_by = _FOREVER  # when the loop turns again, unless something is wrong

    # the loop

    async def run(self, *, drain: bool = False) -> None:
        """Take and run jobs until stopped or, with ``drain``, until nothing is left to take."""
        self._draining = drain
        if drain:
            self.rest.recall()
        if self.rest.is_on:
            self.rest.connect_early()
        while not self.stopping:
            if self.rest.is_on:
                await self.halt()
                await self.rest.doze()
            else:
                self._halted = False
                await self._pump_jobs()
                if drain:
                    return

    async def _pump_jobs(self) -> None:
        """Turn until something says that no more is taken."""
        pump = self._pump = asyncio.create_task(self._loop(), name="convolab-pump")
        try:
            await asyncio.wait({pump})
        except asyncio.CancelledError:
            pump.cancel()
            raise
        finally:
            self.expected_by = _FOREVER
        if not pump.cancelled():
            pump.result()

    async def _loop(self) -> None:
        while not self._takes_no_more:
            self.expected_by = time.monotonic() + self._parts.patience
            try:
                if await self._turn():
                    return
            except RedisRefused as error:
                self._wake_wanted = True  # what was being looked at is looked at again
                self.expected_by = _FOREVER  # pauses are long while Redis refuses
                await self._parts.reconnection.refused(error)
            except RedisUnavailable as error:
                self._log.debug("redis.lost", error=str(error))

    async def _turn(self) -> bool:
        """One decision, and what it takes; True when a drain is over."""
        parts = self._parts
        parts.signal.clear()
        if not parts.reconnection.is_open or self._generation != parts.reconnection.generation:
            await self._reconnect()
        if self._wake_wanted and time.monotonic() >= self._may_look_at:
            self._wake_wanted = False
            await self._look_round()
            self._may_look_at = time.monotonic() + _WAKE_SECONDS
        parts.waiting.raise_refusal()
        now = self._now()
        parts.keep_books(now)
        for queue in self._slots.pass_time(now):
            parts.waiting.pass_on_if_busy(queue)
        self._slots.end_rests(time.monotonic())
        self._unpark()
        ready = self._slots.next_queue(now)
        if ready is not None:
            await self._take(ready)
            return False
        tend_at = parts.waiting.next_time()
        if tend_at is not None and tend_at <= now:
            await parts.waiting.tend(now)
            return False
        if self._asks_if_drained and not self._looked:
            await self._look_round(forget_pauses=False)
            return False
        if self._leaves_off():
            return True
        parts.waiting.arm(now)
        nap = self._nap(now, tend_at)
        self.expected_by = time.monotonic() + nap + parts.patience
        await parts.signal.wait(nap)
        return False

    def _now(self) -> float:
        """The time; where the clock was set, what is planned moves with it."""
        now = time.time()
        jump = now - time.monotonic() - self._clock_offset
        if abs(jump) > _CLOCK_JUMP_SECONDS:
            self._log.warning("clock.was_set", seconds=round(jump, 1))
            self._clock_offset += jump
            self._slots.shift(jump)
            self._parts.waiting.shift(jump)
            self._wake_wanted = True
        return now

    def _nap(self, now: float, tend_at: float | None) -> float:
        moment = time.monotonic()
        naps = [at - now for at in (tend_at, self._slots.next_time()) if at is not None]
        rested_at = self._slots.next_rested()
        if rested_at is not None:
            naps.append(rested_at - moment)
        if self._wake_wanted:
            naps.append(self._may_look_at - moment)
        if self._is_idle and self.on_drained is None:
            naps.append(self.rest.tired_at - moment)
        return min([*naps, _LONGEST_NAP_SECONDS])

    async def _reconnect(self) -> None:
        """Connect; then adopt what lost takes have taken, and look at every queue."""
        parts = self._parts
        self._away_since = min(self._away_since, time.monotonic())
        self.expected_by = _FOREVER  # an outage is not this loop's fault
        await parts.reconnection.wait()
        self.expected_by = time.monotonic() + parts.patience
        generation = parts.reconnection.generation
        while self._lost_takes:
            queue, token = self._lost_takes[-1]
            lease = await find_by_token(parts.queues, queue, token)
            self._lost_takes.pop()
            if lease is not None:
                self._log.info("job.adopted", job_id=lease.id, queue=queue)
                self._slots.reserve(queue)
                self._admit(lease)
        parts.keeper.hurry()
        self._wake_wanted = False  # before the look: a wake in the middle of it asks for another
        await self._look_round(outage=time.monotonic() - self._away_since)
        self._generation, self._away_since = generation, _FOREVER

    async def _look_round(self, *, outage: float = 0.0, forget_pauses: bool = True) -> None:
        await self._parts.waiting.look_round(
            time.time(), outage=outage, forget_pauses=forget_pauses
        )
        self._looked = True

    @property
    def _is_idle(self) -> bool:
        slots = self._slots
        return not (self._chains or slots.parked or slots.rests or self._wake_wanted)

    @property
    def _asks_if_drained(self) -> bool:
        return self._is_idle and (self._draining or self.on_drained is not None)

    def _leaves_off(self) -> bool:
        """Whether nothing is left, or was for long, so that the loop ends."""
        if not self._is_idle:
            return False
        if self._draining:
            return True
        if self.on_drained is not None:
            if self.on_drained():
                self.rest.begin()
        elif time.monotonic() >= self.rest.tired_at:
            self.rest.begin()
        return self.rest.is_on

    def wake(self) -> None:
        """Look for work at once, whatever is known; at most once a second."""
        self._wake_wanted = True
        self.rest.touch()
        self.rest.wake()
        self._parts.signal.set()

    # rest

    @property
    def _takes_no_more(self) -> bool:
        return self.stopping or self.rest.is_on

    def next_time(self) -> float | None:
        """When there will be something to do, as far as is known; epoch seconds."""
        times = (self._slots.next_time(), self._parts.waiting.next_check())
        return min((at for at in times if at is not None and at < _FOREVER), default=None)

    def next_start(self) -> float | None:
        """When a handler that has used up its rate may start again; epoch seconds."""
        rested_at = self._slots.next_rested()
        return None if rested_at is None else time.time() + rested_at - time.monotonic()

    @property
    def sees_nothing(self) -> bool:
        """Whether there is no job at all, as far as was seen just now."""
        return self._looked and self._parts.waiting.all_empty

    def work(self) -> None:
        """Look for work at once, if need be after a rest."""
        self.rest.recall()
        self.wake()

    async def halt(self) -> None:
        """Take no more: end the block, return what is parked. Jobs that run go on."""
        self.rest.begin()
        async with self._halting:
            if self._halted:
                return
            self._halted = True
            self._parts.signal.set()
            await self._parts.waiting.close(STOP_PATIENCE_SECONDS / 2)
            await self._end_pump()
            # The head of a queue is where the last one returned stands: the last parked goes first.
            await self._return_parked(self._slots.clear_parked()[::-1])

    async def ended(self, timeout: float) -> bool:
        """Wait for the jobs that run, at most ``timeout`` seconds; whether none is left."""
        if self._chains:
            await asyncio.wait(self._chains, timeout=max(timeout, 0.0))
        return not self._chains

    async def expel(self) -> None:
        """End the jobs that still run; what their handlers don't finish goes back to its queue."""
        self._parts.runner.interrupt()
        if not await self.ended(STOP_PATIENCE_SECONDS + 0.3):
            for chain in self._chains:
                chain.cancel()

    # taking

    async def _take(self, queue: str) -> None:
        parts = self._parts
        asks_due = self._slots.reserve(queue)
        self._looked = False
        token = parts.queues.new_token()
        asked_at = time.monotonic()
        try:
            take = await take_next(parts.queues, queue, token)
            parts.reconnection.served()
            late = take.lease is not None and await self._is_too_late(take.lease, asked_at)
        except (ReplyLost, asyncio.CancelledError):
            self._slots.cancel_reservation()
            self._lost_takes.append((queue, token))
            raise
        except RedisUnavailable:
            self._slots.cancel_reservation()
            raise
        if take.lease is None:
            await self._found_nothing(queue, take)
            return
        if late:
            self._slots.cancel_reservation()
            return
        self._admit(take.lease)
        if asks_due:
            await self._ask_due(queue)

    async def _found_nothing(self, queue: str, take: Take) -> None:
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

    def _admit(self, lease: Lease) -> None:
        """Run a job that was just taken in its reserved slot, or park it."""
        if self._takes_no_more:
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

    def _unpark(self) -> None:
        while (lease := self._slots.unpark(time.monotonic())) is not None:
            self._parts.queues.forgive_stall(lease, -1)
            self._start(self._chain(lease), lease)

    def _start(self, serving: Coroutine[Any, Any, None], lease: Lease) -> None:
        chain = asyncio.create_task(serving, name=f"slot {lease.id}")
        self._chains.add(chain)
        chain.add_done_callback(self._chain_ended)

    def _chain_ended(self, chain: asyncio.Task[None]) -> None:
        self._chains.discard(chain)
        self._looked = False
        self.rest.touch()
        self._parts.signal.set()
        if not chain.cancelled() and (error := chain.exception()) is not None:
            self._log.error("slot.died", exc_info=error)

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
                self._lost_takes.append((lease.queue, lease.token))
            raise
        if take.lease is lease and not stays:  # its children were done already: it goes on at once
            self._slots.reserve(lease.queue)
        elif not stays:
            return None
        if asks_due:
            await self._ask_due(lease.queue)
        if take.lease is None:
            await self._found_nothing(lease.queue, take)
            return None
        if take.lease is not lease and await self._is_too_late(take.lease, asked_at):
            self._slots.cancel_reservation()
            return None
        if self._takes_no_more:
            await self._give_back(take.lease)
            return None
        return take.lease if self._receive(take.lease) else None

    async def _run(self, lease: Lease) -> Outcome:
        if self._takes_no_more:
            return Returned()
        try:
            if lease.scheduler_id is not None:
                await advance(self._parts.queues, self._parts.reconnection, lease)
            return await self._parts.runner.run(lease)
        except Exception as error:  # noqa: BLE001 - no thread to be had, a log that can't be written
            return self._parts.runner.failure(error, lease)

    async def _is_too_late(self, lease: Lease, asked_at: float) -> bool:
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

    async def _ask_due(self, queue: str) -> None:
        try:
            self._slots.due(queue, await self._parts.queues.next_due(queue))
        except RedisUnavailable:  # it is asked for again when the connection is back
            self._wake_wanted = True

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
            self._takes_no_more
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

    async def stop(self, grace: float) -> None:
        """Take no more; give running jobs ``grace`` seconds, then return them to their queues."""
        ends_at = time.monotonic() + grace
        self.stopping = True
        self.rest.recall(to_end=True)
        await self.halt()
        await self.ended(ends_at - time.monotonic())
        await self.expel()

    async def _end_pump(self) -> None:
        """Let a take that is under way be answered, so that what it took can be returned."""
        pump = self._pump
        if pump is not None and not pump.done():
            await asyncio.wait({pump}, timeout=STOP_PATIENCE_SECONDS)
            pump.cancel()

    async def _return_parked(self, leases: list[Lease]) -> None:
        """Return parked jobs, in one pipeline: what was sent first stands furthest back."""
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
