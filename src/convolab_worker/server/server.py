"""The wake server: HTTP in front of a worker, in a thread of its own or in an application of yours.

The thread is there for the truth of ``/health``: it answers while a handler blocks the worker's
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

import structlog

from convolab_worker.errors import ConfigurationError, NotRunning
from convolab_worker.server.auth import Authorization, authorization
from convolab_worker.server.worker_proxy import HealthWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from aiohttp import web

    from convolab_worker.settings import Settings
    from convolab_worker.worker.held_requests import HoldResult
    from convolab_worker.worker.worker import Worker

T = TypeVar("T")
_log = structlog.get_logger("convolab_worker")
# How long the thread may take to close, whatever it does.
_CLOSING_SECONDS = 1.0


def wake_app(worker: Worker) -> web.Application:
    """Make an aiohttp application that wakes ``worker`` and tells of it, for its own event loop.

    To be served by itself, or added to an application of yours under a path. Who may call is the
    settings' to say: without a token or an audience anybody may. Raises ConfigurationError.
    """
    return _app(_Here(worker), worker.settings, authorization(worker.settings))


def _app(workload: _Here | _Across, settings: Settings, allowed: Authorization) -> web.Application:
    from convolab_worker.server.routes import make_app

    hold = settings.wake_hold if settings.wake_mode == "held" else None
    return make_app(workload, settings, allowed, hold=hold)


class _Here:
    """A worker in this event loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._watch = HealthWatch()
        self.wake = worker.wake
        self.hold = worker.hold
        self.progress = worker.progress
        self.health = worker.health
        self.depths = worker.depths

    async def stats(self) -> dict[str, Any]:
        """Everything that the worker counts."""
        return self._worker.stats()

    async def picture(self) -> dict[str, Any]:
        """What the status page shows."""
        return self._worker.status_snapshot()

    def look(self) -> None:
        """See how the worker is; who calls this is its own loop, which turns."""
        self._watch.look(self.health(), answered=True)

    def problem(self) -> str | None:
        """What is wrong with the worker."""
        return self._watch.problem(self.health())


class _Across:
    """A worker in another thread's event loop, ``loop``."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._loop = loop
        self._watch = HealthWatch()
        self._wakes = False
        self._answered = True
        self.progress = worker.progress
        self.health = worker.health

    def wake(self) -> None:
        """Wake the worker; once for many calls that come before it hears."""
        if not self._wakes:
            self._wakes = True
            self._call(self._wake)

    def _wake(self) -> None:
        self._wakes = False
        self._worker.wake()

    def _call(self, what: Any) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has ended, and the worker with it
            self._loop.call_soon_threadsafe(what)

    async def hold(self, budget: float) -> HoldResult:
        """Hold in the worker's loop; who is cancelled here holds no longer there."""
        return await self._there(self._worker.hold(budget))

    async def stats(self) -> dict[str, Any]:
        """Everything that the worker counts, counted in its loop."""
        return await self._told(self._worker.stats)

    async def picture(self) -> dict[str, Any]:
        """What the status page shows, made in the worker's loop."""
        return await self._told(self._worker.status_snapshot)

    async def depths(self) -> dict[str, Any]:
        """How many jobs each queue has, asked in the worker's loop."""
        return await self._there(self._worker.depths())

    async def _there(self, doing: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives in the worker's loop."""
        try:
            future = asyncio.run_coroutine_threadsafe(doing, self._loop)
        except RuntimeError:
            doing.close()
            msg = "the worker has ended"
            raise NotRunning(msg) from None
        return await asyncio.wrap_future(future)

    async def _told(self, ask: Callable[[], T]) -> T:
        """What a function gives in the worker's loop."""
        asked: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        here = asyncio.get_running_loop()

        def tell() -> None:
            told = ask()
            with contextlib.suppress(RuntimeError):
                here.call_soon_threadsafe(_give, asked, told)

        self._call(tell)
        return await asked

    def look(self) -> None:
        """See whether the worker's loop has turned since the last look."""
        self._watch.look(self.health(), answered=self._answered)
        if self._answered:
            self._answered = False
            self._call(self._answer)

    def _answer(self) -> None:
        self._answered = True

    def problem(self) -> str | None:
        """What is wrong with the worker."""
        return self._watch.problem(self.health())


def _give(asked: asyncio.Future[T], told: T) -> None:
    if not asked.done():
        asked.set_result(told)


class WakeServer:
    """Serves a worker's wake application from a thread, on the settings' port.

    An async context manager around the worker's life, in its event loop. Without a token or an
    audience it binds to loopback, unless Cloud Run's own check stands before it (``K_SERVICE``) or
    ``insecure`` says that anybody may call. Raises ConfigurationError for a port that is taken.
    """

    def __init__(self, worker: Worker, *, insecure: bool = False) -> None:
        """Check the settings; nothing is bound yet."""
        self._worker = worker
        self._allowed = authorization(worker.settings)
        self._insecure = insecure
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event
        self.port: int | None = None

    async def __aenter__(self) -> Self:
        """Bind and listen."""
        here = asyncio.get_running_loop()
        settings = self._worker.settings
        is_guarded = not self._allowed.is_open
        is_public = is_guarded or settings.k_service is not None or self._insecure
        sock = _bound("0.0.0.0" if is_public else "127.0.0.1", settings.port)  # noqa: S104
        self.port = sock.getsockname()[1]
        self._started: asyncio.Future[None] = here.create_future()
        self._ended: asyncio.Future[None] = here.create_future()
        workload = _Across(self._worker, here)
        self._thread = threading.Thread(
            target=self._main, args=(here, workload, sock), name="convolab-server", daemon=True
        )
        self._thread.start()
        await self._started
        _log.info(
            "server.listening",
            host=sock.getsockname()[0],
            port=self.port,
            token=is_guarded,
            mode=settings.wake_mode,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the last answers leave, and close."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the thread has ended
                self._loop.call_soon_threadsafe(self._closing.set)
        await asyncio.wait({self._ended}, timeout=_CLOSING_SECONDS)

    def _main(
        self, here: asyncio.AbstractEventLoop, workload: _Across, sock: socket.socket
    ) -> None:
        try:
            asyncio.run(self._serve(here, workload, sock))
        except Exception as error:  # noqa: BLE001 - told where it is waited for, and in the log
            _log.error("server.died", exc_info=error)
            self._tell(here, self._started, error)
        finally:
            sock.close()
            self._tell(here, self._ended)

    async def _serve(
        self, here: asyncio.AbstractEventLoop, workload: _Across, sock: socket.socket
    ) -> None:
        from convolab_worker.server.listener import Listener

        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        listener = Listener(_app(workload, self._worker.settings, self._allowed))
        await listener.open(sock)
        self._tell(here, self._started)
        await self._closing.wait()
        await listener.close()

    @staticmethod
    def _tell(
        here: asyncio.AbstractEventLoop,
        future: asyncio.Future[None],
        error: Exception | None = None,
    ) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        with contextlib.suppress(RuntimeError):  # nobody waits any more
            here.call_soon_threadsafe(settle)


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=128)
    except OSError as error:
        msg = f"PORT={port}: expected a port that is free on {host}: {error.strerror}"
        raise ConfigurationError(msg) from None
