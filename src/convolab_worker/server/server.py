"""The wake server: HTTP in front of a worker, in a thread of its own or in your application.

With a thread of its own, ``/health`` answers even while a handler blocks the worker's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from convolab_worker._logs import Log
from convolab_worker.errors import ConfigurationError
from convolab_worker.server.auth import authorization
from convolab_worker.server.worker_proxy import WorkerProxy

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware

    from convolab_worker.worker.worker import Worker

_log = Log()
# How long the first request line and its headers may take; and how long a connection may then be
# idle, or take over the next ones.
_FIRST_HEAD_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 75.0
_MAX_CONNECTIONS = 1000
# Bytes of the request line, and of one header with its name.
_MAX_LINE_BYTES = 8190
# How long answers may still take when the server closes, and how long its thread may.
_LAST_ANSWERS_SECONDS = 0.5
_CLOSE_SECONDS = 1.0


def wake_app(worker: Worker) -> web.Application:
    """Make an aiohttp application that wakes ``worker`` and reports on it.

    Serve it in the worker's event loop, by itself or under a path of an application of yours. The
    worker's settings say who may call: anybody, if they have neither a token nor an audience.
    Raises ConfigurationError.
    """
    from convolab_worker.server.routes import make_app

    return make_app(WorkerProxy(worker), worker.settings, authorization(worker.settings))


class WakeServer:
    """Serves a worker's wake application from a thread, on the settings' port.

    Use it as an async context manager around the worker's life, in the worker's event loop; inside,
    ``port`` is the port that it listens on. Without a token or an audience it listens on loopback
    only, unless Cloud Run checks its callers (``K_SERVICE``) or ``insecure`` allows everybody.
    Raises ConfigurationError if the port is taken.
    """

    def __init__(self, worker: Worker, *, insecure: bool = False) -> None:
        self._worker = worker
        self._authorization = authorization(worker.settings)
        self._insecure = insecure
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event
        self._started: Future[None] = Future()
        self._ended: Future[None] = Future()
        self.port: int | None = None

    async def __aenter__(self) -> Self:
        settings = self._worker.settings
        is_guarded = not self._authorization.is_open
        is_public = is_guarded or settings.k_service is not None or self._insecure
        sock = _listening_socket("0.0.0.0" if is_public else "127.0.0.1", settings.port)  # noqa: S104
        host, self.port = sock.getsockname()
        proxy = WorkerProxy(self._worker, asyncio.get_running_loop())
        threading.Thread(
            target=self._run, args=(proxy, sock), name="convolab-server", daemon=True
        ).start()
        await asyncio.shield(asyncio.wrap_future(self._started))
        _log.info(
            "server.listening", host=host, port=self.port, token=is_guarded, mode=settings.wake_mode
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the thread has ended
                self._loop.call_soon_threadsafe(self._closing.set)
        await asyncio.wait({asyncio.wrap_future(self._ended)}, timeout=_CLOSE_SECONDS)

    def _run(self, proxy: WorkerProxy, sock: socket.socket) -> None:
        try:
            asyncio.run(self._serve(proxy, sock))
        except Exception as error:  # noqa: BLE001 - logged, and raised where the start is awaited
            _log.error("server.failed", exc_info=error)
            if not self._started.done():
                self._started.set_exception(error)
        finally:
            sock.close()
            self._ended.set_result(None)

    async def _serve(self, proxy: WorkerProxy, sock: socket.socket) -> None:
        from convolab_worker.server.routes import make_app

        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        listener = Listener(make_app(proxy, self._worker.settings, self._authorization))
        await listener.open(sock)
        self._started.set_result(None)
        await self._closing.wait()
        await listener.close()


def _listening_socket(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=128)
    except OSError as error:
        msg = f"PORT={port}: expected a port that is free on {host}: {error.strerror}"
        raise ConfigurationError(msg) from None


class Listener:
    """Serves ``app`` on a bound socket; limits the number of connections and cuts off slow ones."""

    def __init__(self, app: web.Application) -> None:
        from aiohttp import web

        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # a client that hangs up gives up its held request
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            lingering_time=0.0,
            max_field_size=_MAX_LINE_BYTES,
            max_line_size=_MAX_LINE_BYTES,
            shutdown_timeout=_LAST_ANSWERS_SECONDS,
        )
        self._first_heads: dict[Any, asyncio.TimerHandle] = {}
        self._server: asyncio.Server | None = None
        app.middlewares.insert(0, self._head_received())

    def _head_received(self) -> Middleware:
        """Make the middleware that stops a connection's timer once its first head has come."""
        from aiohttp import web

        @web.middleware
        async def head_received(request: web.Request, handler: Handler) -> web.StreamResponse:
            timer = self._first_heads.pop(request.protocol, None)
            if timer is not None:
                timer.cancel()
            return await handler(request)

        return head_received

    async def open(self, sock: socket.socket) -> None:
        """Start to accept connections."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=sock, backlog=128)

    async def close(self) -> None:
        """Stop accepting, let answers that are being sent finish, and close every connection."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        for timer in self._first_heads.values():
            timer.cancel()

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= _MAX_CONNECTIONS:
            return _Refusal()
        protocol = server()
        loop = asyncio.get_running_loop()
        self._first_heads[protocol] = loop.call_later(_FIRST_HEAD_SECONDS, self._cut_off, protocol)
        return protocol

    def _cut_off(self, protocol: web.RequestHandler) -> None:
        del self._first_heads[protocol]
        protocol.force_close()


class _Refusal(asyncio.Protocol):
    """Closes a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
