"""Threads that plain handlers run in. They are kept from job to job, with what is local to them.

busy -- its call ends -->                 idle   (the next call gets the one that ended last)
busy -- nobody waits for it any more -->  lost   (the next call gets another; it ends by itself)
idle -- close() -->                       ended
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    # What is to be called, and what hears of its value or error; both in the thread.
    Call = tuple[str, Callable[[], Any], Callable[[Any, BaseException | None], None]]

_IDLE_NAME = "convolab-handler"


class HandlerThread:
    """A thread that makes one call after another."""

    def __init__(self, take_back: Callable[[HandlerThread], bool]) -> None:
        self._take_back = take_back
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self.is_lost = False  # written in the loop
        # A daemon, and no executor's: one whose call never ends must not keep the process.
        self._thread = threading.Thread(target=self._main, name=_IDLE_NAME, daemon=True)
        self._thread.start()

    @property
    def ident(self) -> int | None:
        return self._thread.ident

    @property
    def native_id(self) -> int | None:
        return self._thread.native_id

    def make(self, call: Call | None) -> None:
        """Make the call, or end if there is none."""
        self._calls.put(call)

    def _main(self) -> None:
        while (call := self._calls.get()) is not None:
            self._thread.name, function, tell = call
            value, error = None, None
            try:
                value = function()
            except BaseException as raised:  # noqa: BLE001 - nothing a handler raises may end the worker
                error = raised
            self._thread.name = _IDLE_NAME
            # Idle before it tells, so that the slot's next job finds this thread.
            is_kept = self._take_back(self)
            tell(value, error)
            del call, function, tell, value, error  # or the job would live until the next one
            if not is_kept:
                return


class HandlerThreads:
    """Gives each call a thread of its own: an idle one, or a new one where none is idle.

    A worker makes no more calls at once than it has slots, and that bounds the threads too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[HandlerThread] = []
        self._is_closed = False

    def call(
        self,
        name: str,
        function: Callable[[], Any],
        tell: Callable[[Any, BaseException | None], None],
    ) -> HandlerThread:
        """Call the function in a thread of that name, which tells of its value or its error.

        Raises RuntimeError where the system gives no more threads.
        """
        with self._lock:
            thread = self._idle.pop() if self._idle else None
        if thread is None:
            thread = HandlerThread(self._take_back)
        thread.make((name, function, tell))
        return thread

    def abandon(self, thread: HandlerThread) -> None:
        """Nobody waits for the thread's call any more: no further call gets this thread."""
        with self._lock:
            thread.is_lost = True
            if thread in self._idle:  # its call has ended, and its end is on the way
                self._idle.remove(thread)
                thread.make(None)

    def close(self) -> None:
        """End the idle threads now, and the others when their calls have ended."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for thread in idle:
            thread.make(None)

    def _take_back(self, thread: HandlerThread) -> bool:
        with self._lock:
            if self._is_closed or thread.is_lost:
                return False
            self._idle.append(thread)
            return True
