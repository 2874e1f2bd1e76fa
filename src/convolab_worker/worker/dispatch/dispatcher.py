"""The one loop that takes jobs and hands them to slots."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from convolab_worker.bullmq.reconcile import fetch, find_by_token
from convolab_worker.errors import RedisRefused, RedisUnavailable, ReplyLost
from convolab_worker.worker.execution.chains import Chains
from convolab_worker.worker.execution.executor import STOP_PATIENCE_SECONDS
from convolab_worker.worker.suspension import ALWAYS_AT_WORK, Habits, Rest

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.worker.assembly import Parts

# The loop turns at least this often, at no command, so that a clock that jumps delays nothing.
_LONGEST_NAP_SECONDS = 30.0
_FOREVER = float("inf")
# Wakes that come faster than this share a look.
_WAKE_SECONDS = 1.0
# Clocks are kept by small steps; more than this is a clock that was set, or a machine that slept.
_CLOCK_JUMP_SECONDS = 2.0


class Engine:
    """Runs the jobs of ``parts.backend`` until it is stopped, or drained.

    ``on_drained`` is called when nothing is left to take; it says whether to rest then.
    """

    def __init__(self, parts: Parts, habits: Habits = ALWAYS_AT_WORK) -> None:
        """Start nothing."""
        self._parts = parts
        self._slots = parts.slots
        self._log = structlog.get_logger("convolab_worker").bind()
        self.chains = Chains(
            parts,
            takes_no_more=self._takes_no_more,
            on_ended=self._job_ended,
            on_unsure=self._look_again,
        )
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
        while not self._takes_no_more():
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
        self.chains.unpark()
        ready = self._slots.next_queue(now)
        if ready is not None:
            await self._fill(ready, now)
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
        while self.chains.lost_takes:
            queue, token = self.chains.lost_takes[-1]
            job = await find_by_token(parts.backend, queue, token)
            self.chains.lost_takes.pop()
            if job is not None:
                self._log.info("job.adopted", job_id=job.id, queue=queue)
                self._slots.reserve(queue)
                self.chains.admit(job)
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
        return not (self.chains.any or slots.parked or slots.rests or self._wake_wanted)

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

    def _job_ended(self) -> None:
        self._looked = False
        self.rest.touch()
        self._parts.signal.set()

    def _look_again(self) -> None:
        self._wake_wanted = True

    def wake(self) -> None:
        """Look for work at once, whatever is known; at most once a second."""
        self._wake_wanted = True
        self.rest.touch()
        self.rest.wake()
        self._parts.signal.set()

    # rest

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
            await self.chains.return_parked()

    # taking

    async def _fill(self, queue: str, now: float) -> None:
        """Take from the queue: several jobs in one pipeline, where they are known to wait."""
        takes = [self._take(queue) for _ in range(self._slots.takes(queue, now))]
        if self._slots.wants_count(queue):
            takes.append(self._count(queue))
        if len(takes) == 1:
            await takes[0]
            return
        for error in await asyncio.gather(*takes, return_exceptions=True):
            if error is not None:
                raise error

    async def _count(self, queue: str) -> None:
        self._slots.counted(queue, await self._parts.backend.count_waiting(queue))

    async def _take(self, queue: str) -> None:
        parts = self._parts
        asks_due = self._slots.reserve(queue)
        self._looked = False
        token = parts.backend.new_token()
        asked_at = time.monotonic()
        try:
            take = await fetch(parts.backend, queue, token)
            parts.reconnection.served()
            late = take.job is not None and await self.chains.is_too_late(take.job, asked_at)
        except (ReplyLost, asyncio.CancelledError):
            self._slots.cancel_reservation()
            self.chains.lost_takes.append((queue, token))
            raise
        except RedisUnavailable:
            self._slots.cancel_reservation()
            raise
        if take.job is None:
            await self.chains.found_nothing(queue, take)
            return
        if late:
            self._slots.cancel_reservation()
            return
        self.chains.admit(take.job)
        if asks_due:
            await self.chains.ask_due(queue)

    # ending

    async def stop(self, grace: float) -> None:
        """Take no more; give running jobs ``grace`` seconds, then return them to their queues."""
        ends_at = time.monotonic() + grace
        self.stopping = True
        self.rest.recall(to_end=True)
        await self.halt()
        await self.chains.ended(ends_at - time.monotonic())
        await self.chains.expel()

    async def _end_pump(self) -> None:
        """Let a take that is under way be answered, so that what it took can be returned."""
        pump = self._pump
        if pump is not None and not pump.done():
            await asyncio.wait({pump}, timeout=STOP_PATIENCE_SECONDS)
            pump.cancel()
