"""The process of a command: its event loop, its worker, its end, and its private server.

What signals do to it is in ``signals``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from convolab_worker._logs import Log
from convolab_worker.cli import streams
from convolab_worker.cli.process.ending import end_children
from convolab_worker.cli.process.garbage import look_as_usual
from convolab_worker.cli.process.signals import SIGNALS
from convolab_worker.errors import ConfigurationError
from convolab_worker.telemetry.log_stream import flush_log
from convolab_worker.telemetry.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.settings import Settings
    from convolab_worker.worker.worker import Worker

T = TypeVar("T")

_CANCEL_SECONDS = 0.2
# How long running jobs may take to go back to their queues after a second signal.
_RETURN_SECONDS = 3.0
_RETURN_CHECK_SECONDS = 0.1


def run_client(settings: Settings, main: Coroutine[Any, Any, T]) -> T:
    """Run a command other than a worker to its end and return its result."""
    configure_logging(settings.log_level, settings.log_format)
    for passed_over in settings.remarks:
        Log().warning("settings.passed_over", remark=passed_over)
    # On Ctrl-C asyncio cancels the coroutine, which can then say how far it came. asyncio does so
    # only if SIGINT has Python's own handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return asyncio.run(main)


def run_worker(
    handlers: HandlerRegistry, settings: Settings, work: Callable[[Worker], Awaitable[int]]
) -> int:
    """Run ``work`` with a worker that signals stop; return the exit code that ``work`` returns."""
    from convolab_worker.worker.worker import Worker

    async def main() -> int:
        worker = Worker(handlers, settings)
        signals = StopOnSignals(worker)
        signals.install()
        code = await work(worker)
        await signals.wait()
        return await end_process(code)

    return run_in_loop(main())


def run_in_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end as ``asyncio.run`` does, in uvloop's loop where it is installed."""
    look_as_usual()
    with asyncio.Runner(loop_factory=_uvloop_factory()) as runner:
        return runner.run(main)


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    from uvloop import new_event_loop

    return new_event_loop


class StopOnSignals:
    """Stops a worker on SIGTERM and SIGINT, as the table in ``signals`` says.

    The handlers stay when the loop is closed, so that a further Ctrl-C during the last
    milliseconds neither prints a traceback nor changes the exit code.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._stops: set[asyncio.Task[None]] = set()

    def install(self) -> None:
        """Stop the worker on signals from now on; call this in the main thread."""
        SIGNALS.pass_to(self._on_signal)

    async def wait(self) -> None:
        """Wait until every stop that a signal asked for is over, and raise what one raised."""
        await asyncio.gather(*self._stops)

    def _on_signal(self, number: int, received: int) -> None:
        # Not by the loop's own signal handling: a third signal has to work while a handler blocks
        # the loop.
        with suppress(RuntimeError):  # the loop is closed: nothing is left to stop
            self._loop.call_soon_threadsafe(self._stop, number, received)

    def _stop(self, number: int, received: int) -> None:
        log = Log()
        log.info("worker.signal", signal=signal.Signals(number).name, at_once=received > 1)
        if received > 1:
            self._end_if_late(number, self._loop.time() + _RETURN_SECONDS)
        stopping = self._worker.stop() if received == 1 else self._worker.stop(grace=0)
        task = self._loop.create_task(stopping, name=f"stop on signal {received}")
        self._stops.add(task)

    def _end_if_late(self, number: int, ends_at: float) -> None:
        """End the process as it is, if Redis is not told what becomes of its jobs.

        The next worker finds them, as after a crash. It checks again until the worker has stopped.
        """
        is_away = _is_away(self._worker)
        if is_away or self._loop.time() >= ends_at:
            log = Log()
            log.warning("process.forced_exit", redis="away" if is_away else "too slow")
            streams.flush()
            os._exit(128 + number)
        self._loop.call_later(_RETURN_CHECK_SECONDS, self._end_if_late, number, ends_at)


def _is_away(worker: Worker) -> bool:
    """Return whether Redis can't be told now what becomes of the worker's jobs."""
    stats = worker.stats()
    has_jobs = stats.get("running", 0) or stats.get("parked", 0)
    return bool(has_jobs and not stats["connected"])


async def end_process(code: int) -> int:
    """Return ``code`` if the process can end by itself; otherwise end it here with that code.

    asyncio waits for ever for a task that ignores its cancellation, and for a thread of its
    pool. Their jobs have been returned to their queues or failed before, so none is lost.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
    left = sorted(task.get_name() for task in tasks if not task.done())
    pool = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
    done, _ = await asyncio.wait({pool}, timeout=_CANCEL_SECONDS)
    if left or not done:
        log = Log()
        log.warning("process.forced_exit", tasks=left, threads=not done)
        flush_log()
        streams.flush()
        end_children()
        os._exit(code)
    return code


def load_handlers(settings: Settings) -> HandlerRegistry:
    """Configure logging, then import the application and return its handlers."""
    from convolab_worker.cli.process.app_loader import load_app

    configure_logging(settings.log_level, settings.log_format)
    if settings.app is None:
        msg = "no handlers: expected --app MODULE:REGISTRY or the variable CONVOLAB_APP"
        raise ConfigurationError(msg)
    return load_app(settings.app)


@contextmanager
def prepared(
    settings: Settings, *, embedded: bool, stop_code: int | None = None
) -> Iterator[tuple[HandlerRegistry, Settings]]:
    """Yield the application's handlers and the settings, for a worker of this process.

    If ``embedded``, a private server runs meanwhile, and the settings have its address. A signal
    that comes before there is a worker ends the process with ``stop_code``.
    """
    SIGNALS.starts(stop_code)
    handlers = load_handlers(settings)
    SIGNALS.starts(stop_code)  # the application's code may have lost one
    with private_server(settings, embedded=embedded) as reachable:
        yield handlers, reachable


@contextmanager
def private_server(settings: Settings, *, embedded: bool) -> Iterator[Settings]:
    """Yield the settings; if ``embedded``, start a private Valkey server and set its address."""
    if not embedded:
        yield settings
        return
    from convolab_worker.cli.output import remark
    from convolab_worker.embedded import EmbeddedServer

    with EmbeddedServer() as server:
        remark(f"export REDIS_URL={server.url}")  # a line to paste into another terminal
        yield settings.replace(redis_url=server.url)
