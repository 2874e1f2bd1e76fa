"""Worker: its life, from the first connection to the last job."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

from convolab_worker._logs import Log
from convolab_worker.errors import ConfigurationError, NotRunning, RedisUnavailable
from convolab_worker.handlers.around.lifespan import Lifespans
from convolab_worker.handlers.registration.processes import IMPORTING
from convolab_worker.settings import Settings
from convolab_worker.worker import status
from convolab_worker.worker.assembly import assemble
from convolab_worker.worker.execution.handler_call import SHUTDOWN
from convolab_worker.worker.held_requests import HeldRequests
from convolab_worker.worker.status import Health
from convolab_worker.worker.suspension import ALWAYS_WORKING
from convolab_worker.worker.tally import LATE_COUNT_SECONDS

if TYPE_CHECKING:
    from convolab_worker.handlers.registration.handler import Scope
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.worker.assembly import Assembly
    from convolab_worker.worker.held_requests import HoldResult
    from convolab_worker.worker.tally import DrainResult

T = TypeVar("T")
_log = Log()
_FOREVER = float("inf")


class Worker:
    """Runs jobs of the settings' queues with the registry's handlers.

    A worker lives once: ``new`` until ``run``, ``drain`` or ``async with``, then ``running``,
    ``stopping`` and ``stopped``. ``overrides`` are settings by name. Raises ConfigurationError if
    there is no handler, an option is wrong, or a process could not import its handler.
    """

    def __init__(
        self, handlers: HandlerRegistry, settings: Settings | None = None, **overrides: Any
    ) -> None:
        if settings is None:
            settings = Settings.from_env(**overrides)
        elif overrides:
            settings = settings.replace(**overrides)
        if not len(handlers):
            msg = (
                "the registry has no handler: register one, as in @handlers.audio('generate-audio')"
            )
            raise ConfigurationError(msg)
        if IMPORTING.get():
            msg = (
                "a handler's process imports the program that starts this worker: expected what "
                "starts it under `if __name__ == '__main__':`"
            )
            raise ConfigurationError(msg)
        handlers.check()
        self.settings = settings
        self.handlers = handlers
        self._assembly: Assembly | None = None
        self._requests: HeldRequests | None = None
        self._lifespans: Lifespans[Scope] | None = None
        self._has_run = False
        self._has_ended = False
        self._has_started = asyncio.Event()
        self._is_hurried = False
        self._grace_ends_at: float | None = None
        self._background: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    # running

    async def run(self) -> None:
        """Run jobs until ``stop``. Redis may come and go; jobs never end this by failing.

        Raises LifespanFailed if a lifespan of the handlers can't be opened, before any job. When
        this is cancelled, however often, it ends only after everything that it began has ended.
        """
        await self._wait_for_end(asyncio.create_task(self._live(), name="convolab-life"))

    async def drain(self, budget: float | None = None) -> DrainResult:
        """Run what is there until nothing is left to fetch, at most ``budget`` seconds.

        Delayed jobs that are not due yet are left. Before the budget is over nothing more is
        fetched, so that what runs can end; what does not goes back to its queue. Raises
        RedisUnavailable if what is left can't be counted at the end.
        """
        if budget is not None and not 0 < budget < _FOREVER:
            msg = f"drain(budget={budget!r}): expected seconds above 0, or None"
            raise ConfigurationError(msg)
        self._assemble()
        ends_at = _FOREVER if budget is None else time.monotonic() + budget
        life = asyncio.create_task(self._live(drain_until=ends_at), name="convolab-life")
        ending: asyncio.TimerHandle | None = None
        if budget is not None:
            reserve = min(self.settings.shutdown_grace, budget / 2)
            loop = asyncio.get_running_loop()
            ending = loop.call_later(budget - reserve, self._stop_by_itself, reserve)
        try:
            result = await self._wait_for_end(life)
        finally:
            if ending is not None:
                ending.cancel()
        if result is None:  # a stop came before the end
            msg = "the worker was stopped before its drain had ended"
            raise NotRunning(msg)
        return result

    async def _wait_for_end(self, life: asyncio.Task[T]) -> T:
        """Wait for the worker's end; a cancellation hastens it, and is raised afterwards."""
        cancelled: asyncio.CancelledError | None = None
        while not life.done():
            try:
                await asyncio.wait({life})
            except asyncio.CancelledError as error:
                cancelled = error
                self._end_soon()
        if cancelled is not None:
            if not life.cancelled():
                life.exception()  # logged already; the caller gets its cancellation
            raise cancelled
        return life.result()

    def _end_soon(self) -> None:
        """The caller was cancelled: give running jobs no more than a moment."""
        if self._stopping is None:
            self._begin_stop(0.0)
        self._hurry()

    async def _live(self, *, drain_until: float | None = None) -> DrainResult | None:
        """One life, from the lifespans' opening to the last connection's end."""
        assembly, requests = self._assemble()
        if self._has_run:
            msg = "this worker has run already: make another one"
            raise ConfigurationError(msg)
        self._has_run = True
        drained = None
        try:
            await self._open_lifespans(assembly)
            _log.info("worker.started", **self._description())
            for remark in self.settings.remarks:
                _log.warning("settings.passed_over", remark=remark)
            self._warn_of_unreachable()
            self._has_started.set()
            is_drain, policy = drain_until is not None, assembly.dispatcher.suspension.policy
            if not is_drain and policy == ALWAYS_WORKING:  # each name is billed at each connect
                assembly.names.start()
            await assembly.dispatcher.run(drain=is_drain)
            if self._stopping is not None:
                await asyncio.shield(self._stopping)
            await requests.finish()
            if self._lifespans is not None:
                self._lifespans.raise_death()
            if drain_until is not None:
                drained = await self._drain_result(assembly, drain_until)
            await self._tell_next_due(assembly, drained)
        finally:
            await asyncio.shield(self._stopping or self._stop_task(0.0))
            assembly.keeper.stop()
            await assembly.executor.close()
            await assembly.names.close()
            await self._close_lifespans()
            await assembly.reconnection.close()
            self._has_ended = True
            await requests.finish()
            _log.info("worker.stopped", outcomes=dict(assembly.executor.metrics.outcomes))
        return drained

    async def _tell_next_due(self, assembly: Assembly, drained: DrainResult | None) -> None:
        """Tell when work is due next: the process may end now, and has to be started for it.

        A hurried stop does not wait for that. A worker that works only when held has told it at the
        end of its drain.
        """
        works_when_held = assembly.dispatcher.suspension.policy.works_when_held
        if self._is_hurried or (works_when_held and drained is None):
            return
        at = assembly.dispatcher.next_time() if drained is None else drained.next_due_at
        await assembly.next_due.tell(at, self._grace_left)

    async def _drain_result(self, assembly: Assembly, ends_at: float) -> DrainResult:
        seconds = min(self.settings.command_timeout, ends_at - time.monotonic())
        try:
            async with asyncio.timeout(max(seconds, LATE_COUNT_SECONDS)):
                await assembly.reconnection.wait()
                return await assembly.tally.result(drained=True, seconds=seconds)
        except (TimeoutError, RedisUnavailable):
            outcomes = dict(assembly.executor.metrics.outcomes)
            msg = f"drained ({outcomes}), but what is left can't be counted"
            raise RedisUnavailable(msg) from None

    async def _open_lifespans(self, assembly: Assembly) -> None:
        """Open the lifespans, once, and give handlers their resources; not if the worker stops."""
        if self._lifespans is not None or self._stopping is not None:
            return
        self._lifespans = Lifespans(
            self.handlers.lifespans, self.settings, on_death=self._stop_by_itself
        )
        try:
            assembly.executor.use(self.handlers.staged(await self._lifespans.open()))
        except asyncio.CancelledError:
            await self._lifespans.close(0.0)
            raise

    def _stop_by_itself(self, grace: float | None = None) -> None:
        if self._stopping is None:
            self._begin_stop(grace)

    async def _close_lifespans(self) -> None:
        if self._lifespans is not None:
            await self._lifespans.close(self._grace_left)

    @property
    def _grace_left(self) -> float:
        """The seconds that a stop has left; all of its grace where none has begun."""
        ends_at = self._grace_ends_at
        return self.settings.shutdown_grace if ends_at is None else ends_at - time.monotonic()

    def _assemble(self) -> tuple[Assembly, HeldRequests]:
        """Make the parts, once; here and not earlier, since they belong to the running loop."""
        if self._assembly is None or self._requests is None:
            assembly = self._assembly = assemble(self.handlers, self.settings)
            self._requests = HeldRequests(
                assembly.dispatcher,
                assembly.tally,
                assembly.next_due,
                suspends=assembly.dispatcher.suspension.policy.works_when_held,
                grace=self.settings.shutdown_grace,
            )
        return self._assembly, self._requests

    def _warn_of_unreachable(self) -> None:
        queues = self.settings.queues
        for handler in self.handlers.unreachable(queues):
            _log.warning(
                "handler.unreachable",
                handler=handler.place,
                names=list(handler.names),
                queue=handler.queue,
                queues=list(queues),
                hint=f"add the queue {handler.queue} to CONVOLAB_QUEUES, or run a worker for it",
            )

    def _description(self) -> dict[str, Any]:
        return {
            "queues": list(self.settings.queues),
            "concurrency": self.settings.concurrency,
            "handlers": len(self.handlers),
        }

    # control

    async def started(self) -> None:
        """Wait until the lifespans are open and jobs may run; Redis may still be away."""
        await self._has_started.wait()

    def wake(self) -> None:
        """Look for work at once, or within a second of the last wake; from the loop's own thread.

        Ends a sleep. A worker that works only when held does nothing before the next ``hold``.
        """
        if self._assembly is not None:
            self._assembly.dispatcher.wake()

    async def hold(self, budget: float) -> HoldResult:
        """Work until nothing is left to fetch, at most ``budget`` seconds; return what came of it.

        Callers at the same time share the work, each for as long as its own budget; one that is
        cancelled leaves the others alone. With ``wake_mode="held"`` the worker works only while
        somebody holds: it fetches no more when what runs must end before the last budget is over,
        returns what has not ended then, and is suspended when this returns. Otherwise it works
        always, and this waits. Raises NotRunning when the worker ends, and RedisUnavailable if what
        is left can't be counted.
        """
        if not 0 < budget < _FOREVER:
            msg = f"hold(budget={budget!r}): expected seconds above 0"
            raise ConfigurationError(msg)
        return await self._assemble()[1].hold(budget)

    async def stop(self, grace: float | None = None) -> None:
        """Fetch no more jobs, give running ones ``grace`` seconds, return the others, and end.

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
        _, requests = self._assemble()
        seconds = self.settings.shutdown_grace if grace is None else grace
        _log.info("worker.stopping", grace=seconds)
        self._grace_ends_at = time.monotonic() + seconds
        if self._lifespans is not None:
            self._lifespans.give_up_opening()
        requests.stopping()
        return self._stop_task(seconds)

    def _stop_task(self, seconds: float) -> asyncio.Task[None]:
        stopping = self._assemble()[0].dispatcher.stop(seconds)
        self._stopping = asyncio.create_task(stopping, name="convolab-stop")
        return self._stopping

    def _hurry(self) -> None:
        """End the grace: running jobs and lifespans that close get no more than a moment."""
        if self._is_hurried:
            return
        self._is_hurried = True
        self._grace_ends_at = 0.0
        self._assemble()[0].executor.abort_all(SHUTDOWN)
        if self._lifespans is not None:
            self._lifespans.hurry()

    async def __aenter__(self) -> Self:
        """Run in the background of a host application, once the lifespans are open."""
        await self._open_lifespans(self._assemble()[0])
        self._background = asyncio.create_task(self.run(), name="convolab-worker")
        self._background.add_done_callback(_log_death)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop with the settings' grace, and raise what ended the worker, if something did."""
        background, self._background = self._background, None
        if background is None:
            return
        if self._stopping is None:
            self._begin_stop()
        await self._wait_for_end(background)

    # status

    @property
    def _state(self) -> str:
        if self._has_ended:
            return "stopped"
        if self._assembly is None:
            return "new"
        return "stopping" if self._assembly.dispatcher.stopping else "running"

    def progress(self) -> dict[str, int]:
        """What the drain has done that held requests share; from memory, from any thread."""
        if self._assembly is None:
            return {"processed": 0, "failed": 0, "running": 0}
        processed, failed = self._assembly.tally.so_far()
        running = self._assembly.table.slots.running
        return {"processed": processed, "failed": failed, "running": running}

    def health(self) -> Health:
        """Whether the worker is well, from memory; from any thread."""
        if self._assembly is None:
            return Health(state=self._state, ready=False, overdue=False)
        return status.health(self._assembly, state=self._state, now=time.monotonic())

    def idle_since(self) -> float | None:
        """When something happened last: a job's end, a wake, a request (monotonic clock).

        None while a job runs or waits in memory, and while a request is held.
        """
        if self._assembly is None or self._requests is None:
            return None
        return None if self._requests.held else self._assembly.dispatcher.idle_since

    def status_snapshot(self) -> dict[str, Any]:
        """What the console shows, from memory, without a Redis command."""
        return status.status_snapshot(
            self._assemble()[0],
            self.settings,
            self.handlers,
            state=self._state,
            now=time.time(),
        )

    def stats(self) -> dict[str, Any]:
        """What the worker has done and does now, from memory, without a Redis command."""
        if self._assembly is None or self._requests is None:
            return {"state": "new"}
        return status.stats(
            self._assembly, self._requests, self.handlers, state=self._state, now=time.time()
        )


def _log_death(background: asyncio.Task[None]) -> None:
    """Log at once that a worker ended by an error of its own; its host may look much later."""
    if not background.cancelled() and (error := background.exception()) is not None:
        _log.critical("worker.died", exc_info=error)
