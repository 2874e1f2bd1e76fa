"""The wake server and the console as ASGI applications, for FastAPI, Starlette and their like.

The aiohttp application of ``server`` answers. Each request is carried to it as a connection of its
own, and its answer is carried back as it comes, streams too. If a client hangs up, its connection
is lost, and its held request is given up.

    a request's connection -- the answer is whole --> closed
                           -- http.disconnect, or the server gives the request up --> lost
"""

from __future__ import annotations

import asyncio
import string
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from convolab_worker.server.server import console_app, wake_app

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping

    from aiohttp import web

    from convolab_worker.handlers.around.redaction import Redact
    from convolab_worker.settings import Settings
    from convolab_worker.worker.worker import Worker

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

# From so many unread bytes on, an answer waits for its reader.
_UNREAD_BYTES = 64 * 1024
# The ASGI server has bounded what a head may have.
_HEAD_BYTES = 2**20
# The most bytes that are read of a body without a length; the routes take less.
_BODY_BYTES = 2**17
_BODY_SECONDS = 10.0
_CLOSE_SECONDS = 0.5
# Headers that are for one connection only, and those that the ASGI server writes itself.
_OF_THE_CONNECTION = frozenset(
    {
        b"connection", b"date", b"expect", b"keep-alive", b"proxy-connection", b"server", b"te",
        b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
_SAFE_IN_PATHS = "/:@!$&'()*+,;=~"
_SAFE_IN_QUERIES = string.punctuation.replace("#", "")


def wake_asgi(worker: Worker) -> AsgiMount:
    """Make an ASGI application that wakes ``worker`` and reports on it: the wake server's routes.

    Mount it where the worker's event loop runs: ``api.mount("/worker", wake_asgi(worker))``. The
    worker's settings say who may call: anybody, if they have no token, audience or signing key.
    Raises ConfigurationError.
    """
    return AsgiMount(lambda: wake_app(worker))


def console_asgi(
    settings: Settings | None = None, *, redact: Redact | None = None, **overrides: Any
) -> AsgiMount:
    """Make an ASGI application that is the console, without a worker, as ``console_app`` does.

    ``api.mount("/jobs", console_asgi())``. It shows jobs to anybody, unless the settings have a
    token or your application asks who it is. ``redact`` is given each value of a job, as a Shown,
    and returns what is shown in its place. Raises ConfigurationError.
    """
    return AsgiMount(lambda: console_app(settings, redact=redact, **overrides))


class AsgiMount:
    """An aiohttp application as an ASGI application, under any path of another or by itself.

    It starts with its first request. It is closed by ``async with``, in the lifespan of the
    application that it is mounted into, or by the ASGI server if it is served by itself.
    """

    def __init__(self, make: Callable[[], web.Application]) -> None:
        self._make = make
        self._next: web.Application | None = make()  # so that wrong settings raise now
        self._runner: web.AppRunner | None = None
        self._opening: asyncio.Task[web.Server] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def __aenter__(self) -> Self:
        await self._server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the streams and give up the held requests, then close what is open."""
        runner, self._runner, self._opening = self._runner, None, None
        if runner is not None:
            await runner.cleanup()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._server()
        except Exception as error:  # noqa: BLE001 - the server tells it, and ends
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _server(self) -> web.Server:
        """Return what makes a connection in this event loop; the first request opens it."""
        opening, loop = self._opening, asyncio.get_running_loop()
        if opening is None or opening.get_loop() is not loop:
            opening = self._opening = loop.create_task(self._open(), name="convolab-asgi-open")
        return await asyncio.shield(opening)

    async def _open(self) -> web.Server:
        from aiohttp import web

        app, self._next = self._next or self._make(), None
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # a client that hangs up gives up its request
            lingering_time=0.0,  # the ASGI server deals with the rest of a body
            shutdown_timeout=_CLOSE_SECONDS,
            max_line_size=_HEAD_BYTES,
            max_field_size=_HEAD_BYTES,
        )
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101 - set up above
        return self._runner.server

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        connection = _Connection(scope, (await self._server())())
        reading = asyncio.create_task(connection.read(scope, receive), name="convolab-asgi")
        reading.add_done_callback(lambda _: connection.lose())
        try:
            async with aclosing(connection.answer()) as messages:
                async for message in messages:
                    await send(message)
        finally:
            reading.cancel()
            (failed,) = await asyncio.gather(reading, return_exceptions=True)
        if isinstance(failed, Exception):  # errors of the ASGI server, or of a middleware
            raise failed


class _Connection(asyncio.Transport):
    """A request's connection as aiohttp sees it: bytes of HTTP/1.0 in, bytes out."""

    def __init__(self, scope: Message, protocol: Any) -> None:
        client, server = scope.get("client"), scope.get("server")
        super().__init__(
            {"peername": client and tuple(client), "sockname": server and tuple(server)}
        )
        self._protocol = protocol
        self._written = bytearray()
        self._changed = asyncio.Event()
        self._is_closing = False
        self._is_lost = False
        self._is_paused = False
        protocol.connection_made(self)

    async def read(self, scope: Message, receive: Receive) -> None:
        """Carry the request to aiohttp, and wait until the client hangs up."""
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        body, is_more = b"", True
        if not any(name == b"content-length" for name, _ in headers):
            body, is_more = await _whole_body(receive)
            if body or is_more:
                length = len(body) + is_more  # one byte more: the gate waits, then refuses
                headers.append((b"content-length", b"%d" % length))
        self._receive(_head(scope, headers) + body)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            self._receive(message.get("body", b""))

    async def answer(self) -> AsyncGenerator[Message, None]:
        """Send the answer by ASGI as it comes, and stop when the client is gone."""
        head = b""
        while not head:
            if not await self._more(len(self._written)):
                return
            end = self._written.find(b"\r\n\r\n")
            if end >= 0:
                head = bytes(self._written[:end])
                del self._written[: end + 4]
        yield _started(head)
        while await self._more():
            body = bytes(self._written)
            self._written.clear()
            if self._is_paused and not self._is_lost:
                self._is_paused = False
                self._protocol.resume_writing()
            yield {"type": "http.response.body", "body": body, "more_body": True}
        if not self._is_lost:
            yield {"type": "http.response.body", "body": b"", "more_body": False}

    def lose(self) -> None:
        """Tell aiohttp that the client is gone, unless the connection has ended."""
        if not self._is_lost:
            self._is_lost = self._is_closing = True
            self._changed.set()
            self._protocol.connection_lost(None)

    async def _more(self, known: int = 0) -> bool:
        """Wait until more than ``known`` bytes are there; return False if none will come."""
        while not self._is_lost and len(self._written) <= known and not self._is_closing:
            self._changed.clear()
            await self._changed.wait()
        return not self._is_lost and len(self._written) > known

    def _receive(self, data: bytes) -> None:
        if data and not self._is_closing:
            self._protocol.data_received(data)

    # what aiohttp calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_closing:
            self._written += data
            self._changed.set()
            if len(self._written) > _UNREAD_BYTES and not self._is_paused:
                self._is_paused = True
                self._protocol.pause_writing()

    def close(self) -> None:
        self._is_closing = True
        self._changed.set()

    def abort(self) -> None:
        self.lose()

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return len(self._written)

    def pause_reading(self) -> None:
        """Reading goes on: a body is bounded by its length or, without one, by what is read."""

    def resume_reading(self) -> None:
        """See pause_reading."""


async def _whole_body(receive: Receive) -> tuple[bytes, bool]:
    """Read a body without a length, and say whether there was more than is read."""
    body = bytearray()
    with suppress(TimeoutError):
        async with asyncio.timeout(_BODY_SECONDS):
            while len(body) < _BODY_BYTES:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    return bytes(body), False
    return bytes(body), True


def _head(scope: Message, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Write the request's head, without headers that are for the ASGI server only."""
    path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/")) or "/"
    target = quote(path, safe=_SAFE_IN_PATHS).encode()
    if scope.get("query_string"):
        target += b"?" + quote(scope["query_string"], safe=_SAFE_IN_QUERIES).encode()
    lines = [b"%s %s HTTP/1.0" % (scope["method"].encode(), target)]
    lines += [
        b"%s: %s" % (name, value) for name, value in headers if name not in _OF_THE_CONNECTION
    ]
    return b"".join(line.translate(None, b"\r\n") + b"\r\n" for line in [*lines, b""])


def _started(head: bytes) -> Message:
    status, *lines = head.split(b"\r\n")
    headers = [
        (name.lower(), value.strip()) for name, _, value in (x.partition(b":") for x in lines)
    ]
    return {
        "type": "http.response.start",
        "status": int(status.split(b" ")[1]),
        "headers": [each for each in headers if each[0] not in _OF_THE_CONNECTION],
    }
