"""When an idle worker is suspended: no fetch, no blocking read and, asleep, no connection.

    working   -- suspend() -->                       suspended
    suspended -- idle for sleep_after -->            asleep
    suspended, asleep -- resume() -->                working
    asleep    -- a known due time -->                working   (unless it works only when held)
    any       -- end() -->                           ended: nothing is waited for any more

The process may be frozen for hours while suspended, and its timers with it; what was due in that
time is made up for when it is resumed. While a request waits for a drain's end, the worker is not
suspended.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from convolab_worker._logs import Log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from convolab_worker.connection.upkeep.reconnect import Reconnection

_log = Log()
_FOREVER = float("inf")


class IdlePolicy(Struct, frozen=True, kw_only=True):
    """Whether a worker works always or only while a request is held, and when it sleeps.

    ``sleep_after`` is in seconds without work, wake or held request; None: never. ``linger`` is how
    long (seconds) a worker that works only when held waits, when all is done, for what is due soon.
    """

    works_when_held: bool = False
    sleep_after: float | None = None
    linger: float = 0.0


ALWAYS_WORKING = IdlePolicy()


class Suspension:
    """The state of a worker's suspension; only the dispatcher changes it.

    ``next_time`` says when there will be something to do (epoch seconds), which ``tell_due`` hears
    before a worker that works always falls asleep; otherwise each drain's end tells it. While the
    worker ``has_jobs``, it does not fall asleep: their ends are still to be written.
    """

    def __init__(
        self,
        policy: IdlePolicy,
        reconnection: Reconnection,
        next_time: Callable[[], float | None],
        *,
        has_jobs: Callable[[], bool] = lambda: False,
    ) -> None:
        self.policy = policy
        self._reconnection = reconnection
        self._next_time = next_time
        self._has_jobs = has_jobs
        self._resumed = asyncio.Event()
        self._active_at = time.monotonic()
        self._has_overslept = False
        self._connecting: asyncio.Future[None] | None = None
        self._has_ended = False
        self.suspended = policy.works_when_held
        self.asleep = False
        self.tell_due: Callable[[float | None], Awaitable[None]] | None = None

    @property
    def phase(self) -> str:
        if self.asleep:
            return "asleep"
        return "suspended" if self.suspended else "working"

    @property
    def active_at(self) -> float:
        """When something happened last: a job's end, a wake or a request (monotonic clock)."""
        return self._active_at

    def touch(self) -> None:
        """Note that something happened: the time to fall asleep starts anew."""
        self._active_at = time.monotonic()

    @property
    def idle_deadline(self) -> float:
        """When the worker is suspended if nothing happens (monotonic clock)."""
        patience = self.policy.sleep_after
        return _FOREVER if patience is None else self._active_at + patience

    def suspend(self) -> None:
        if self.suspended or self._has_ended:
            return
        self.suspended = True
        self._has_overslept = False
        self._resumed.clear()
        if self.policy.works_when_held:  # the time to fall asleep begins
            self.touch()

    def resume(self) -> None:
        self._notice_oversleep()
        self.touch()
        self.suspended = False
        self._resumed.set()

    def wake(self) -> None:
        """Work again, unless the worker works only when held."""
        if self.policy.works_when_held:
            self._notice_oversleep()
            self.touch()
        else:
            self.resume()

    def _notice_oversleep(self) -> None:
        self._has_overslept |= time.monotonic() > self.idle_deadline

    def end(self) -> None:
        """The worker stops: end all waits, and let later ones end at once."""
        self._has_ended = True
        self._resumed.set()

    async def wait_until_resumed(self) -> None:
        """Send nothing until resumed; close the connections after some time."""
        try:
            while not await self._resumed_within(self.idle_deadline - time.monotonic()):
                if not self._has_jobs():
                    await self._sleep()
                    return
                self.touch()
            if self._has_overslept:  # it was frozen when it should have fallen asleep
                await self._reconnection.close()
        finally:
            self.asleep = False

    async def _sleep(self) -> None:
        if self.tell_due is not None and not self.policy.works_when_held:
            await self._tell(self.tell_due)
            if self._resumed.is_set():
                return
        self.asleep = True  # first: these connections are closed, not lost
        await self._reconnection.close()
        _log.info("worker.asleep")
        due = None if self.policy.works_when_held else self._next_time()
        if not await self._resumed_within(_FOREVER if due is None else due - time.time()):
            self.resume()
        _log.info("worker.awake")

    async def _tell(self, tell_due: Callable[[float | None], Awaitable[None]]) -> None:
        """Tell when work is due next; a caller that resumes the worker does not wait for that."""
        telling = asyncio.ensure_future(tell_due(self._next_time()))
        resumed = asyncio.create_task(self._resumed.wait(), name="convolab-resumed")
        try:
            await asyncio.wait({telling, resumed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            telling.cancel()
            resumed.cancel()

    async def _resumed_within(self, seconds: float) -> bool:
        if seconds < _FOREVER:
            try:
                async with asyncio.timeout(max(seconds, 0.0)):
                    await self._resumed.wait()
            except TimeoutError:
                return self._resumed.is_set()
        return await self._resumed.wait()

    def connect_early(self) -> None:
        """Connect before the first work comes."""
        self._connecting = asyncio.ensure_future(self._reconnection.wait())
        self._connecting.add_done_callback(lambda done: done.cancelled() or done.exception())


class Drains:
    """The futures of requests that wait until nothing is left to fetch."""

    def __init__(self, suspension: Suspension) -> None:
        self._suspension = suspension
        self._waiters: list[asyncio.Future[None]] = []
        self._fetch_until = _FOREVER

    def join(self) -> asyncio.Future[None]:
        """Return a future that is done at the end of the drain; cancel it to wait no longer."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    @property
    def are_awaited(self) -> bool:
        if self._waiters:
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
        return bool(self._waiters)

    def fetch_until(self, moment: float) -> None:
        """Until when jobs that are due soon are waited for (monotonic clock)."""
        self._fetch_until = moment

    def linger(self, due: float | None) -> bool:
        """Whether something is ``due`` (epoch seconds) so soon that the drain waits for it."""
        policy = self._suspension.policy
        if due is None or not policy.works_when_held:
            return False
        due_at = time.monotonic() + due - time.time()
        return due_at <= min(self._suspension.active_at + policy.linger, self._fetch_until)

    def end(self) -> None:
        """Nothing is left: tell all requests; suspend a worker that works only when held."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.set_result(None)
        if self._suspension.policy.works_when_held:
            self._suspension.suspend()
