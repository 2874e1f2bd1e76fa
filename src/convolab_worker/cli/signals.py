"""SIGTERM and SIGINT: the first asks for a clean stop, the second for one at once."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from types import FrameType

    from convolab_worker.worker.worker import Worker

_KILL_AT = 3


class StopOnSignals:
    """Stops a worker when the process is told to end.

    ======  =====================================================================
    signal  what happens
    ======  =====================================================================
    first   ``worker.stop()``: running jobs get the grace period
    second  ``worker.stop(grace=0)``: they go back to their queues at once
    third   the process ends as it is; stalled-job recovery finds the jobs
    ======  =====================================================================

    The handlers stay when the loop is closed, so that an impatient Ctrl-C during the last
    milliseconds neither prints a traceback nor changes the exit code.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._received = 0
        self._stops: set[asyncio.Task[None]] = set()

    def install(self) -> None:
        """Take over SIGTERM and SIGINT; to be called in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    async def settled(self) -> None:
        """Wait until every stop that was asked for is over, and raise what one raised."""
        await asyncio.gather(*self._stops)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Not through the loop's own signal handling: a third signal has to work
        # while a handler blocks the loop.
        self._received += 1
        if self._received >= _KILL_AT:
            os._exit(128 + number)
        with suppress(RuntimeError):  # the loop is closed: nothing is left to stop
            self._loop.call_soon_threadsafe(self._stop, number, self._received)

    def _stop(self, number: int, received: int) -> None:
        log = structlog.get_logger("convolab_worker")
        log.info("worker.signal", signal=signal.Signals(number).name, at_once=received > 1)
        stopping = self._worker.stop() if received == 1 else self._worker.stop(grace=0)
        task = self._loop.create_task(stopping, name=f"stop on signal {received}")
        self._stops.add(task)
