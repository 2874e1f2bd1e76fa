"""The one loop that decides what a worker does next: fetch, listen, probe, or be suspended.

Each turn takes the facts that came in, asks the queue table for a decision, and turns that one
decision into commands. Jobs run in other tasks, in the fetcher's chains.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.connection.commands.error_replies import is_about_data
from convolab_worker.errors import RedisRefused, RedisUnavailable
from convolab_worker.worker.dispatch.exemptions import Exemptions
from convolab_worker.worker.dispatch.fetcher import Fetcher
from convolab_worker.worker.dispatch.idle_backoff import Bounds
from convolab_worker.worker.dispatch.listener import MarkerListener
from convolab_worker.worker.dispatch.prober import QueueProber
from convolab_worker.worker.dispatch.queue_state import FollowUp
from convolab_worker.worker.dispatch.stalled import StalledChecker
from convolab_worker.worker.execution.handler_call import STOP_PATIENCE_SECONDS
from convolab_worker.worker.suspension import Drains, Suspension

if TYPE_CHECKING:
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.connection.upkeep.reconnect import Reconnection
    from convolab_worker.settings import Settings
    from convolab_worker.telemetry.metrics import CommandUsage
    from convolab_worker.worker.dispatch.listener import Wakeup
    from convolab_worker.worker.dispatch.queue_table import QueueTable
    from convolab_worker.worker.execution.completer import JobCompleter
    from convolab_worker.worker.execution.executor import JobExecutor, JobInHand
    from convolab_worker.worker.locks import LockKeeper
    from convolab_worker.worker.suspension import IdlePolicy

_log = Log()
# The loop turns at least this often, at no command, so that a clock that jumps delays nothing.
_LONGEST_NAP_SECONDS = 30.0
_FOREVER = float("inf")
# Wakes that come faster than this share a probe of all queues.
_WAKE_SECONDS = 1.0
# Clocks are kept by small steps; more than this is a clock that was set, or a machine that slept.
_CLOCK_JUMP_SECONDS = 2.0
# The pause after an error that nobody foresaw, twice as long each time.
_FIRST_ERROR_SECONDS, _LONGEST_ERROR_SECONDS = 0.5, 60.0


class Dispatcher:
    """Dispatches jobs of the backend's queues until it is stopped or drained."""

    def __init__(
        self,
        backend: Backend,
        table: QueueTable,
        executor: JobExecutor,
        completer: JobCompleter,
        keeper: LockKeeper[JobInHand],
        reconnection: Reconnection,
        *,
        usage: CommandUsage,
        wakeup: Wakeup,
        settings: Settings,
        policy: IdlePolicy,
    ) -> None:
        bounds = Bounds(shortest=settings.idle_min, longest=settings.idle_max)
        self._backend = backend
        self._table = table
        self._choice = table.choice
        self._slots = table.slots
        self._executor = executor
        self._keeper = keeper
        self._reconnection = reconnection
        self._usage = usage
        self._wakeup = wakeup
        self._listener = MarkerListener(backend, wakeup, bounds)
        stalled = StalledChecker(
            backend,
            executor.ids_of,
            max_stalled=settings.max_stalled_count,
            lock_duration=settings.lock_duration,
        )
        self._prober = QueueProber(backend, table, stalled, executor.ids_of, bounds)
        backend.changes.heard = self._key_changed
        exemptions = Exemptions(backend, reconnection)
        self.fetcher = Fetcher(
            backend, table, executor, completer, keeper, self._prober, wakeup, exemptions
        )
        self.suspension = Suspension(
            policy, reconnection, self.next_time, has_jobs=lambda: self.fetcher.is_running
        )
        self._drains = Drains(self.suspension)
        self._patience = 3 * settings.command_timeout  # of one turn, while Redis answers
        self._generation = -1
        self._away_since = _FOREVER
        self._wake_wanted = False
        self._may_probe_at = 0.0
        self._probed: tuple[int, int] | None = None
        self._seen = (0, 0)
        self._pauses: set[str] = set()
        self._clock_offset = time.time() - time.monotonic()
        self._draining = False
        self._pump: asyncio.Task[None] | None = None
        self._halting = asyncio.Lock()
        self._halted = False
        self._error_seconds = _FIRST_ERROR_SECONDS
        self.stopping = False
        self.expected_by = _FOREVER  # when the loop turns again, unless something is wrong

    # the loop

    async def run(self, *, drain: bool = False) -> None:
        """Run jobs until stopped or, with ``drain``, until nothing is left to fetch."""
        self._draining = drain
        if drain:
            self.suspension.resume()
        if self.suspension.suspended:
            self.suspension.connect_early()
        while not self.stopping:
            if self.suspension.suspended:
                await self.halt()
                await self.suspension.wait_until_resumed()
            else:
                self._halted = False
                self.fetcher.start()
                await self._pump_jobs()
                if drain:
                    return

    async def _pump_jobs(self) -> None:
        """Turn until something says that nothing more is fetched."""
        pump = self._pump = asyncio.create_task(self._loop(), name="convolab-dispatch")
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
        while not (self.stopping or self.suspension.suspended):
            self.expected_by = time.monotonic() + self._patience
            try:
                if await self._turn():
                    return
            except RedisRefused as error:
                self._wake_wanted = True  # what was being probed is probed again
                self.expected_by = _FOREVER  # pauses are long while Redis refuses
                await self._reconnection.refused(error)
            except RedisUnavailable as error:
                _log.debug("redis.lost", error=str(error))
            except Exception:  # noqa: BLE001 - nothing that is stored in Redis may end this loop
                _log.exception("dispatcher.failed", pause=self._error_seconds)
                self._wake_wanted = True
                self.expected_by = time.monotonic() + self._error_seconds + self._patience
                await asyncio.sleep(self._error_seconds)
                self._error_seconds = min(2 * self._error_seconds, _LONGEST_ERROR_SECONDS)

    async def _turn(self) -> bool:
        """One decision, and what it takes; True when nothing more is fetched."""
        self._wakeup.clear()
        if not self._reconnection.is_open or self._generation != self._reconnection.generation:
            await self._reconnect()
        if self.fetcher.lost:
            await self.fetcher.adopt_lost()
        await self._hear()
        if self._wants_probe and time.monotonic() >= self._may_probe_at:
            await self._probe_all()
            self._may_probe_at = time.monotonic() + _WAKE_SECONDS
        now = self._pass_time()
        if self._halted:  # while an answer was waited for: nothing may begin any more
            return True
        ready = self._choice.next_queue()
        if ready is not None:
            await self._fill(ready, now)
            await asyncio.sleep(0)  # the handler begins first: its job has waited, this turn can
            return False
        check_at = self._prober.next_time()
        if check_at is not None and check_at <= now:
            await self._prober.run_due_checks(now)
            return False
        if self._asks_if_drained and self._probed != self._state():
            await self._probe_all(forget_pauses=False)
            return False
        self._usage.check(now)
        self._tell_pauses()
        if self._leaves_off():
            return True
        self._listener.listen(self._choice.listenable(), now, self._table.next_time())
        nap = self._nap(now, check_at)
        self.expected_by = time.monotonic() + nap + self._patience
        self._error_seconds = _FIRST_ERROR_SECONDS
        await self._wakeup.wait(nap)
        return False

    async def _fill(self, queue: str, now: float) -> None:
        """Fetch from the queue; one whose keys make BullMQ's scripts fail stops no other one."""
        try:
            await self.fetcher.fill(queue)
        except RedisRefused as error:
            if not is_about_data(str(error)):
                raise
            if self._table.fetch_failed(queue, now):
                _log.error("queue.broken", queue=queue, error=self._reconnection.explain(error))
                await self._prober.follow_up(queue, FollowUp.WATCH)
        else:
            self._reconnection.served()

    async def _hear(self) -> None:
        for heard in self._listener.heard():
            self._prober.wait_ended(heard)
            marker = heard.marker
            if marker is None:
                continue
            if marker.cancelled is None:
                wanted = self._table.marker_heard(marker, time.time())
                await self._prober.follow_up(marker.queue, wanted)
            elif (held := self._executor.find(marker.queue, marker.cancelled)) is not None:
                self._keeper.check_soon(held)

    def _key_changed(self, key: str | None) -> None:
        self._prober.changed(key)
        self._wakeup.set()

    def _pass_time(self) -> float:
        """Let what is due by now take effect; gives the time."""
        now = self._now()
        found, ended = self._seen
        self._seen = (self.fetcher.found, self.fetcher.ended)
        if found != self.fetcher.found:
            self._listener.work_seen()
        if ended != self.fetcher.ended:
            self.suspension.touch()
        for queue in self._table.pass_time(now):
            if self._choice.is_busy(queue):
                self._backend.republish_marker(queue)
        self._slots.end_waits(time.monotonic())
        self.fetcher.unpark()
        return now

    def _tell_pauses(self) -> None:
        """Log each pause once, and its end: nothing else says why jobs wait."""
        paused = self._table.known_pauses()
        for queue in paused - self._pauses:
            _log.warning("queue.paused", queue=queue)
        for queue in self._pauses - paused:
            _log.info("queue.resumed", queue=queue)
        self._pauses = paused

    def _now(self) -> float:
        """The time; where the clock was set, what is planned moves with it."""
        now = time.time()
        jump = now - time.monotonic() - self._clock_offset
        if abs(jump) > _CLOCK_JUMP_SECONDS:
            _log.warning("clock.jumped", seconds=round(jump, 1))
            self._clock_offset += jump
            self._table.shift(jump)
            self._prober.shift(jump)
            self._wake_wanted = True
        return now

    def _nap(self, now: float, check_at: float | None) -> float:
        moment = time.monotonic()
        naps = [at - now for at in (check_at, self._table.next_time()) if at is not None]
        start_at = self._slots.next_start()
        if start_at is not None:
            naps.append(start_at - moment)
        if self._wants_probe:
            naps.append(self._may_probe_at - moment)
        if self._is_idle and not self._drains.are_awaited:
            naps.append(self.suspension.idle_deadline - moment)
        return min([*naps, _LONGEST_NAP_SECONDS])

    async def _reconnect(self) -> None:
        """Connect; then adopt what lost fetches have taken, and probe every queue."""
        self._away_since = min(self._away_since, time.monotonic())
        self.expected_by = _FOREVER  # an outage is not this loop's fault
        await self._reconnection.wait()
        self.expected_by = time.monotonic() + self._patience
        generation = self._reconnection.generation
        await self.fetcher.adopt_lost()
        self._keeper.hurry()
        await self._probe_all(outage=time.monotonic() - self._away_since)
        self._generation, self._away_since = generation, _FOREVER

    async def _probe_all(self, *, outage: float = 0.0, forget_pauses: bool = True) -> None:
        self._wake_wanted = False  # before the probe: a wake in the middle of it asks for another
        self._table.probing_all()
        state = self._state()
        try:
            await self._prober.probe_all(time.time(), outage=outage, forget_pauses=forget_pauses)
        except RedisUnavailable:
            self._table.unsure()
            raise
        self._probed = state

    # idle

    @property
    def idle_since(self) -> float | None:
        """When something happened last, monotonic; None while a job is in hand or just was."""
        news = self._seen != (self.fetcher.found, self.fetcher.ended)
        return self.suspension.active_at if self._is_idle and not news else None

    @property
    def _wants_probe(self) -> bool:
        return self._wake_wanted or self._table.needs_probe

    def _state(self) -> tuple[int, int]:
        """Changes whenever a fetch begins or a job ends: then what a probe found is out of date."""
        return self._table.fetches, self.fetcher.ended

    @property
    def _is_idle(self) -> bool:
        fetcher = self.fetcher
        is_busy = fetcher.is_running or fetcher.lost or self._slots.parked
        return not (is_busy or self._wants_probe or self._choice.waits_for_rate())

    @property
    def _asks_if_drained(self) -> bool:
        return self._is_idle and (self._draining or self._drains.are_awaited)

    def _leaves_off(self) -> bool:
        """Whether nothing is left, or nothing has happened for long, so that the loop ends."""
        if not self._is_idle:
            return False
        if self._draining:
            return True
        if self._drains.are_awaited:
            if not self._drains.linger(self.next_time()):
                self._drains.end()
        elif time.monotonic() >= self.suspension.idle_deadline:
            self.suspension.suspend()
        return self.suspension.suspended

    @property
    def is_at_rest(self) -> bool:
        """Whether the worker is suspended with its connections open."""
        return self.suspension.suspended and not (self.suspension.asleep or self.stopping)

    def drained(self, *, look_by: float) -> asyncio.Future[None]:
        """A future that is done when nothing is left to fetch, as seen after this call.

        ``look_by`` (monotonic seconds) is how long the look may wait for others to share it.
        """
        waiter = self._drains.join()
        self._may_probe_at = min(self._may_probe_at, look_by)
        self.wake()
        return waiter

    def wake(self) -> None:
        """Probe every queue at once, whatever is known; at most once a second."""
        self._wake_wanted = True
        self.suspension.wake()
        self._wakeup.set()

    def resume(self, *, fetch_until: float) -> None:
        """Work, if need be after a suspension; nothing is worth waiting for after ``fetch_until``.

        Monotonic seconds.
        """
        self._drains.fetch_until(fetch_until)
        self.suspension.resume()
        self.wake()

    def next_time(self) -> float | None:
        """When there will be something to do, as far as is known; epoch seconds."""
        times = (self._table.next_time(), self._prober.stalled.next_foreign())
        return min((at for at in times if at is not None), default=None)

    async def count_remaining(self, *, drained: bool = False) -> tuple[int, float | None]:
        """How many jobs wait, delayed ones too, and when there will be something to do.

        ``drained`` says that the last probe may answer, where it found nothing at all. Raises
        RedisUnavailable.
        """
        if drained and self._prober.all_empty and self._probed == self._state():
            return 0, None
        if not self._reconnection.is_open:
            msg = "Redis is away: what is left can't be counted"
            raise RedisUnavailable(msg)
        remaining, due = await self._backend.count_remaining()
        start_at = self._slots.next_start() if remaining else None
        start = None if start_at is None else time.time() + start_at - time.monotonic()
        times = [at for at in (due, self.next_time(), start) if at is not None]
        return remaining, min(times, default=None)

    # ending

    async def halt(self) -> None:
        """Fetch no more: end the blocking read, return parked jobs. Jobs that run go on."""
        self.suspension.suspend()
        async with self._halting:
            if self._halted:
                return
            self._halted = True
            self.fetcher.stop()
            self._wakeup.set()
            await self._listener.close(STOP_PATIENCE_SECONDS / 2)
            await self._backend.changes.close()
            with contextlib.suppress(RedisRefused):
                await self._hear()
            self._prober.announce()
            await self._end_pump()
            await self._return_lost()
            await self.fetcher.return_parked()
            self._keeper.hurry()  # without a job it needs no connection

    async def _end_pump(self) -> None:
        """Let a fetch that is under way be answered, so that what it took can be returned."""
        pump = self._pump
        if pump is not None and not pump.done():
            await asyncio.wait({pump}, timeout=STOP_PATIENCE_SECONDS)
            pump.cancel()

    async def _return_lost(self) -> None:
        """Return what lost fetches have taken, if Redis answers soon; otherwise it stays known."""
        if self.fetcher.lost and self._reconnection.is_open:
            with contextlib.suppress(RedisUnavailable, TimeoutError):
                async with asyncio.timeout(STOP_PATIENCE_SECONDS):
                    await self.fetcher.adopt_lost()

    async def stop(self, grace: float) -> None:
        """Fetch no more; give running jobs ``grace`` seconds, then return them to their queues."""
        ends_at = time.monotonic() + grace
        self.stopping = True
        self._executor.stopping.set()
        self.suspension.end()
        self.fetcher.stop()
        # At the same time: a server that does not answer gives no handler a longer grace.
        halting = asyncio.create_task(self.halt(), name="convolab-halt")
        await self.fetcher.all_ended(ends_at - time.monotonic())
        await self.fetcher.abort_all()
        await halting
        await self._return_lost()
        await self._backend.changes.close()  # the end of a job may have begun to watch again

    @property
    def waiting(self) -> dict[str, Any]:
        """The blocking read's length and end, for ``stats``."""
        return self._listener.level
