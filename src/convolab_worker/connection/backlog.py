"""Bounds what is sent and unanswered, so that memory is bounded where callers are not."""

from __future__ import annotations

import asyncio
from collections import deque

from convolab_worker.errors import RedisUnavailable


class Backlog:
    """Lets callers in, first come, first served, while there is room for what they send.

    ``commands`` and ``size`` (bytes) count what callers inside have sent, or are about to send. One
    that needs more than there can be is let in alone.
    """

    def __init__(self, *, most_commands: int = 1000, most_bytes: int = 2**23) -> None:
        self._most_commands = most_commands
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[asyncio.Future[None], int, int]] = deque()
        self.commands = 0
        self.size = 0

    async def enter(self, commands: int, size: int) -> None:
        """Wait for room, and take it; ``leave`` gives it back.

        Raises RedisUnavailable if ``refuse`` is called first.
        """
        if not self._waiting and (
            self.commands == 0
            or (
                self.commands + commands <= self._most_commands
                and self.size + size <= self._most_bytes
            )
        ):
            self.commands += commands
            self.size += size
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((admitted, commands, size))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
                self.leave(commands, size)  # it was let in at the moment it was cancelled
            raise

    def leave(self, commands: int, size: int) -> None:
        """Give room back, and let in the next callers that fit."""
        self.commands -= commands
        self.size -= size
        waiting = self._waiting
        while waiting and (waiting[0][0].done() or self._fits(*waiting[0][1:])):
            admitted, *needed = waiting.popleft()
            if not admitted.done():  # otherwise it was cancelled
                self._take(*needed)
                admitted.set_result(None)

    def refuse(self, reason: str) -> None:
        """End the wait of all callers outside: what they would send can't be sent."""
        waiting, self._waiting = self._waiting, deque()
        for admitted, _, _ in waiting:
            if not admitted.done():
                admitted.set_exception(RedisUnavailable(reason))

    def _fits(self, commands: int, size: int) -> bool:
        if self.commands == 0:
            return True
        return (
            self.commands + commands <= self._most_commands and self.size + size <= self._most_bytes
        )

    def _take(self, commands: int, size: int) -> None:
        self.commands += commands
        self.size += size
