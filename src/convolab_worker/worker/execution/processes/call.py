"""One call of a handler in a process, from a thread of the worker."""

from __future__ import annotations

import io
import pickle
import threading
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConvolabWorkerError, ProcessDied, RemoteError
from convolab_worker.handlers.registration.processes import import_name, is_program
from convolab_worker.payloads.encode import EncodedJson
from convolab_worker.worker.execution.outcomes import with_remote_stack
from convolab_worker.worker.execution.processes.process import (
    DEATH_SECONDS,
    START_SECONDS,
    death,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.job.job import Job
    from convolab_worker.handlers.registration.handler import Handler
    from convolab_worker.handlers.registration.processes import ImportName, Renewal
    from convolab_worker.worker.execution.processes.pool import HandlerProcesses
    from convolab_worker.worker.execution.processes.process import HandlerProcess


class ProcessCall:
    """``run`` is called in a thread; what ends it, in the loop.

    A process whose job was told to end is never used again: it is killed, with what it has started.
    """

    def __init__(
        self,
        processes: HandlerProcesses,
        handler: Handler,
        active_job: ActiveJob,
        renewal: Renewal,
    ) -> None:
        self._processes = processes
        self._handler = handler
        self._active_job = active_job
        self._renewal = renewal
        self._lock = threading.Lock()
        self._process: HandlerProcess | None = None
        self._has_started = False
        self._has_ended = False
        self._is_interrupted = False
        # Called in the thread when the handler begins: its time-out counts from then on.
        self.on_started: Callable[[], None] | None = None

    @property
    def pid(self) -> int | None:
        """The process in which the handler runs now."""
        process = self._process
        return None if process is None else process.pid

    def interrupt(self) -> None:
        """Tell the handler to end, and what it has started."""
        with self._lock:
            self._is_interrupted = True
            if self._process is None:
                return
            if self._has_started:
                self._process.interrupt()
            else:  # it still imports, and has nothing to tidy up
                self._process.kill()

    def kill(self) -> None:
        """End the process, and what it has started."""
        with self._lock:
            self._is_interrupted = True
            if self._process is not None:
                self._process.kill()

    def run(self, job: Job[Any]) -> EncodedJson:
        """Run the handler, and return its result. Raises what it raises, or ProcessDied."""
        name = import_name(self._handler.function)
        while True:
            process = self._processes.take(name)
            is_new = not process.imported
            try:
                self._attach(process)
                return self._converse(process, name, job)
            except ProcessDied:
                # One that had died before the handler began, idle, is not this job's fault.
                if is_new or self._has_started or self._is_interrupted:
                    raise
            finally:
                self._leave(process)

    def _attach(self, process: HandlerProcess) -> None:
        with self._lock:
            if self._is_interrupted:
                raise KeyboardInterrupt
            self._process = process

    def _leave(self, process: HandlerProcess) -> None:
        with self._lock:
            self._process = None
            is_reusable = self._has_ended and not self._is_interrupted
        if is_reusable:
            process.jobs += 1
            self._processes.give_back(process, self._renewal)
        else:
            process.end()

    def _converse(self, process: HandlerProcess, name: ImportName, job: Job[Any]) -> EncodedJson:
        self._tell(process, "run", name, self._handler.kind, self._active_job)
        while True:
            match self._hear(process):
                case ("started",):
                    process.imported.add(name)
                    self._start(process)
                case "progress", text:
                    job.progress(EncodedJson(text))
                case "log", level, event, fields:
                    getattr(job.log, level)(event, **fields)
                case "ask", ("record_step" | "update_data") as what, arguments:
                    self._tell(process, *_answer(job, what, arguments))
                case "returned", text, memory:
                    process.memory, self._has_ended = memory, True
                    return EncodedJson(text)
                case "raised", pickled, reason, stack, memory:
                    process.memory, self._has_ended = memory, True
                    raise _error(pickled, reason, stack)
                case other:
                    msg = f"its process said {other[0]!r}, which nobody understands"
                    raise ProcessDied(msg)

    def _start(self, process: HandlerProcess) -> None:
        with self._lock:
            self._has_started = True
            if self._is_interrupted:
                process.kill()
        if self.on_started is not None:
            self.on_started()

    def _tell(self, process: HandlerProcess, *message: Any) -> None:
        try:
            process.channel.send(*message)
        except OSError:
            raise self._death(process) from None

    def _hear(self, process: HandlerProcess) -> tuple[Any, ...]:
        try:
            return process.channel.receive(None if self._has_started else START_SECONDS)
        except TimeoutError:
            msg = f"{self._handler.place} was not imported by its process in {START_SECONDS:g} s"
            raise ProcessDied(msg) from None
        except EOFError:
            raise self._death(process) from None

    def _death(self, process: HandlerProcess) -> ProcessDied:
        return death(self._handler.place, process.end(DEATH_SECONDS))


def _answer(job: Job[Any], what: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    """What a method of the job's reporter gives, in the worker's loop, for which this waits."""
    try:
        return "answer", job.ask_reporter(what, *arguments)
    except ConvolabWorkerError as refused:
        return "refused", refused


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class("__main__" if is_program(module) else module, name)


def _error(pickled: bytes | None, reason: str, stack: str) -> BaseException:
    error: object = None
    if pickled is not None:
        try:
            error = _Unpickler(io.BytesIO(pickled)).load()
        except Exception:  # noqa: BLE001 - its class is the application's, and may be missing here
            error = None
    if not isinstance(error, BaseException):
        error = RemoteError(reason)
    with_remote_stack(error, stack)
    return error
