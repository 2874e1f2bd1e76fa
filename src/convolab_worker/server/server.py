"""The wake server: HTTP in front of a worker, in a thread of its own or in your application.

With a thread of its own, ``/health`` answers even while a handler blocks the worker's event loop.
``gate`` has the checks that come before the routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from convolab_worker._logs import Log
from convolab_worker.server.gate.auth import authorization
from convolab_worker.server.gate.origins import is_loopback
from convolab_worker.server.sockets import host_of, is_public, listening_sockets, wake_sockets
from convolab_worker.server.worker_proxy import WorkerProxy
from convolab_worker.settings import Settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from aiohttp import web

    from convolab_worker.handlers.around.redaction import Redact
    from convolab_worker.worker.worker import Worker

_log = Log()
# How long the server's thread may take to end.
_CLOSE_SECONDS = 1.0


def wake_app(worker: Worker) -> web.Application:
    """Make an aiohttp application that wakes ``worker`` and reports on it.

    Serve it in the worker's event loop, by itself or under a path of an application of yours. The
    worker's settings say who may call: anybody, if they have no token, audience or signing key.
    Raises ConfigurationError.
    """
    from convolab_worker.server.routes import make_app, make_gate

    settings = worker.settings
    gate = make_gate(settings, authorization(settings), checks_names=settings.k_service is None)
    return make_app(WorkerProxy(worker), settings, gate)


def console_app(
    settings: Settings | None = None, *, redact: Redact | None = None, **overrides: Any
) -> web.Application:
    """Make an aiohttp application that is the console, without a worker.

    Serve it by itself, or under a path of an application of yours (``add_subapp``). The settings,
    those of the environment by default, say which Redis it shows, who may call (``wake_token``;
    anybody, if they have no token, audience or signing key, unless your application asks who it is)
    and whether it may act where it asks for no token (``console_actions``). ``redact`` is given
    each value of a job, as a Shown, and returns what is shown in its place. ``wake_app`` has the
    console of a worker, with what that worker knows. Raises ConfigurationError.
    """
    from convolab_worker.server.routes import make_console, make_gate

    settings = Settings.from_env(**overrides) if settings is None else settings.replace(**overrides)
    gate = make_gate(settings, authorization(settings), checks_names=settings.k_service is None)
    return make_console(settings, gate, redact=redact)


class ConsoleServer:
    """Serves the console without a worker, from this event loop, on the settings' port.

    An async context manager; inside, ``port`` is the port that it listens on. Without a token or
    an audience it listens on loopback only. Raises ConfigurationError if the port is taken.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._authorization = authorization(settings)
        self._opened: contextlib.AsyncExitStack
        self.port: int | None = None

    async def __aenter__(self) -> Self:
        from convolab_worker.server.gate.listener import Listener
        from convolab_worker.server.routes import make_console, make_gate

        is_guarded = not self._authorization.is_open
        gate = make_gate(self._settings, self._authorization, checks_names=not is_guarded)
        app = make_console(self._settings, gate)
        host = self._settings.host if is_guarded else None
        async with contextlib.AsyncExitStack() as opened:
            socks = listening_sockets(host, self._settings.port, is_public=is_guarded)
            for sock in socks:
                opened.enter_context(sock)
            self.port = socks[0].getsockname()[1]
            listener = Listener(app, gate, shares=is_guarded)
            opened.push_async_callback(listener.close)
            await listener.open(socks)
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()


class WakeServer:
    """Serves a worker's wake application from a thread, on the settings' port.

    Use it as an async context manager around the worker's life, in the worker's event loop; inside,
    ``port`` is the port that it listens on. Without a token or an audience it listens on loopback
    only, unless Cloud Run checks its callers (``K_SERVICE``) or ``insecure`` allows everybody.
    ``socks`` are bound already; the server closes them. Raises ConfigurationError if the port is
    taken.
    """

    def __init__(
        self, worker: Worker, *, insecure: bool = False, socks: Sequence[socket.socket] = ()
    ) -> None:
        self._worker = worker
        self._authorization = authorization(worker.settings)
        self._insecure = insecure
        self._is_public = is_public(worker.settings, insecure=insecure)
        self._bound = list(socks)
        self._is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event
        self._started: Future[None] = Future()
        self._ended: Future[None] = Future()
        self.port: int | None = None

    async def __aenter__(self) -> Self:
        settings = self._worker.settings
        is_guarded = not self._authorization.is_open
        socks = self._bound or wake_sockets(settings, insecure=self._insecure)
        self.port = socks[0].getsockname()[1]
        proxy = WorkerProxy(self._worker, asyncio.get_running_loop())
        threading.Thread(
            target=self._run, args=(proxy, socks), name="convolab-server", daemon=True
        ).start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._started))
        except asyncio.CancelledError:  # nobody will call __aexit__
            await self._close()
            raise
        hosts = ", ".join(sock.getsockname()[0] for sock in socks)
        _log.info(
            "server.listening",
            host=hosts,
            port=self.port,
            token=is_guarded,
            mode=settings.wake_mode,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        self._is_closing = True  # for a thread that has no loop yet
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the thread has ended
                self._loop.call_soon_threadsafe(self._closing.set)
        await asyncio.wait({asyncio.wrap_future(self._ended)}, timeout=_CLOSE_SECONDS)

    def _run(self, proxy: WorkerProxy, socks: list[socket.socket]) -> None:
        try:
            asyncio.run(self._serve(proxy, socks))
        except Exception as error:  # noqa: BLE001 - logged, and raised where the start is awaited
            _log.error("server.failed", exc_info=error)
            if not self._started.done():
                self._started.set_exception(error)
        finally:
            for sock in socks:
                sock.close()
            self._ended.set_result(None)

    async def _serve(self, proxy: WorkerProxy, socks: list[socket.socket]) -> None:
        from convolab_worker.server.gate.listener import Listener
        from convolab_worker.server.routes import make_app, make_gate

        self._closing = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._is_closing:
            return
        settings = self._worker.settings
        gate = make_gate(settings, self._authorization, checks_names=not self._is_public)
        # Whoever finds the port must not get jobs' data, or send hundreds of commands.
        is_open = gate.is_open and settings.k_service is None
        looks = not is_open or all(is_loopback(host_of(sock)) for sock in socks)
        app = make_app(proxy, settings, gate, looks=looks)
        # On loopback, and behind Cloud Run's front end, all clients have one address.
        shares = self._is_public and settings.k_service is None
        listener = Listener(app, gate, shares=shares)
        await listener.open(socks)
        self._started.set_result(None)
        await self._closing.wait()
        await listener.close()
