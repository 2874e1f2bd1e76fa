"""Worker: its life, from the first connection to the last job."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import structlog

from convolab_worker.assembly import Parts, assemble
from convolab_worker.engine import Engine
from convolab_worker.errors import ConfigurationError, RedisUnavailable
from convolab_worker.lifespans import Lifespans
from convolab_worker.settings import Settings

if TYPE_CHECKING:
    from types import TracebackType

    from convolab_worker.lease import Lease
    from convolab_worker.registry import HandlerRegistry

_log = structlog.get_logger("convolab_worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """What a drain did: jobs that finished, those of them that failed for good, what is left.

    ``remaining`` counts waiting, prioritized and delayed jobs; ``next_due_at`` is when the first
    delayed one is due (epoch seconds), None without one.
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
        parts, engine = self._assemble()
        if self._has_run:
            msg = "this worker has run already: make another one"
            raise ConfigurationError(msg)
        self._has_run = True
        try:
            await self._open_lifespans(parts)
            _log.info("worker.started", **self._description())
            if not drain:
                parts.presence.start()
            await engine.run(drain=drain)
            if self._stopping is not None:
                await asyncio.shield(self._stopping)
            if self._lifespans is not None:
                self._lifespans.raise_death()
            if drain:
                self._drained = await self._drain_result(parts)
        finally:
            if self._stopping is None:
                await engine.stop(0.0)
            parts.keeper.stop()
            await parts.presence.close()
            await self._close_lifespans()
            await parts.reconnection.close()
            self._has_ended = True
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

    def _assemble(self) -> tuple[Parts, Engine]:
        """Make the parts, once; here and not earlier, since they belong to the running loop."""
        if self._parts is None or self._engine is None:
            self._parts = assemble(self._handlers, self.settings, on_lost=self._lose)
            self._engine = Engine(self._parts)
        return self._parts, self._engine

    def _description(self) -> dict[str, Any]:
        return {
            "queues": list(self.settings.queues),
            "concurrency": self.settings.concurrency,
            "handlers": len(self._handlers),
        }

    def _lose(self, lease: Lease) -> None:
        if self._engine is not None:
            self._engine.lose(lease)

    async def _drain_result(self, parts: Parts) -> DrainResult:
        try:
            async with asyncio.timeout(self.settings.command_timeout):
                await parts.reconnection.wait()
        except TimeoutError:
            msg = f"drained ({dict(parts.runner.outcomes)}), but what is left can't be counted"
            raise RedisUnavailable(msg) from None
        remaining, due = await parts.queues.left()
        done = parts.runner.outcomes
        return DrainResult(
            processed=done["completed"] + done["failed"],
            failed=done["failed"],
            remaining=remaining,
            next_due_at=due,
        )

    def wake(self) -> None:
        """Look for work at once; from the loop's own thread."""
        if self._engine is not None:
            self._engine.wake()

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
        _, engine = self._assemble()
        seconds = self.settings.shutdown_grace if grace is None else grace
        _log.info("worker.stopping", grace=seconds)
        self._grace_ends_at = time.monotonic() + seconds
        if self._lifespans is not None:
            self._lifespans.give_up_opening()
        self._stopping = asyncio.create_task(engine.stop(seconds), name="convolab-stop")
        return self._stopping

    def _hurry(self) -> None:
        """End the grace: running jobs and lifespans that close get no more than a moment."""
        self._grace_ends_at = 0.0
        self._assemble()[0].runner.interrupt()
        if self._lifespans is not None:
            self._lifespans.hurry()

    async def __aenter__(self) -> Self:
        """Run in the background of a host application, once the lifespans are open."""
        parts, _ = self._assemble()
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

    def _state(self, engine: Engine) -> str:
        if self._has_ended:
            return "stopped"
        return "stopping" if engine.stopping else "running"

    def stats(self) -> dict[str, Any]:
        """What the worker did and does, from memory, without a Redis command."""
        parts, engine = self._parts, self._engine
        if parts is None or engine is None:
            return {"state": "new"}
        commands = parts.commands
        return {
            "state": self._state(engine),
            "connected": parts.reconnection.is_open,
            "running": parts.slots.running,
            "free": parts.slots.free,
            "parked": parts.slots.parked,
            "outcomes": dict(parts.runner.outcomes),
            "commands": {
                "sent": commands.client_sent,
                "billable": commands.billable,
                "projected_day": parts.ledger.projection(time.time(), commands.billable),
                "budget": self.settings.command_budget,
                "by_purpose": commands.snapshot(),
            },
            "idle": parts.waiting.level,
            "telemetry": parts.telemetry.snapshot(),
            "stuck": parts.whereabouts.snapshot(),
        }


def _say_if_died(background: asyncio.Task[None]) -> None:
    """A worker that ends by an error of its own does not wait for its host to be told."""
    if not background.cancelled() and (error := background.exception()) is not None:
        _log.critical("worker.died", exc_info=error)
