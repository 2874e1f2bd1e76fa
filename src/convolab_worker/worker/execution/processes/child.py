"""What runs in a handler's process: one job after another, until its worker wants no more."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from convolab_worker.bullmq.job_type import job_types_of
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.job.job import Job
from convolab_worker.handlers.job.subprocesses import Subprocesses
from convolab_worker.handlers.registration.processes import import_function
from convolab_worker.payloads.annotation import payload_annotation
from convolab_worker.payloads.decode import decoder
from convolab_worker.payloads.encode import encode_json
from convolab_worker.worker.execution.outcomes import encoded_result, reason_of, stack_of
from convolab_worker.worker.execution.processes.channel import Channel

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.registration.processes import ImportName

# How often progress is sent, at most; the worker writes it once a second.
_PAUSE_SECONDS = 0.1
_ENDING = (signal.SIGTERM, signal.SIGINT)


def main(end: int, lifeline: int, logging: tuple[str, str] | None) -> None:
    """Run jobs from the socket ``end``, until it or the lifeline is closed."""
    process = Process(Channel(socket.socket(fileno=end)))
    for descriptor in (end, lifeline):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - so it is defined
    # Python's own handler would end the process for SIGTERM, which a host may send to everybody.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, process.interrupt)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    # A signal that reaches a fork before it has its own handlers waits until it has.
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING),
        after_in_child=lambda: _forked(process, lifeline, woken, wake),
    )
    threading.Thread(
        target=_watch, args=[lifeline, woken], name="convolab-watch", daemon=True
    ).start()
    if logging is not None:
        from convolab_worker.telemetry.logging import configure_logging

        configure_logging(*logging)
    with contextlib.suppress(KeyboardInterrupt):  # it came as the handler ended
        process.serve()


def _watch(lifeline: int, woken: int) -> None:
    """End with the worker where the kernel does not see to it, and pass signals on.

    The kernel gives a signal to any thread, and only one that is given to the main thread wakes
    that from a system call.
    """
    main_thread = threading.main_thread().ident
    while True:
        ready, _, _ = select.select([lifeline, woken], [], [])
        if lifeline in ready:
            _die()
        if signal.SIGINT in os.read(woken, 64) and main_thread is not None:
            signal.pthread_kill(main_thread, signal.SIGTERM)  # which does nothing but wake it


def _die() -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _forked(process: Process, *descriptors: int) -> None:
    """A process that the handler forks is ended as any other, and holds nothing of ours open."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    process.channel.forget()
    for descriptor in descriptors:
        os.close(descriptor)


class Process:
    """This process; its handlers run in the main thread, where signals reach them."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._functions: dict[ImportName, Callable[..., Any]] = {}
        self._job: Job[Any] | None = None
        self._is_sending = False
        self._is_due = False
        self._asking = threading.Lock()  # one answer is waited for at a time

    def serve(self) -> None:
        while True:
            try:
                _, name, kind, active_job = self.channel.receive()
            except EOFError:
                return
            reports = Reports(self.send, self.ask)
            answer = self._run(name, kind, active_job, reports)
            reports.close()
            self._send(*answer, _memory())

    def _run(
        self, name: ImportName, kind: str, active_job: ActiveJob, reports: Reports
    ) -> tuple[Any, ...]:
        programs = Subprocesses(grouped=False)
        try:
            function = self._function(name)
            self.send("started")
            job = Job(
                active_job,
                kind=kind,
                data=_decoder(function, active_job.name)(active_job.data),
                reporter=reports,
                resources=_Elsewhere(),
            )
            job._log = reports.logger()  # noqa: SLF001 - its lines are the worker's to write
            job._subprocesses = programs  # noqa: SLF001 - they are of this process's own group
            structlog.contextvars.clear_contextvars()
            structlog.contextvars.bind_contextvars(
                job_id=job.id, job_name=job.name, queue=job.queue, attempt=job.attempt
            )
            self._job = job
            text = encoded_result(function(job))
            self._job = None
        except BaseException as error:  # noqa: BLE001 - the worker raises it there
            self._job = None
            programs.end()
            _trim(error)
            return "raised", _pickled(error), reason_of(error), stack_of(error, __file__)
        programs.end()
        return "returned", text

    def _function(self, name: ImportName) -> Callable[..., Any]:
        if name not in self._functions:
            try:
                self._functions[name] = import_function(name)
            except ConfigurationError:
                raise
            except Exception as error:
                msg = f"its process can't import {name.module}.{name.name}: {reason_of(error)}"
                raise ConfigurationError(msg) from error
        return self._functions[name]

    # ending

    def interrupt(self, *_: object) -> None:
        """End the handler, by KeyboardInterrupt; a message that is being sent is sent whole."""
        job = self._job
        if job is None:
            return
        job.cancelled.set()
        if not self._is_sending:
            raise KeyboardInterrupt
        self._is_due = True

    def send(self, *message: Any) -> None:
        """Send a message; of any thread."""
        with self._whole():
            self._send(*message)

    def ask(self, name: str, *arguments: Any) -> Any:
        """Have the worker call a method of the job's reporter; return its result, or raise so."""
        with self._asking, self._whole():
            self._send("ask", name, arguments)
            try:
                what, value = self.channel.receive()
            except EOFError:  # the worker is gone
                _die()
        if what == "refused":
            raise value
        return value

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Keep an interruption from cutting a message in two."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False
        if self._is_due:
            self._is_due = False
            raise KeyboardInterrupt

    def _send(self, *message: Any) -> None:
        try:
            self.channel.send(*message)
        except OSError:  # the worker is gone
            _die()


@functools.lru_cache(maxsize=1024)
def _decoder(function: Callable[..., Any], job_name: str) -> Callable[[bytes], Any]:
    """What reads the data of a handler's jobs, as in the worker."""
    known = job_types_of(function)
    named = [job_type for job_type in known if job_type.name == job_name]
    if known:
        return (named or known)[0].decode
    return decoder(payload_annotation(function, Job))


class Reports:
    """Sends what a job reports: the first progress at once, what follows soon in the newest."""

    newest: str | None = None

    is_closed = False  # a run that is over has no process any more
    loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, send: Callable[..., None], ask: Callable[..., Any]) -> None:
        self._send = send
        self._ask = ask
        self._lock = threading.Lock()
        self._unsent: str | None = None
        self._sent_at = float("-inf")
        self._timer: threading.Timer | None = None
        self._is_closed = False

    def progress(self, value: Any) -> None:
        text = encode_json(value, what="progress")
        with self._lock:
            if self._is_closed:
                return
            self.newest = self._unsent = text
            wait = self._sent_at + _PAUSE_SECONDS - time.monotonic()
            if wait <= 0:
                self._send_progress()
            elif self._timer is None:
                self._timer = threading.Timer(wait, self._late)
                self._timer.daemon = True
                self._timer.start()

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            self._send_progress()

    def _send_progress(self) -> None:
        text, self._unsent = self._unsent, None
        if text is not None:
            self._sent_at = time.monotonic()
            self._send("progress", text)

    def logger(self) -> Any:
        """A logger whose lines the worker writes, through its own configuration."""
        config = structlog.get_config()
        return structlog.wrap_logger(
            None,
            processors=[structlog.processors.format_exc_info, self._log],
            wrapper_class=config["wrapper_class"],
            context_class=config["context_class"],
        ).bind()

    def _log(self, _: Any, level: str, event: structlog.typing.EventDict) -> NoReturn:
        with self._lock:
            if not self._is_closed:
                said = str(event.pop("event", ""))
                self._send("log", level, said, {key: _plain(event[key]) for key in event})
        raise structlog.DropEvent

    def log(self, row: str) -> None:
        """Nothing: the worker makes the row of the line."""

    # The next two wait for no event loop: there is none.

    async def record_step(self, name: str, result: str) -> bytes:
        recorded: bytes = self._ask("record_step", name, result)
        return recorded

    async def update_data(self, data: str) -> None:
        self._ask("update_data", data)

    async def children_results(self) -> dict[str, Any]:
        _elsewhere("children_results")

    async def children_failures(self) -> dict[str, str]:
        _elsewhere("children_failures")

    async def drop_children(self) -> None:
        _elsewhere("drop_children")

    async def finish(self) -> None:
        self.close()

    def close(self) -> None:
        """Send what is unsent, and nothing after it."""
        with self._lock:
            self._is_closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._send_progress()


class _Elsewhere:
    """Stands for ``job.resources``, which live in the worker's process."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        _elsewhere(f"resources.{name}")

    def __getitem__(self, key: object) -> NoReturn:
        _elsewhere(f"resources[{key!r}]")


def _elsewhere(what: str) -> NoReturn:
    msg = (
        f"job.{what}: a handler with process=True has not what its worker has: expected it to "
        "make what it needs in its own process, once, by a function with functools.cache"
    )
    raise ConfigurationError(msg)


def _plain(value: Any) -> Any:
    """The value as JSON has it, or its ``repr``: its class may be missing in the worker."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def _trim(error: BaseException) -> None:
    """Leave out where this module raised, in the handler, what ends it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        if frame.tb_next.tb_frame.f_code is Process.interrupt.__code__:
            frame.tb_next = None
            return
        frame = frame.tb_next


def _pickled(error: BaseException) -> bytes | None:
    """The exception as pickle, if it comes out as it went in."""
    try:
        pickled = pickle.dumps(error)
        return pickled if type(pickle.loads(pickled)) is type(error) else None  # noqa: S301
    except Exception:  # noqa: BLE001 - whatever its own methods do
        return None


def _memory() -> int:
    """The resident memory of this process in bytes; where the system tells no more, its highest."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a file of /proc
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource
        import sys

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
