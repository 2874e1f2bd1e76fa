"""Listens for an application: few connections at a time, and none that dawdles."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    import socket

# How long a client may take over its first request's head; and over the next one's, or to send it.
_HEAD_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 75.0
_MOST_CONNECTIONS = 1000
# Of the request line, and of a header with its name.
_LONGEST_LINE = 8190
# How long answers may still take when the server closes.
_CLOSING_SECONDS = 0.5


class Listener:
    """Serves ``app`` on a socket that is bound, until it is closed."""

    def __init__(self, app: web.Application) -> None:
        """Listen to nothing yet."""
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # who hangs up holds no longer
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            lingering_time=0.0,
            max_field_size=_LONGEST_LINE,
            max_line_size=_LONGEST_LINE,
            shutdown_timeout=_CLOSING_SECONDS,
        )
        app.middlewares.insert(0, self._note_head)
        self._heads: dict[Any, asyncio.TimerHandle] = {}
        self._server: asyncio.Server | None = None

    async def open(self, sock: socket.socket) -> None:
        """Accept connections."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=sock, backlog=128)

    async def close(self) -> None:
        """Accept no more, let answers that are on their way leave, and close every connection."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        for timer in self._heads.values():
            timer.cancel()

    def _connection(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= _MOST_CONNECTIONS:
            return _Refused()
        protocol = server()
        loop = asyncio.get_running_loop()
        self._heads[protocol] = loop.call_later(_HEAD_SECONDS, self._cut, protocol)
        return protocol

    def _cut(self, protocol: web.RequestHandler) -> None:
        del self._heads[protocol]
        protocol.force_close()

    @web.middleware
    async def _note_head(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """The head of a connection's first request has come in time."""
        timer = self._heads.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        response: web.StreamResponse = await handler(request)
        return response


class _Refused(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()
