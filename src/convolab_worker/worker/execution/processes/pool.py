"""A worker's processes that run handlers: kept from job to job, renewed, and ended with it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from convolab_worker.worker.execution.processes.process import HandlerProcess

if TYPE_CHECKING:
    from convolab_worker.handlers.registration.processes import ImportName, Renewal

# What an idle process gets to run its exit handlers.
_EXIT_SECONDS = 0.5


class HandlerProcesses:
    """As many processes as jobs have needed at once, and none before the first job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[HandlerProcess] = []
        self._ending: set[threading.Thread] = set()
        self._is_closed = False

    def take(self, handler: ImportName) -> HandlerProcess:
        """A process for one job: one that has imported the handler, any other, or a new one."""
        while (process := self._idle_one(handler)) is not None:
            if process.is_alive():
                return process
            process.end()
        return HandlerProcess()

    def _idle_one(self, handler: ImportName) -> HandlerProcess | None:
        with self._lock:
            if not self._idle:
                return None
            process = next((p for p in self._idle if handler in p.imported), self._idle[-1])
            self._idle.remove(process)
            return process

    def give_back(self, process: HandlerProcess, renewal: Renewal) -> None:
        """Keep it for another job; end it if it is to be renewed, which nobody waits for."""
        with self._lock:
            if not self._is_closed and not renewal.is_due(process.jobs, process.memory):
                self._idle.append(process)
                return
        thread = threading.Thread(target=self._end_alone, args=[process], daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads
            _end([process])
        else:
            self._ending.add(thread)

    def _end_alone(self, process: HandlerProcess) -> None:
        _end([process])
        self._ending.discard(threading.current_thread())

    def close(self) -> None:
        """End those that are idle, and wait until they have ended; blocks for half a second."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        _end(idle)
        for thread in list(self._ending):
            thread.join(_EXIT_SECONDS)


def _end(processes: list[HandlerProcess]) -> None:
    ends_at = time.monotonic() + _EXIT_SECONDS
    for process in processes:
        process.finish()
    for process in processes:
        process.end(max(ends_at - time.monotonic(), 0.0))
