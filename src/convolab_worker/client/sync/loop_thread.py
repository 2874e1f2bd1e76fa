"""An event loop in a thread of its own, in which other threads run coroutines and wait for them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
_STOP_SECONDS = 5.0


class LoopThread:
    """Runs an event loop from its making until ``stop``; any thread may use it meanwhile."""

    def __init__(self) -> None:
        # asyncio's own loop, whatever the process's policy: its sockets are handed to threads.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._turn, name="convolab-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, in this thread's context, and return what it returns.

        It is cancelled if the wait is interrupted. Raises RedisUnavailable if the loop is stopped.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            msg = "a SyncJobClient can't be used by what it runs itself: await a JobClient there"
            raise RuntimeError(msg)
        call = _Call(coroutine)
        if not self.post(call.begin):
            coroutine.close()
            msg = "the client was closed"
            raise RedisUnavailable(msg)
        try:
            call.ended.acquire()
        except BaseException:  # Ctrl-C, above all
            self.post(call.cancel)
            raise
        return call.outcome()

    def post(self, callback: Callable[..., object], *args: Any) -> bool:
        """Have the loop call that soon, in this thread's context; False if it is stopped."""
        try:
            self._loop.call_soon_threadsafe(callback, *args, context=contextvars.copy_context())
        except RuntimeError:  # the loop is closed
            return False
        return True

    def stop(self) -> None:
        """End the loop and its thread. Call it when nothing runs there any more."""
        self.post(self._loop.stop)
        self._thread.join(_STOP_SECONDS)

    def _turn(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


class _Call(Generic[T]):
    """A coroutine that runs in the loop, and what it came to once ``ended`` is released."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.ended = threading.Lock()  # the cheapest thing that a thread can wait for
        self.ended.acquire()
        self._coroutine = coroutine
        self._task: asyncio.Task[None] | None = None
        self._value: T | None = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="convolab-call")

    async def _run(self) -> None:
        try:
            self._value = await self._coroutine
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self._error = error
        finally:
            self.ended.release()

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def outcome(self) -> T:
        if isinstance(self._error, asyncio.CancelledError):
            msg = "the client was closed"
            raise RedisUnavailable(msg) from self._error
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._value  # type: ignore[return-value]
