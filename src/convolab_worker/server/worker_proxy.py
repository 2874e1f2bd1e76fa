"""Calls the worker's public methods from the wake server, in the worker's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from convolab_worker.errors import NotRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from convolab_worker.worker.status import Health
    from convolab_worker.worker.worker import Worker

T = TypeVar("T")
# A failure is reported when this many checks in a row have found it.
_FAILED_CHECKS = 5


class HealthWatch:
    """Judges a worker's health by checks, one a second.

    It counts checks, not seconds: no check runs while the whole process is suspended, and that is
    not the worker's fault.
    """

    def __init__(self) -> None:
        self._unanswered = 0
        self._overdue = 0

    def record(self, health: Health, *, answered: bool) -> None:
        """Record a check; ``answered``: the worker's event loop has turned since the last one."""
        self._unanswered = 0 if answered else self._unanswered + 1
        self._overdue = self._overdue + 1 if health.overdue else 0

    def problem(self, health: Health) -> str | None:
        """Return what is wrong with the worker, in words; None if nothing is."""
        if health.state == "stopped":
            return "the worker has ended"
        if self._unanswered >= _FAILED_CHECKS:
            return f"the event loop has not turned for {self._unanswered} s"
        if self._overdue >= _FAILED_CHECKS:
            return "the loop that fetches jobs makes no progress"
        return None


class WorkerProxy:
    """Reaches a worker from the server's event loop.

    ``loop`` is the worker's event loop if it runs in another thread; None if the two share one.
    """

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._worker = worker
        self._loop = loop
        self._watch = HealthWatch()
        self._has_answered = True
        self._wake_pending = False
        self.handlers = worker.handlers
        # Any thread may call these two.
        self.health = worker.health
        self.progress = worker.progress

    async def call(self, function: Callable[[Worker], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine ``function(worker)`` in the worker's event loop; return its result.

        It is cancelled when the caller is. Raises what it raises, and NotRunning if the worker's
        event loop has ended.
        """
        coroutine = function(self._worker)
        if self._loop is None:
            return await coroutine
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            msg = "the worker has ended"
            raise NotRunning(msg) from None
        return await asyncio.wrap_future(future)

    def wake(self) -> None:
        """Wake the worker; calls that come before it is woken share one wake."""
        if not self._wake_pending:
            self._wake_pending = True
            self._post(self._wake)

    def _wake(self) -> None:
        self._wake_pending = False
        self._worker.wake()

    def check(self) -> None:
        """Check, once a second, whether the worker's event loop has turned since the last check."""
        self._watch.record(self.health(), answered=self._has_answered)
        if self._has_answered:
            self._has_answered = False
            self._post(self._answer)

    def _answer(self) -> None:
        self._has_answered = True

    def problem(self) -> str | None:
        """Return what keeps the worker from running jobs, in words; None if nothing does."""
        return self._watch.problem(self.health())

    def _post(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the worker's loop, without waiting for it."""
        if self._loop is None:
            callback()
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the worker with it
            self._loop.call_soon_threadsafe(callback)
