"""The event loop of a job's worker, as a handler reaches it from where it runs."""

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
    """Return what a coroutine returns that never waits for a loop: what it awaits blocks."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    msg = "a coroutine waits for an event loop where none runs"
    raise RuntimeError(msg)


class WorkerLoop:
    """The worker's loop, or none: a handler's own process has no worker's loop."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    def result(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the worker's loop, for whoever calls this.

        Return an awaitable of its result where a loop runs. In a thread without one, wait, and
        return the result itself.
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
