"""When a worker leaves off, and what it does until it is called back: nothing, and no command.

    at work -- begin() -->                       at rest  (no block, no take, no job)
    at rest -- idle for sleep_after -->          asleep   (no connection)
    at rest, asleep -- recall() -->              at work
    asleep  -- a known due time -->              at work  (unless it works only when held)

A process at rest may be frozen, for hours, and its timers with it; whatever was due in that time
is made up for when it is called back.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.connection.reconnect import Reconnection

_log = structlog.get_logger("convolab_worker")
_FOREVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a worker lives: at work always, or only while a request is held; when it sleeps.

    ``sleep_after`` is in seconds without work, wake or held request; None: never.
    """

    works_when_held: bool = False
    sleep_after: float | None = None


ALWAYS_AT_WORK = Habits()


class Rest:
    """A worker's rest; ``next_time`` says when there will be something to do (epoch seconds)."""

    def __init__(
        self, habits: Habits, reconnection: Reconnection, next_time: Callable[[], float | None]
    ) -> None:
        """Begin at work or, if that is only when held, at rest."""
        self._habits = habits
        self._reconnection = reconnection
        self._next_time = next_time
        self._recalled = asyncio.Event()
        self._active_at = time.monotonic()
        self._missed_sleep = False
        self._connecting: asyncio.Future[None] | None = None
        self.is_on = habits.works_when_held
        self.asleep = False

    @property
    def may_come(self) -> bool:
        """Whether this worker ever rests."""
        return self._habits != ALWAYS_AT_WORK

    # at work

    @property
    def phase(self) -> str:
        """``working``, ``suspended`` or ``asleep``."""
        if self.asleep:
            return "asleep"
        return "suspended" if self.is_on else "working"

    def touch(self) -> None:
        """Something happened: the time to fall asleep is further away."""
        self._active_at = time.monotonic()

    @property
    def tired_at(self) -> float:
        """When to leave off if nothing happens, in the monotonic clock's seconds."""
        patience = self._habits.sleep_after
        return _FOREVER if patience is None else self._active_at + patience

    def begin(self) -> None:
        """Rest, until ``recall``."""
        if not self.is_on:
            self.is_on = True
            if self._habits.works_when_held:  # the time to fall asleep begins
                self.touch()
            self._recalled.clear()

    # at rest

    def recall(self, *, to_end: bool = False) -> None:
        """Back to work, or ``to_end`` the worker's life."""
        self._missed_sleep = time.monotonic() > self.tired_at
        self.touch()
        if self.is_on and not to_end:
            self.is_on = False
        self._recalled.set()

    def wake(self) -> None:
        """Back to work, unless work is only done when held."""
        if not self._habits.works_when_held:
            self.recall()

    async def doze(self) -> None:
        """Send nothing until recalled; close the connections after some time."""
        try:
            if await self._recalled_within(self.tired_at - time.monotonic()):
                if self._missed_sleep and not self.asleep:  # it was frozen when it should sleep
                    await self._reconnection.close()
                return
            await self._sleep()
        finally:
            self.asleep = False

    async def _sleep(self) -> None:
        await self._reconnection.close()
        self.asleep = True
        _log.info("worker.asleep")
        due = None if self._habits.works_when_held else self._next_time()
        if not await self._recalled_within(_FOREVER if due is None else due - time.time()):
            self.recall()
        _log.info("worker.awake")

    async def _recalled_within(self, seconds: float) -> bool:
        if seconds < _FOREVER:
            try:
                async with asyncio.timeout(max(seconds, 0.0)):
                    await self._recalled.wait()
            except TimeoutError:
                return self._recalled.is_set()
        return await self._recalled.wait()

    def connect_early(self) -> None:
        """Connect before the first work comes."""
        self._connecting = asyncio.ensure_future(self._reconnection.wait())
        self._connecting.add_done_callback(lambda done: done.cancelled() or done.exception())
