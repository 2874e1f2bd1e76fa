"""A coroutine that begins at once, and not with its task's first turn of the event loop.

A handler that waits for nothing has ended before its slot goes on, which does not wait for two
turns of the loop. Python has this from 3.12 on (``eager_start``); this is for Python 3.11.
"""

from __future__ import annotations

from collections.abc import Coroutine
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator


class BegunCoroutine(Coroutine[Any, Any, None]):
    """Stands before a coroutine whose first step ``begin`` makes, before its task makes one.

    begin() -- it waits for a future -->  held  (its task's first step gives the future to the task)
    begin() -- it ends, or raises -->     over  (its task's first step ends the task)
    """

    __slots__ = ("_coroutine", "_error", "_future", "_has_ended", "_is_awaited", "_is_held")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine: Any = coroutine
        self._is_held = False  # the task has made no step yet
        # What the step gave: None is sleep(0), and what is no future is for the task to refuse.
        self._future: asyncio.Future[Any] | None = None
        self._is_awaited = False
        self._has_ended = False
        self._error: BaseException | None = None

    def begin(self) -> bool:
        """Make the first step; whether the coroutine has ended with it."""
        self._is_held = True
        try:
            self._future = self._coroutine.send(None)
        except StopIteration:
            self._has_ended = True
        except BaseException as error:  # noqa: BLE001 - the task raises it
            self._error = error
        if self._future is not None and getattr(self._future, "_asyncio_future_blocking", False):
            self._is_awaited = True
            # Others may wait for it, too, before our task does.
            self._future._asyncio_future_blocking = False  # noqa: SLF001 - asyncio's protocol
        return self._has_ended

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
        if future is not None and self._is_awaited:
            future._asyncio_future_blocking = True  # noqa: SLF001
        return future

    def throw(self, *error: Any) -> Any:
        """Raise an error in the coroutine, as the task does when it is cancelled.

        A task that waits for a future cancels that first, and hears of it from the future.
        """
        if self._is_held:
            self._is_held = False
            self._raise_end()
            if self._future is not None and self._is_awaited:
                message = error[0].args[:1]
                if self._future.cancel(*message):
                    return self._given()
            self._future = None
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """End the coroutine."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        awaited: Generator[Any, Any, None] = self._coroutine.__await__()
        return awaited

    # Its name, and where it stands, for those who look at tasks. A ``__getattr__`` would be asked
    # for every other attribute, too.
    __name__ = property(attrgetter("_coroutine.__qualname__"))
    cr_await = property(attrgetter("_coroutine.cr_await"))
    cr_code = property(attrgetter("_coroutine.cr_code"))
    cr_frame = property(attrgetter("_coroutine.cr_frame"))
    cr_origin = property(attrgetter("_coroutine.cr_origin"))
    cr_running = property(attrgetter("_coroutine.cr_running"))
    cr_suspended = property(attrgetter("_coroutine.cr_suspended"))
