"""The wake signal: latched, coalescing, and waited on beside the block."""

from __future__ import annotations

import asyncio


class Signal:
    """Set by anybody, waited for by one; set many times before a wait, it ends one wait.

    Clear it before looking for work, never after: a wake in the middle of a look is then kept.
    """

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """End the wait, or the next one; from the loop's own thread."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until it is set, at most ``timeout`` seconds."""
        if self._is_set or (timeout is not None and timeout <= 0):
            return
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None
        if timeout is not None:
            timer = loop.call_later(timeout, _end, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
