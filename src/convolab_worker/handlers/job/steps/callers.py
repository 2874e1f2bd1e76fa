"""Calls the functions of steps where their handlers run: in an event loop, or in a thread."""

from __future__ import annotations

import asyncio
import inspect
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from convolab_worker._threads import in_thread, outcome, start_call
from convolab_worker.errors import JobTimeout
from convolab_worker.handlers.functions import is_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from convolab_worker.handlers.job.steps.call import StepCall
    from convolab_worker.handlers.job.worker_loop import WorkerLoop


class Caller(Protocol):
    """Calls the functions of steps, and waits, where the handler runs."""

    async def call(self, call: StepCall) -> Any:
        """Return what the step's function returns, awaited. Raises JobTimeout."""

    async def pause(self, seconds: float) -> None:
        """Wait."""

    async def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Return what a coroutine of the worker's loop returns."""


class LoopCaller:
    """For handlers in an event loop: a plain function runs in a thread, and blocks nothing."""

    def __init__(self, loop: WorkerLoop) -> None:
        self._loop = loop

    async def call(self, call: StepCall) -> Any:  # noqa: D102 - see Caller
        if is_async(call.function):
            return await _in_time(call, call.function())
        return await _in_time(call, _in_thread(call))

    async def pause(self, seconds: float) -> None:  # noqa: D102 - see Caller
        await asyncio.sleep(seconds)

    async def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: D102 - see Caller
        return await self._loop.result(coroutine)


class ThreadCaller:
    """For plain handlers: functions run where the handler does, async ones in the worker's loop.

    None of its methods waits for an event loop.
    """

    def __init__(self, loop: WorkerLoop) -> None:
        self._loop = loop

    async def call(self, call: StepCall) -> Any:  # noqa: D102 - see Caller
        if is_async(call.function):
            return self._loop.finished(_in_time(call, call.function()))
        if call.timeout is None:
            value = call.function()
        else:  # in another thread: this one can't be cancelled
            ended: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
            start_call(call.function, lambda *told: ended.put(told), f"step {call.name}")
            try:
                told = ended.get(timeout=call.timeout)
            except Empty:
                raise _timed_out(call) from None
            value = outcome(*told)
        return self._loop.finished(_in_time(call, value)) if inspect.isawaitable(value) else value

    async def pause(self, seconds: float) -> None:  # noqa: D102 - see Caller
        time.sleep(seconds)  # noqa: ASYNC251 - no loop runs in this thread

    async def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: D102 - see Caller
        return self._loop.result(coroutine)


async def _in_time(call: StepCall, value: Awaitable[Any]) -> Any:
    limit = asyncio.timeout(call.timeout)
    try:
        async with limit:
            return await value
    except TimeoutError as error:
        if limit.expired():
            raise _timed_out(call) from error
        raise


def _timed_out(call: StepCall) -> JobTimeout:
    return JobTimeout(f"step {call.name!r} ran longer than its time-out of {call.timeout:g} s")


async def _in_thread(call: StepCall) -> Any:
    value = await in_thread(call.function, f"step {call.name}")
    return await value if inspect.isawaitable(value) else value
