"""Commands that were sent and are not answered yet: their bytes, and when they are overdue."""

from __future__ import annotations

import asyncio
import contextvars
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import hiredis

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable


class Answer(asyncio.Future[Any]):
    """The future of one command's answer.

    ``deliver`` runs at once what waits for the answer, which is a task as a rule; a plain future
    would leave it to the next turn of the event loop. A failure or a cancellation comes in the next
    turn, as with any future: a task may cause it, and one task can't run inside another.
    """

    _waiting: tuple[Callable[[Any], object], contextvars.Context] | None = None

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: contextvars.Context | None = None
    ) -> None:
        """Have ``fn`` called with the answer once it is there; the first one by ``deliver``."""
        if self._waiting is None and not self.done():
            self._waiting = fn, contextvars.copy_context() if context is None else context
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        """Forget ``fn``, and return how often it was there."""
        count = super().remove_done_callback(fn)
        if self._waiting is not None and self._waiting[0] == fn:
            self._waiting = None
            count += 1
        return count

    def deliver(self, value: Any) -> None:
        """Set the answer, and go on with what waits for it; only where no task is running."""
        self.set_result(value)
        waiting = self._waiting
        if waiting is None:
            return
        self._waiting = None
        fn, context = waiting
        try:
            context.run(fn, self)
        except Exception as error:  # noqa: BLE001 - as the event loop does with a callback's error
            self.get_loop().call_exception_handler(
                {"message": f"Exception in callback {fn!r}", "exception": error, "future": self}
            )

    def set_exception(self, exception: type | BaseException, /) -> None:
        """Set an error as the answer."""
        super().set_exception(exception)
        self._wake_soon()

    def cancel(self, msg: Any | None = None) -> bool:
        """Give the answer up."""
        is_given_up = super().cancel(msg)
        self._wake_soon()
        return is_given_up

    def _wake_soon(self) -> None:
        if self._waiting is not None and self.done():
            fn, context = self._waiting
            self._waiting = None
            self.get_loop().call_soon(fn, self, context=context)


# Its answer, deadline, packed bytes and time-out in seconds. A plain tuple, since one is made for
# every command.
Unanswered: TypeAlias = tuple[Answer, float, bytes, float]


def pack(args: tuple[Any, ...]) -> bytes:
    try:
        return cast("bytes", hiredis.pack_command(args))
    except UnicodeEncodeError:  # text that was made of bytes which are not UTF-8: the same bytes
        plain = [
            arg.encode("utf-8", "surrogateescape") if isinstance(arg, str) else arg for arg in args
        ]
        return cast("bytes", hiredis.pack_command(cast("Any", tuple(plain))))


# If a deadline is found passed by so much, our own loop was late, and not the server.
_LATE_SECONDS = 0.5


class SilenceTimer:
    """Calls ``on_silence`` when the oldest of the ``unanswered`` commands has waited its time-out.

    Answers come in order: while bytes arrive, the oldest command waits for its turn. So its
    time-out counts from when it was sent, or from ``heard_at``, when the last bytes came.
    """

    def __init__(self, unanswered: deque[Unanswered], on_silence: Callable[[], None]) -> None:
        self._unanswered = unanswered
        self._on_silence = on_silence
        self._timer: asyncio.TimerHandle | None = None
        self.heard_at = 0.0
        self.next_check = inf

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check the oldest command's deadline; to be called if it is before ``next_check``."""
        self.stop()  # the timer of a longer wait
        self._arm(loop, self._unanswered[0][1])

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self.next_check = None, inf

    def _arm(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self._timer, self.next_check = loop.call_at(deadline, self._check, loop, deadline), deadline

    def _check(self, loop: asyncio.AbstractEventLoop, expected: float) -> None:
        self._timer, self.next_check = None, inf
        if not self._unanswered:
            return
        now = loop.time()
        _, deadline, _, seconds = self._unanswered[0]
        deadline = max(deadline, self.heard_at + seconds)
        if deadline > now:
            self._arm(loop, deadline)
        elif now - expected > _LATE_SECONDS:
            # Our loop was blocked or the process frozen: the answer may lie unread in the socket.
            self._timer = loop.call_later(_LATE_SECONDS, self._check, loop, now + 1)
            self.next_check = now
        else:
            self._on_silence()
