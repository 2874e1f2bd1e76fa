"""One job from taken to an outcome: decode, validate, run, time out.

A ``Run`` is one call of a handler:

    running     -- returns, raises -->          ended
    running     -- time-out, stop, lock lost --> interrupted  (``cancelled`` is set, task cancelled)
    interrupted -- returns, raises -->          ended
    interrupted -- patience over -->            abandoned     (it may go on; nobody waits for it)
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import inspect
import threading
import traceback
from typing import TYPE_CHECKING, Any

from convolab_worker.backoff import retry_delay
from convolab_worker.errors import (
    ConfigurationError,
    InvalidPayload,
    InvalidResult,
    JobTimeout,
    RetryLater,
    UnrecoverableError,
)
from convolab_worker.job import AwaitChildren, Job
from convolab_worker.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Lost,
    Outcome,
    Postponed,
    Returned,
)
from convolab_worker.payloads import decode_data, encode_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from convolab_worker.job import Line
    from convolab_worker.lease import Lease
    from convolab_worker.registry import Handler

# How long a handler may go on after it was told to end, before its slot is taken from it.
PATIENCE_SECONDS = 5.0


class Why(enum.Enum):
    """What interrupted a run."""

    TIMEOUT = "timeout"
    STOP = "stop"
    LOST = "lost"


class Run:
    """One call of a handler for a job, in the loop or in a thread of its own."""

    __slots__ = (
        "_began", "_ended", "_error", "_handler", "_job", "_loop", "_task", "_timer", "_value",
        "abandoned", "why",
    )  # fmt: skip

    def __init__(self, job: Job[Any], handler: Handler) -> None:
        """Prepare; nothing runs before ``outcome`` is awaited."""
        self._job = job
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began = False
        self._value: Any = None
        self._error: BaseException | None = None
        self.why: Why | None = None
        self.abandoned = False

    async def end(self) -> None:
        """Start the handler and wait until it has ended, or been abandoned."""
        if self._handler.threaded:
            self._start_thread()
        else:
            name = f"job {self._job.name} {self._job.id}"
            self._task = self._loop.create_task(self._call(), name=name)
        if self._handler.timeout is not None:
            self._timer = self._loop.call_later(self._handler.timeout, self._time_out)
        try:
            await self._ended
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _call(self) -> None:
        self._began = True
        try:
            self._value = await self._handler.function(self._job)
        except BaseException as error:  # noqa: BLE001 - nothing a handler raises may end the worker
            self._error = error
        self._end()

    def _start_thread(self) -> None:
        context = contextvars.copy_context()

        def call() -> None:
            try:
                self._value = context.run(self._handler.function, self._job)
            except BaseException as error:  # noqa: BLE001 - as above
                self._error = error
            with contextlib.suppress(RuntimeError):  # the loop has been closed without us
                self._loop.call_soon_threadsafe(self._end)

        # A daemon of its own, not a pool's: one that never ends must not keep the process.
        threading.Thread(target=call, name=f"job {self._job.id}", daemon=True).start()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _time_out(self) -> None:
        self.interrupt(Why.TIMEOUT, PATIENCE_SECONDS)

    def interrupt(self, why: Why, patience: float) -> None:
        """Tell the handler to end within ``patience`` seconds; the first reason counts."""
        if self._ended.done():
            return
        if self.why is None:
            self.why = why
            self._job.cancelled.set()
            if self._task is not None:
                self._task.cancel()
                if not self._began:  # asyncio drops a task that is cancelled before its first step
                    self._error = asyncio.CancelledError()
                    self._end()
                    return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(patience, self._abandon)

    def _abandon(self) -> None:
        if not self._ended.done():
            self.abandoned = True
            self._ended.set_result(None)

    def result(self) -> Any:
        """What the handler returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value

    @property
    def returned(self) -> bool:
        """Whether the handler came to its end by itself."""
        return not self.abandoned and self._error is None


def job_of_frame(frame: FrameType) -> dict[str, Any] | None:
    """The job whose handler runs below ``frame``, if that is a frame of ours."""
    if frame.f_code is not Run._call.__code__:  # noqa: SLF001
        return None
    run: Run = frame.f_locals["self"]
    handler, job = run._handler, run._job  # noqa: SLF001
    return {"handler": handler.place, "job_id": job.id, "name": job.name, "queue": job.queue}


def prepare(lease: Lease, handler: Handler, line: Line) -> Job[Any]:
    """Decode and validate a job's data. Raises InvalidPayload."""
    data = handler.validate(decode_data(lease.data))
    return Job(lease, kind=handler.kind, data=data, line=line)


def conclude(run: Run, lease: Lease, handler: Handler, random: Callable[[], float]) -> Outcome:
    """The outcome of a run that has ended."""
    if run.why is Why.LOST:
        return Lost("the lock was lost while the handler ran")
    if run.why is Why.TIMEOUT:
        return failure(_timed_out(run, lease, handler), lease, random)
    if run.why is Why.STOP and not run.returned:
        return Returned()
    return _from_result(run, lease, random)


def _from_result(run: Run, lease: Lease, random: Callable[[], float]) -> Outcome:
    try:
        value = run.result()
        if inspect.isawaitable(value):
            _discard(value)
            msg = "the handler returned an awaitable: make it async, or await what it returns"
            raise InvalidResult(msg)  # noqa: TRY301 - one place makes outcomes of errors
        return Completed(encode_json(value))
    except AwaitChildren as asked:
        return AwaitsChildren(asked.children)
    except RetryLater as later:
        return Postponed(later.delay)
    except BaseException as error:  # noqa: BLE001 - a value from here on
        return failure(error, lease, random)


def failure(error: BaseException, lease: Lease, random: Callable[[], float]) -> Failed:
    """The outcome of an attempt that failed with ``error``."""
    reason, stack = _reason(error), _stack(error)
    if isinstance(error, (UnrecoverableError, InvalidPayload, InvalidResult)):
        return Failed(reason, stack)
    try:
        delay = retry_delay(lease.opts, lease.attempts_made, random=random())
    except ConfigurationError as unknown:
        return Failed(f"{reason} (not tried again: {unknown})", stack)
    return Failed(reason, stack, delay)


def _timed_out(run: Run, lease: Lease, handler: Handler) -> JobTimeout:
    still = "; it is still running and was abandoned" if run.abandoned else ""
    msg = f"{lease.name} ran longer than its time-out of {handler.timeout:g} s{still}"
    timeout = JobTimeout(msg)
    if run._error is not None:  # noqa: SLF001 - where the handler stood when it was cancelled
        timeout.__traceback__ = run._error.__traceback__  # noqa: SLF001
    return timeout


def _reason(error: BaseException) -> str:
    """What Node would put into ``failedReason``: the message, where there is one."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception whose own text raises
        text = ""
    if isinstance(error, Exception) and text and not isinstance(error, KeyError):
        return _encodable(text)
    return _encodable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _stack(error: BaseException) -> str:
    """The traceback from the handler on, without the frames of this library."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frames)
    except Exception:  # noqa: BLE001 - an exception whose str or repr raises
        lines = [f"{type(error).__name__} (its traceback can't be shown)"]
    return _encodable("".join(lines))


def _encodable(text: str) -> str:
    """Lone surrogates can't be sent as UTF-8: show them as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _discard(value: Any) -> None:
    close = getattr(value, "close", None)
    if callable(close):
        close()
