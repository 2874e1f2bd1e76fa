"""Held requests: each waits until nothing is left to do or its time is over, and all share a drain.

``Holding`` is for a worker that is always at work: it only tells when nothing was left.
``WorkWhenHeld`` is for a process that has a CPU only while a request is open. Its drain:

    (none)  -- the first hold -->                          working
    working -- nothing is left, or due soon -->            ended
    working -- what runs must end, or all hung up -->      winding down  (nothing more is taken)
    winding down -- somebody came who holds longer -->     working
    winding down -- all ended, or was told to end -->      ended

When a drain's callers are answered, nothing runs, waits in memory or listens to Redis.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from convolab_worker.errors import ConvolabWorkerError, NotRunning, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convolab_worker.worker.assembly import Parts
    from convolab_worker.worker.dispatch.dispatcher import Engine

_log = structlog.get_logger("convolab_worker")
# What is left of a budget when jobs that still run are told to end: they have half a second, and
# their returns and the counts take a moment.
_ENDING_SECONDS = 1.0
# How long the last count may take, beside a stop that has its own deadline.
_LAST_COUNT_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldResult:
    """What a held request is answered with.

    ``status`` is ``drained`` if nothing was left to take, ``budget`` if the time was over first.
    ``processed`` and ``failed`` count what ended since the drain began that the request shares,
    ``remaining`` what waits, prioritized and delayed jobs too. ``next_due_at`` (epoch seconds) is
    when there will be something to do, where that is known: a delayed job is due, a rate limit
    ends, or the lock of a job that another worker has.
    """

    status: str
    processed: int
    failed: int
    remaining: int
    next_due_at: float | None


@dataclass(slots=True, eq=False)
class Caller:
    """A held request; times are the monotonic clock's."""

    ends_at: float
    takes_until: float
    answer: asyncio.Future[HoldResult]


class Holding:
    """The held requests of a worker that is always at work."""

    def __init__(self, engine: Engine, parts: Parts) -> None:
        """Hold nothing yet; to be made in the loop."""
        self._engine = engine
        self._parts = parts
        self._callers: set[Caller] = set()
        self._before = parts.runner.outcomes.copy()
        self._counting: asyncio.Task[tuple[int, float | None]] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._reserve = 0.0
        self.drains = 0

    @property
    def callers(self) -> int:
        """Requests that are held now."""
        return len(self._callers)

    def so_far(self) -> tuple[int, int]:
        """How many jobs ended in this drain, and how many of those failed for good."""
        done = self._parts.runner.outcomes
        failed = done["failed"] - self._before["failed"]
        return done["completed"] - self._before["completed"] + failed, failed

    async def hold(self, budget: float) -> HoldResult:
        """Work until nothing is left, at most ``budget`` seconds, together with all who hold.

        A caller that is cancelled leaves the work of the others alone. Raises NotRunning if the
        worker ends, RedisUnavailable if what is left can't be counted.
        """
        if self._engine.stopping:
            msg = "the worker is stopping"
            raise NotRunning(msg)
        ends_at = time.monotonic() + budget
        takes_until = ends_at - min(self._reserve, budget / 2)
        caller = Caller(ends_at, takes_until, asyncio.get_running_loop().create_future())
        self._join(caller)
        try:
            return await self._answer_to(caller)
        finally:
            self._callers.discard(caller)
            self._left()

    def _join(self, caller: Caller) -> None:
        if not self._callers:
            self._begin()
        self._callers.add(caller)
        self._engine.on_drained = self._heard_drained
        self._engine.wake()

    def _begin(self) -> None:
        """Count from here on: a drain begins."""
        self._before = self._parts.runner.outcomes.copy()
        self.drains += 1

    def _left(self) -> None:
        if not self._callers:
            self._engine.on_drained = None

    async def _answer_to(self, caller: Caller) -> HoldResult:
        await asyncio.wait({caller.answer}, timeout=max(caller.ends_at - time.monotonic(), 0.0))
        if caller.answer.done():
            return caller.answer.result()
        return await self.result("budget")

    def _heard_drained(self) -> bool:
        """Nothing is left to take; False since the worker goes on."""
        self._engine.on_drained = None
        task = asyncio.create_task(self._tell({*self._callers}, "drained"), name="convolab-answer")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        return False

    # answers

    async def _tell(self, callers: Iterable[Caller], status: str) -> None:
        """Give all of them one answer; they hold no longer."""
        try:
            result = await self.result(status)
        except ConvolabWorkerError as error:
            self._fail(callers, error)
            return
        for caller in callers:
            self._callers.discard(caller)
            if not caller.answer.done():
                caller.answer.set_result(result)

    def _fail(self, callers: Iterable[Caller], error: ConvolabWorkerError) -> None:
        for caller in [*callers]:
            self._callers.discard(caller)
            if not caller.answer.done():
                caller.answer.set_exception(error)

    async def result(self, status: str) -> HoldResult:
        """What was done in this drain, and what is left."""
        processed, failed = self.so_far()
        if status == "drained" and self._engine.sees_nothing:
            remaining, due = 0, None
        else:
            remaining, due = await self._what_is_left()
        return HoldResult(
            status=status,
            processed=processed,
            failed=failed,
            remaining=remaining,
            next_due_at=due,
        )

    async def _what_is_left(self) -> tuple[int, float | None]:
        """How many jobs are left, and when there is something to do; one count for all who ask."""
        if self._counting is None:
            self._counting = asyncio.create_task(self._count(), name="convolab-count")
            self._counting.add_done_callback(self._counted)
        return await asyncio.shield(self._counting)

    def _counted(self, task: asyncio.Task[tuple[int, float | None]]) -> None:
        self._counting = None
        if not task.cancelled():
            task.exception()

    async def _count(self) -> tuple[int, float | None]:
        parts = self._parts
        if not parts.reconnection.is_open:
            msg = "Redis is away: what is left can't be counted"
            raise RedisUnavailable(msg)
        remaining, due = await parts.backend.count_remaining()
        rested = self._engine.next_start() if remaining else None
        times = [at for at in (due, self._engine.next_time(), rested) if at is not None]
        return remaining, min(times, default=None)

    def leave_off(self) -> None:
        """The worker has begun to stop."""

    async def finish(self) -> None:
        """The worker has stopped: answer those who still hold, soon."""
        if self._callers:
            try:
                async with asyncio.timeout(_LAST_COUNT_SECONDS):
                    await self._tell({*self._callers}, "budget")
            except TimeoutError:
                _log.debug("hold.not_counted")
        self._fail(self._callers, NotRunning("the worker has stopped"))


class WorkWhenHeld(Holding):
    """The held requests of a worker that works only while there is one.

    ``grace`` (seconds) is kept of each budget for what runs, half of it at most. ``linger`` is how
    long to wait, when all is done, for what is due soon.
    """

    def __init__(self, engine: Engine, parts: Parts, *, grace: float, linger: float) -> None:
        """Hold nothing yet; to be made in the loop."""
        super().__init__(engine, parts)
        self._reserve = grace + _ENDING_SECONDS
        self._linger = linger
        self._lingers_from: tuple[int, float] | None = None
        self._covered: set[Caller] = set()
        self._changed = asyncio.Event()
        self._drain: asyncio.Task[None] | None = None

    def _join(self, caller: Caller) -> None:
        self._callers.add(caller)
        self._changed.set()
        self._engine.wake()  # where a drain is at work; otherwise for the next
        if self._drain is None:
            self._drain = asyncio.create_task(self._drain_all(), name="convolab-hold")
            self._drain.add_done_callback(self._ended)

    def _left(self) -> None:
        self._changed.set()

    def leave_off(self) -> None:
        """The worker has begun to stop: no drain's end is waited for."""
        self._changed.set()

    def _ended(self, drain: asyncio.Task[None]) -> None:
        self._drain = None
        if not drain.cancelled() and (error := drain.exception()) is not None:
            _log.error("hold.failed", exc_info=error)
            self._fail(self._callers, NotRunning(f"the drain ended: {error!r}"))

    async def _answer_to(self, caller: Caller) -> HoldResult:
        """Its drain's answer; or at its own time what was done so far, if others hold longer."""
        while not caller.answer.done():
            seconds = caller.ends_at - time.monotonic()
            if seconds <= 0 and any(each.ends_at > caller.ends_at for each in self._callers):
                return await self.result("budget")
            await asyncio.wait({caller.answer}, timeout=max(seconds, _ENDING_SECONDS / 4))
        return caller.answer.result()

    async def _drain_all(self) -> None:
        while self._callers and not self._engine.stopping:
            self._begin()
            self._lingers_from = None
            await self._drain_once()
            now = time.monotonic()
            late = {caller for caller in self._callers if caller.takes_until <= now}
            if self._covered:
                await self._tell(self._covered, "drained")
            elif late:
                await self._tell(late, "budget")

    async def _drain_once(self) -> None:
        """Work until all is done or the time is over, and come to rest."""
        while not self._engine.stopping:
            self._covered = set()
            self._engine.on_drained = self._heard_drained
            self._engine.work()
            await self._until_over()
            self._engine.on_drained = None
            await self._engine.halt()
            if self._covered:
                return
            await self._wind_down()
            if self._takes_until <= time.monotonic():
                await self._engine.chains.expel()
                return

    @property
    def _takes_until(self) -> float:
        return max((caller.takes_until for caller in self._callers), default=0.0)

    async def _until_over(self) -> None:
        while not (self._covered or self._engine.stopping):
            seconds = self._takes_until - time.monotonic()
            if seconds <= 0:  # nobody is left, too
                return
            await self._change_within(seconds)

    async def _wind_down(self) -> None:
        """Let what runs go on while there is time, unless somebody comes who holds longer."""
        while self._callers and self._takes_until <= time.monotonic():
            last = max(self._callers, key=lambda caller: caller.ends_at)
            until = max(last.ends_at - _ENDING_SECONDS, (last.takes_until + last.ends_at) / 2)
            seconds = until - time.monotonic()
            if seconds <= 0 or await self._engine.chains.ended(min(seconds, _ENDING_SECONDS / 4)):
                return

    def _heard_drained(self) -> bool:
        """Nothing is left to take: whether to rest now, or to wait for what is due soon."""
        if self._lingers():
            return False
        self._covered = {*self._callers}
        self._engine.on_drained = None
        self._changed.set()
        return True

    def _lingers(self) -> bool:
        due = self._engine.next_time()
        if due is None:
            return False
        now, (processed, _) = time.monotonic(), self.so_far()
        if self._lingers_from is None or self._lingers_from[0] != processed:
            self._lingers_from = processed, now
        due_at = now + due - time.time()
        return due_at <= min(self._lingers_from[1] + self._linger, self._takes_until)

    async def _change_within(self, seconds: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
