"""Commands that are sent and not answered: as bytes, and whether their answers are overdue."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import hiredis

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Callable

# Its answer's future, deadline, packed bytes and time-out in seconds. A plain tuple, since one is
# made for every command.
Unanswered: TypeAlias = tuple["asyncio.Future[Any]", float, bytes, float]


def pack(args: tuple[Any, ...]) -> bytes:
    try:
        return cast("bytes", hiredis.pack_command(args))
    except UnicodeEncodeError:  # text that was made of bytes which are not UTF-8: the same bytes
        plain = [
            arg.encode("utf-8", "surrogateescape") if isinstance(arg, str) else arg for arg in args
        ]
        return cast("bytes", hiredis.pack_command(cast("Any", tuple(plain))))


# A deadline found passed this late was missed by our own loop, not by the server.
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
        """Check the oldest command's deadline; needed where it is before the ``next_check``."""
        self.stop()  # what is left from a longer wait
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
