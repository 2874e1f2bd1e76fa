"""Coroutines that begin at once, and not with their task's first turn of the event loop.

A handler that waits for nothing has ended before its slot goes on, which does not wait for two
turns of the loop; and its task, which has not noticed, is the next handler's. Python begins so from
3.12 on (``eager_start``); this is for Python 3.11.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from operator import attrgetter
from sys import getrefcount
from typing import TYPE_CHECKING, Any
from weakref import getweakrefcount

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Generator

# References to a task that nobody else knows: the event loop's, our caller's, two of ours and the
# argument of ``getrefcount``; and asyncio's weak one, in its set of all tasks.
_REFERENCES, _WEAK_REFERENCES = 5, 1


def is_known(task: asyncio.Task[None]) -> bool:
    """Whether somebody has kept the task, or waits for its end.

    They mean the coroutine that has ended in it, and no later one.
    """
    own: Any = task  # asyncio's own attribute, which its type does not tell
    return (
        getrefcount(task) > _REFERENCES
        or getweakrefcount(task) > _WEAK_REFERENCES
        or bool(own._callbacks)  # noqa: SLF001
    )


class BegunCoroutine(Coroutine[Any, Any, None]):
    """What a task runs that was made before its coroutine: ``begin`` makes that one's first step.

    free -- begin(): it ends -->              free   (the task notices nothing)
    free -- begin(): it waits, or raises -->  held   (the task's next step gives it what was given)
    held -- the task's next step -->          begun  (the task makes all further steps)
    free -- end() -->                         over   (the task's next step ends the task)
    """

    __slots__ = (
        "_context", "_coroutine", "_error", "_future", "_is_awaited", "_is_held", "_is_over",
        "_wanted",
    )  # fmt: skip

    def __init__(self) -> None:
        self._coroutine: Any = None
        self._context: contextvars.Context | None = None  # the coroutine's; the task's is another
        self._is_held = self._is_over = False
        # What the first step gave: None is sleep(0), and what is no future is for the task to
        # refuse.
        self._future: asyncio.Future[Any] | None = None
        self._is_awaited = False
        self._error: BaseException | None = None
        self._wanted: asyncio.Future[None] | None = None  # for which the task waits meanwhile

    def begin(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context) -> bool:
        """Make the first step of a coroutine in its context; whether that has ended it."""
        self._coroutine = coroutine  # for who looks at the task meanwhile
        try:
            self._future = context.run(coroutine.send, None)
        except StopIteration:
            self._coroutine = None
            return True
        except BaseException as error:  # noqa: BLE001 - the task raises it
            self._error = error
        self._context, self._is_held = context, True
        if self._future is not None and getattr(self._future, "_asyncio_future_blocking", False):
            self._is_awaited = True
            # Others may wait for it, too, before our task does.
            self._future._asyncio_future_blocking = False  # noqa: SLF001 - asyncio's protocol
        self._wake()
        return False

    def end(self) -> None:
        """Let the task end: no coroutine comes any more."""
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def is_free(self, task: asyncio.Task[None]) -> bool:
        """Whether ``task``, which runs this, can take a coroutine: nobody has cancelled it."""
        own: Any = task  # asyncio's own attribute, which its type does not tell
        return (
            not own._must_cancel  # noqa: SLF001
            and (self._wanted is None or not self._wanted.done())
            and not task.done()
        )

    def send(self, value: Any, /) -> Any:
        """Make a step, as the task does."""
        if self._is_held:
            self._is_held = False
            self._raise_error()
            return self._given()
        if self._context is not None:
            return self._context.run(self._coroutine.send, value)
        if self._is_over:
            raise StopIteration
        self._wanted = asyncio.get_running_loop().create_future()
        self._wanted._asyncio_future_blocking = True  # noqa: SLF001
        return self._wanted

    def _raise_error(self) -> None:
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
            self._raise_error()
            if self._future is not None and self._is_awaited:
                message = error[0].args[:1]
                if self._future.cancel(*message):
                    return self._given()
            self._future = None
        if self._context is None:
            raise error[0]
        return self._context.run(self._coroutine.throw, *error)

    def close(self) -> None:
        """End the coroutine."""
        if self._coroutine is not None:
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
