"""Worker: its life, from the first connection to the last job."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import structlog

from convolab_worker.bullmq.counts import depths
from convolab_worker.connection.address import Address
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.usage import CommandCounter
from convolab_worker.errors import ConfigurationError, RedisUnavailable
from convolab_worker.handlers.lifespan import Lifespans
from convolab_worker.settings import Settings
from convolab_worker.worker.assembly import Parts, assemble
from convolab_worker.worker.dispatch.dispatcher import Engine
from convolab_worker.worker.health import Health
from convolab_worker.worker.held_requests import Holding, HoldResult, WorkWhenHeld
from convolab_worker.worker.status import status_snapshot
from convolab_worker.worker.suspension import Habits

if TYPE_CHECKING:
    from types import TracebackType

    from convolab_worker.bullmq.outcome import Failed, Returned
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.registry import HandlerRegistry

# A frozen process can't close its connections: so early, and they are made anew in a round trip.
_HELD_SLEEP_AFTER_SECONDS = 10.0

_log = structlog.get_logger("convolab_worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """What a drain did: jobs that finished, those of them that failed for good, what is left.

    ``remaining`` counts waiting, prioritized and delayed jobs. ``next_due_at`` (epoch seconds) is
    when there will be something to do: the first delayed one is due, a rate limit ends, or the
    lock of a job that another worker has; None if nothing is known.
    """

    processed: int
    failed: int
    remaining: int
    next_due_at: float | None


class Worker:
    """Runs jobs of the settings' queues with the registry's handlers.

    A worker lives once: ``new`` until ``run``, ``drain`` or ``async with``, then ``running``,
    ``stopping`` and ``stopped``. ``overrides`` are settings by name. Raises ConfigurationError if
    there is no handler, or an option is wrong.
    """

    def __init__(
        self, handlers: HandlerRegistry, settings: Settings | None = None, **overrides: Any
    ) -> None:
        """Check the options; nothing is connected or started."""
        if settings is None:
            settings = Settings.from_env(**overrides)
        elif overrides:
            settings = settings.replace(**overrides)
        if not len(handlers):
            msg = (
                "the registry has no handler: register one, as in @handlers.audio('generate-audio')"
            )
            raise ConfigurationError(msg)
        self.settings = settings
        self._handlers = handlers
        self._parts: Parts | None = None
        self._engine: Engine | None = None
        self._holding: Holding | None = None
        self._has_run = False
        self._has_ended = False
        self._lifespans: Lifespans | None = None
        self._grace_ends_at: float | None = None
        self._background: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._drained: DrainResult

    async def run(self) -> None:
        """Run jobs until ``stop``. Redis may come and go; jobs never end this by failing.

        Raises LifespanFailed if a lifespan of the handlers can't be opened, before any job.
        """
        await self._live(drain=False)

    async def drain(self, budget: float | None = None) -> DrainResult:
        """Run what is there until nothing is left to take, at most ``budget`` seconds.

        Delayed jobs that are not due yet are left. Raises RedisUnavailable if what is left can't be
        counted at the end. Before the budget is over nothing more is
        taken, so that what runs can end; what does not goes back to its queue.
        """
        if budget is not None and not 0 < budget < float("inf"):
            msg = f"drain(budget={budget!r}): expected seconds above 0, or None"
            raise ConfigurationError(msg)
        self._assemble()
        live = asyncio.create_task(self._live(drain=True), name="convolab-drain")
        try:
            if budget is not None:
                reserve = min(self.settings.shutdown_grace, budget / 2)
                await asyncio.wait({live}, timeout=budget - reserve)
                if not live.done():
                    await self.stop(reserve)
            await live
        finally:
            live.cancel()  # of no effect on one that has ended; its clean-up is waited for
            await asyncio.wait({live})
        return self._drained

    async def _live(self, *, drain: bool) -> None:
        parts, engine, holding = self._assemble()
        if self._has_run:
            msg = "this worker has run already: make another one"
            raise ConfigurationError(msg)
        self._has_run = True
        try:
            await self._open_lifespans(parts)
            _log.info("worker.started", **self._description())
            if not drain and not engine.rest.may_come:  # a name is billed at each connection
                parts.presence.start()
            await engine.run(drain=drain)
            if self._stopping is not None:
                await asyncio.shield(self._stopping)
            await holding.finish()
            if self._lifespans is not None:
                self._lifespans.raise_death()
            if drain:
                self._drained = await self._drain_result(parts, holding)
        finally:
            if self._stopping is None:
                await engine.stop(0.0)
            parts.keeper.stop()
            await parts.presence.close()
            await self._close_lifespans()
            await parts.reconnection.close()
            self._has_ended = True
            await holding.finish()
            _log.info("worker.stopped", outcomes=dict(parts.runner.outcomes))

    async def _open_lifespans(self, parts: Parts) -> None:
        """Open what the handlers need, once, and give it to them; not if the worker stops."""
        if self._lifespans is not None or self._stopping is not None:
            return
        self._lifespans = Lifespans(
            self._handlers.lifespans, self.settings, on_death=self._stop_by_itself
        )
        try:
            parts.runner.handlers = self._handlers.staged(await self._lifespans.open())
        except asyncio.CancelledError:
            await self._lifespans.close(0.0)
            raise

    def _stop_by_itself(self) -> None:
        if self._stopping is None:
            self._begin_stop()

    async def _close_lifespans(self) -> None:
        if self._lifespans is not None:
            ends_at = self._grace_ends_at
            grace = self.settings.shutdown_grace
            await self._lifespans.close(grace if ends_at is None else ends_at - time.monotonic())

    def _assemble(self) -> tuple[Parts, Engine, Holding]:
        """Make the parts, once; here and not earlier, since they belong to the running loop."""
        if self._parts is None or self._engine is None or self._holding is None:
            self._parts = assemble(
                self._handlers, self.settings, on_lost=self._lose, on_cancelled=self._cancel
            )
            self._engine = Engine(self._parts, _habits(self.settings))
            self._holding = _holding(self._engine, self._parts, self.settings)
        return self._parts, self._engine, self._holding

    def _description(self) -> dict[str, Any]:
        return {
            "queues": list(self.settings.queues),
            "concurrency": self.settings.concurrency,
            "handlers": len(self._handlers),
        }

    def _lose(self, job: ActiveJob) -> None:
        if self._engine is not None:
            self._engine.chains.lose(job)

    def _cancel(self, job: ActiveJob, asked: Failed | Returned) -> None:
        if self._engine is not None:
            self._engine.chains.cancel(job, asked)

    async def _drain_result(self, parts: Parts, holding: Holding) -> DrainResult:
        try:
            async with asyncio.timeout(self.settings.command_timeout):
                await parts.reconnection.wait()
        except TimeoutError:
            msg = f"drained ({dict(parts.runner.outcomes)}), but what is left can't be counted"
            raise RedisUnavailable(msg) from None
        result = await holding.result("drained")
        return DrainResult(
            processed=result.processed,
            failed=result.failed,
            remaining=result.remaining,
            next_due_at=result.next_due_at,
        )

    def wake(self) -> None:
        """Look for work at once, or within a second of the last wake; from the loop's own thread.

        Ends a sleep. A worker that works only when held does nothing before the next ``hold``.
        """
        if self._engine is not None:
            self._engine.wake()

    async def hold(self, budget: float) -> HoldResult:
        """Work until nothing is left to take, at most ``budget`` seconds; what came of it.

        Callers at the same time share the work, each for as long as its own budget; one that is
        cancelled leaves the others alone. With ``wake_mode="held"`` the worker works only while
        somebody holds: it takes no more when what runs must end before the last budget is over,
        returns what has not ended then, and rests when this returns. Otherwise it works always,
        and this waits. Raises NotRunning when the worker ends, and RedisUnavailable if what is
        left can't be counted.
        """
        if not 0 < budget < float("inf"):
            msg = f"hold(budget={budget!r}): expected seconds above 0"
            raise ConfigurationError(msg)
        return await self._assemble()[2].hold(budget)

    async def stop(self, grace: float | None = None) -> None:
        """Take no more jobs, give running ones ``grace`` seconds, return the others, and end.

        ``grace`` is the settings' ``shutdown_grace`` by default. Called again while stopping, it
        ends the grace period at once.
        """
        if self._stopping is None:
            stopping = self._begin_stop(grace)
        else:
            stopping = self._stopping
            self._hurry()
        await asyncio.shield(stopping)

    def _begin_stop(self, grace: float | None = None) -> asyncio.Task[None]:
        _, engine, holding = self._assemble()
        seconds = self.settings.shutdown_grace if grace is None else grace
        _log.info("worker.stopping", grace=seconds)
        self._grace_ends_at = time.monotonic() + seconds
        if self._lifespans is not None:
            self._lifespans.give_up_opening()
        self._stopping = asyncio.create_task(engine.stop(seconds), name="convolab-stop")
        holding.leave_off()
        return self._stopping

    def _hurry(self) -> None:
        """End the grace: running jobs and lifespans that close get no more than a moment."""
        self._grace_ends_at = 0.0
        self._assemble()[0].runner.interrupt()
        if self._lifespans is not None:
            self._lifespans.hurry()

    def progress(self) -> dict[str, int]:
        """What the drain has done that held requests share; from memory, from any thread."""
        parts, holding = self._parts, self._holding
        if parts is None or holding is None:
            return {"processed": 0, "failed": 0, "running": 0}
        processed, failed = holding.so_far()
        return {"processed": processed, "failed": failed, "running": parts.slots.running}

    async def __aenter__(self) -> Self:
        """Run in the background of a host application, once the lifespans are open."""
        parts = self._assemble()[0]
        await self._open_lifespans(parts)
        self._background = asyncio.create_task(self.run(), name="convolab-worker")
        self._background.add_done_callback(_say_if_died)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop with the settings' grace, and raise what ended the worker, if something did."""
        background, self._background = self._background, None
        if background is None:
            return
        stopping = asyncio.ensure_future(self.stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:  # the host is in a hurry: what runs goes back at once
            self._hurry()
            await stopping
            raise
        await background

    @property
    def _state(self) -> str:
        if self._has_ended:
            return "stopped"
        if self._engine is None:
            return "new"
        return "stopping" if self._engine.stopping else "running"

    def health(self) -> Health:
        """How the worker is, from memory; from any thread."""
        parts, engine = self._parts, self._engine
        if parts is None or engine is None:
            return Health(state=self._state, ready=False, overdue=False)
        met = parts.reconnection.is_open or (engine.rest.asleep and parts.reconnection.generation)
        return Health(
            state=self._state,
            ready=self._state == "running" and bool(met),
            overdue=time.monotonic() > engine.expected_by,
        )

    def status_snapshot(self) -> dict[str, Any]:
        """What the status page shows, from memory, without a Redis command."""
        parts, engine, _ = self._assemble()
        return status_snapshot(
            parts, self.settings, state=self._state, phase=engine.rest.phase, now=time.time()
        )

    async def depths(self) -> dict[str, Any]:
        """How many jobs each ``queues`` has in each state, and the ``commands`` that this cost.

        Asked on a connection of its own, so that it works, and changes nothing, in a sleep too.
        Raises RedisUnavailable.
        """
        parts, settings, counter = self._assemble()[0], self.settings, CommandCounter()
        connection = Connection(
            Address.parse(settings.redis_url), timeout=settings.command_timeout, counter=counter
        )
        try:
            await connection.open()
            found = await depths(connection, parts.backend.keys.values())
        finally:
            await connection.close()
            parts.counter.add(counter)
        return {"queues": found, "commands": counter.client_sent}

    def stats(self) -> dict[str, Any]:
        """What the worker did and does, from memory, without a Redis command."""
        parts, engine, holding = self._parts, self._engine, self._holding
        if parts is None or engine is None or holding is None:
            return {"state": "new"}
        commands = parts.commands
        return {
            "state": self._state,
            "phase": engine.rest.phase,
            "held": holding.callers,
            "drains": holding.drains,
            "connected": parts.reconnection.is_open,
            "running": parts.slots.running,
            "free": parts.slots.free,
            "parked": parts.slots.parked,
            "outcomes": dict(parts.runner.outcomes),
            "commands": {
                "sent": commands.client_sent,
                "billable": commands.billable,
                "projected_day": parts.daily_budget.projection(time.time(), commands.billable),
                "budget": self.settings.command_budget,
                "by_purpose": commands.snapshot(),
            },
            "idle": parts.waiting.level,
            "telemetry": parts.telemetry.snapshot(),
            "stuck": parts.stack_reports.snapshot(),
        }


def _habits(settings: Settings) -> Habits:
    is_held = settings.wake_mode == "held"
    patience = settings.sleep_after
    if patience is None and is_held:
        patience = _HELD_SLEEP_AFTER_SECONDS
    return Habits(works_when_held=is_held, sleep_after=patience)


def _holding(engine: Engine, parts: Parts, settings: Settings) -> Holding:
    if settings.wake_mode != "held":
        return Holding(engine, parts)
    grace, linger = settings.shutdown_grace, settings.wake_linger
    return WorkWhenHeld(engine, parts, grace=grace, linger=linger)


def _say_if_died(background: asyncio.Task[None]) -> None:
    """A worker that ends by an error of its own does not wait for its host to be told."""
    if not background.cancelled() and (error := background.exception()) is not None:
        _log.critical("worker.died", exc_info=error)
