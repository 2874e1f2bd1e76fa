"""Who waits for the end of a drain, and whether it has come."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convolab_worker.worker.suspension import Suspension

_FOREVER = float("inf")


class Drains:
    """The futures of those who wait until nothing is left to fetch."""

    def __init__(self, suspension: Suspension) -> None:
        self._suspension = suspension
        self._waiters: list[asyncio.Future[None]] = []
        self._fetch_until = _FOREVER

    def join(self) -> asyncio.Future[None]:
        """A future that is done at the end of the drain; who cancels it waits no longer."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    @property
    def are_awaited(self) -> bool:
        if self._waiters:
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
        return bool(self._waiters)

    def fetch_until(self, moment: float) -> None:
        """Nothing is worth waiting for after this moment; monotonic."""
        self._fetch_until = moment

    def linger(self, due: float | None) -> bool:
        """Whether something is ``due`` (epoch seconds) so soon that the drain waits for it."""
        policy = self._suspension.policy
        if due is None or not policy.works_when_held:
            return False
        due_at = time.monotonic() + due - time.time()
        return due_at <= min(self._suspension.active_at + policy.linger, self._fetch_until)

    def end(self) -> None:
        """Nothing is left: tell all who wait, and suspend a worker that works only when held."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.set_result(None)
        if self._suspension.policy.works_when_held:
            self._suspension.suspend()
