"""What a client has open in one event loop, and how much of it may be unanswered.

``connected`` is a connection alone, for a command or a test.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from convolab_worker.client.events import Events
from convolab_worker.connection.commands.usage import CommandCounter
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.source import ServerSource
from convolab_worker.connection.upkeep.logins import LoginKeeper
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from convolab_worker.connection.route import Route
    from convolab_worker.settings import Settings


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
        if not self._waiting and self._fits(commands, size):
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
                self.commands += needed[0]
                self.size += needed[1]
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


_CLOSED = "the client was closed"


class Session:
    """A connection for commands and one for events; a call keeps to the session it began with.

    When the client is closed, its calls end with an error and do not connect again. A later call
    begins another session.
    """

    def __init__(self, route: Route, *, timeout: float, counter: CommandCounter) -> None:
        self.loop = asyncio.get_running_loop()
        self._make = functools.partial(Connection, route, timeout=timeout, counter=counter)
        self.connection, reader = self._make(), self._make()
        self.events = Events(reader, self.connection)
        self._logins = LoginKeeper(route, self.connection, reader)
        self.backlog = Backlog()
        self.is_over = False

    async def open(self) -> Connection:
        """Return the connection for commands, open. Raises RedisUnavailable."""
        if self.is_over:
            raise RedisUnavailable(_CLOSED)
        if not self.connection.is_open:
            await self.connection.open()
            self._logins.start()
        return self.connection

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Connection]:
        """Yield a connection that nobody else uses. Raises RedisUnavailable."""
        connection = self._make()
        try:
            await connection.open()
            yield connection
        finally:
            await connection.close()

    async def close(self) -> None:
        """Close both connections; calls that are under way raise RedisUnavailable."""
        self.is_over = True
        self.backlog.refuse(_CLOSED)
        await self._logins.close()
        await self.events.close()
        await self.connection.close()


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection]:
    """Yield an open connection to the settings' Redis. Raises RedisUnavailable."""
    source = ServerSource.of(settings)
    connection = Connection(source, timeout=settings.command_timeout, counter=CommandCounter())
    try:
        await connection.open()
        yield connection
    finally:
        await connection.close()
