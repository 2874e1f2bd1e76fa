"""Runs coroutines in the worker's event loop, from wherever a handler runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def driven(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine without an event loop; what it awaits must block instead of suspend."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    msg = "a coroutine waits for an event loop where none runs"
    raise RuntimeError(msg)


class WorkerLoop:
    """The worker's loop; or none, as in a handler's own process."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    def result(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the worker's loop.

        If the calling thread has a running loop, return an awaitable of the result. Otherwise wait,
        and return the result itself.
        """
        here, home = running_loop(), self._loop
        if home is None:
            return driven(coroutine) if here is None else coroutine
        if here is home:
            return coroutine
        future = asyncio.run_coroutine_threadsafe(coroutine, home)
        return future.result() if here is None else asyncio.wrap_future(future)

    def finished(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run any coroutine to its end, for a thread without a loop."""
        if self._loop is None:
            return asyncio.run(coroutine)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
