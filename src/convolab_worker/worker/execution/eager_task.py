"""Tasks whose coroutine begins at once, and not in the event loop's next turn.

A handler that waits for nothing has ended before its slot goes on: a short job takes two turns of
the loop less. Python has this from 3.12 on (``eager_start``). Python 3.11 gets the same from a
coroutine that stands before the real one: its first step is made here, as the task that asyncio
knows by then, and what the real one then waits for is given to the task when that comes by.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator


def begin_task(
    coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, name: str
) -> asyncio.Task[None]:
    """A task of ``loop``, which is running, that has made its first step when this returns.

    Where the application has a task factory, that makes the task, and decides when it begins.
    """
    if loop.get_task_factory() is not None:
        return loop.create_task(coroutine, name=name)
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, name=name, eager_start=True)
    begun = BegunCoroutine(coroutine)
    context = contextvars.copy_context()
    task = asyncio.Task(begun, loop=loop, name=name, context=context)
    current = asyncio.current_task(loop)
    if current is not None:
        asyncio.tasks._leave_task(loop, current)  # noqa: SLF001 - asyncio documents these two
    asyncio.tasks._enter_task(loop, task)  # noqa: SLF001
    try:
        context.run(begun.begin)
    finally:
        asyncio.tasks._leave_task(loop, task)  # noqa: SLF001
        if current is not None:
            asyncio.tasks._enter_task(loop, current)  # noqa: SLF001
    return task


class BegunCoroutine(Coroutine[Any, Any, None]):
    """Stands for a coroutine whose first step ``begin`` makes, before its task makes one.

    begin() -- it waits for a future -->  held  (its task's first step gives the future to the task)
    begin() -- it ends, or raises -->     over  (its task's first step ends the task)
    """

    __slots__ = ("_coroutine", "_error", "_future", "_has_ended", "_is_held")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._is_held = False  # the task has made no step yet
        self._future: asyncio.Future[Any] | None = None  # None is a step without a future: sleep(0)
        self._has_ended = False
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Make the first step."""
        self._is_held = True
        try:
            self._future = self._coroutine.send(None)
        except StopIteration:
            self._has_ended = True
        except BaseException as error:  # noqa: BLE001 - the task raises it
            self._error = error
        if self._future is not None:  # others may wait for it, too, before our task does
            self._future._asyncio_future_blocking = False  # noqa: SLF001 - asyncio's protocol

    def send(self, value: Any, /) -> Any:
        """Make a step, as the task does."""
        if not self._is_held:
            return self._coroutine.send(value)
        self._is_held = False
        self._raise_end()
        return self._given()

    def _raise_end(self) -> None:
        if self._has_ended:
            raise StopIteration
        if self._error is not None:
            raise self._error

    def _given(self) -> asyncio.Future[Any] | None:
        future, self._future = self._future, None
        if future is not None:
            future._asyncio_future_blocking = True  # noqa: SLF001
        return future

    def throw(self, *error: Any) -> Any:
        """Raise an error in the coroutine, as the task does when it is cancelled.

        A task that waits for a future cancels that first, and hears of it from the future.
        """
        if self._is_held:
            self._is_held = False
            self._raise_end()
            if self._future is not None and self._future.cancel():
                return self._given()
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """End the coroutine."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._coroutine.__await__()

    # Where it stands, for those who look at tasks.

    @property
    def cr_frame(self) -> Any:
        return self._coroutine.cr_frame

    @property
    def cr_await(self) -> Any:
        return self._coroutine.cr_await

    @property
    def cr_code(self) -> Any:
        return self._coroutine.cr_code

    @property
    def cr_running(self) -> bool:
        return self._coroutine.cr_running

    @property
    def cr_suspended(self) -> bool:
        return self._coroutine.cr_suspended
