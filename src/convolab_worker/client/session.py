"""What a client has open in one event loop, from its first call there to its close."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from convolab_worker.client.events import Events
from convolab_worker.connection.backlog import Backlog
from convolab_worker.connection.connection import Connection
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from convolab_worker.connection.address import Route
    from convolab_worker.connection.usage import CommandCounter

_CLOSED = "the client was closed"


class Session:
    """A connection for commands and one for events; a call keeps to the session it began with.

    So a call that is under way when the client is closed ends with an error and opens nothing
    again, while a later call begins another session.
    """

    def __init__(self, route: Route, *, timeout: float, counter: CommandCounter) -> None:
        self.loop = asyncio.get_running_loop()
        self.connection = Connection(route, timeout=timeout, counter=counter)
        self.events = Events(Connection(route, timeout=timeout, counter=counter), self.connection)
        self.backlog = Backlog()
        self.is_over = False

    async def open(self) -> Connection:
        """Return the connection for commands, open. Raises RedisUnavailable."""
        if self.is_over:
            raise RedisUnavailable(_CLOSED)
        if not self.connection.is_open:
            await self.connection.open()
        return self.connection

    async def close(self) -> None:
        """Close both connections; calls that are under way raise RedisUnavailable."""
        self.is_over = True
        self.backlog.refuse(_CLOSED)
        await self.events.close()
        await self.connection.close()
