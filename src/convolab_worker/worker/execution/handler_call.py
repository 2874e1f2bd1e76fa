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
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Lost,
    Outcome,
    Postponed,
    Returned,
)
from convolab_worker.errors import (
    ConfigurationError,
    InvalidPayload,
    InvalidResult,
    JobTimeout,
    RetryLater,
    UnrecoverableError,
)
from convolab_worker.handlers import passage
from convolab_worker.handlers.job import AwaitChildren, Job
from convolab_worker.handlers.passage import MiddlewareChain
from convolab_worker.handlers.retry import retry_delay
from convolab_worker.handlers.strategies import NO_STRATEGIES, FailedAttempt
from convolab_worker.payloads.decode import decode_data
from convolab_worker.payloads.encode import encode_json
from convolab_worker.worker.stack_reports import below, stack_of_coroutine, stack_of_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from traceback import StackSummary
    from types import FrameType

    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.job import Line
    from convolab_worker.handlers.registry import Handler
    from convolab_worker.handlers.strategies import Strategies

# Files whose frames say nothing to who wrote the handler.
_OURS = frozenset({__file__, passage.__file__})
# How long a handler may go on after it was told to end, before its slot is taken from it.
PATIENCE_SECONDS = 5.0
# Results that need no look at whether they are awaitable, which takes longer than to write them.
_PLAIN = frozenset({type(None), bool, int, float, str, dict, list})


class Why(enum.Enum):
    """What interrupted a run."""

    TIMEOUT = "timeout"
    STOP = "stop"
    LOST = "lost"
    CANCELLED = "cancelled"


class Run:
    """One call of a handler for a job, in the loop or in a thread of its own."""

    __slots__ = (
        "_began", "_ended", "_error", "_handler", "_job", "_loop", "_passage", "_task", "_thread",
        "_timer", "_value", "abandoned", "asked", "on_stuck", "why",
    )  # fmt: skip

    def __init__(self, job: Job[Any], handler: Handler) -> None:
        """Prepare; nothing runs before ``outcome`` is awaited."""
        self._job = job
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None
        self._passage: MiddlewareChain | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began = False
        self._value: Any = None
        self._error: BaseException | None = None
        self.why: Why | None = None
        self.abandoned = False
        self.asked: Failed | Returned = Returned()  # what is to come of a cancelled job
        # Hears, while the handler still stands there, that its time is over or nobody waits for it.
        self.on_stuck: Callable[[Run], None] | None = None

    async def end(self) -> None:
        """Start the handler and wait until it has ended, or been abandoned."""
        if self._handler.threaded and not self._handler.middleware:
            self._start_thread(self._job, self._finish)
        else:
            name = f"job {self._job.name} {self._job.id}"
            self._task = _begin(self._call(), self._loop, name)
        if self._ended.done():  # it needed nothing to wait for, and no turn of the loop
            return
        if self._handler.timeout is not None:
            self._timer = self._loop.call_later(self._handler.timeout, self._time_out)
        try:
            await self._ended
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _call(self) -> None:
        self._began = True
        handler = self._handler
        try:
            if handler.middleware:
                innermost = self._in_thread if handler.threaded else handler.function
                self._passage = MiddlewareChain(handler.middleware, innermost)
                self._value = await self._passage.go(self._job)
            else:
                self._value = await handler.function(self._job)
        except BaseException as error:  # noqa: BLE001 - nothing a handler raises may end the worker
            self._error = error
        self._end()

    def _start_thread(
        self, job: Job[Any], finish: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Call the handler in a thread; ``finish`` hears of its value or error, in the loop."""
        context = contextvars.copy_context()

        def call() -> None:
            value, error = None, None
            try:
                value = context.run(self._handler.function, job)
            except BaseException as raised:  # noqa: BLE001 - as above
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has been closed without us
                self._loop.call_soon_threadsafe(finish, value, error)

        # A daemon of its own, not a pool's: one that never ends must not keep the process.
        self._thread = threading.Thread(target=call, name=f"job {self._job.id}", daemon=True)
        self._thread.start()

    def _finish(self, value: Any, error: BaseException | None) -> None:
        self._value, self._error = value, error
        self._end()

    async def _in_thread(self, job: Job[Any]) -> Any:
        """Call a threaded handler from its middleware.

        A thread can't be cancelled: when the run is interrupted it is told by ``job.cancelled``,
        and what it gives is waited for, as without middleware.
        """
        ended: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()

        def finish(value: Any, error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result((value, error))

        self._start_thread(job, finish)
        while not ended.done():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self.why is None or self.abandoned or task is None:
                    raise
                task.uncancel()
        value, error = ended.result()
        if error is not None:
            raise error
        return value

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _time_out(self) -> None:
        self._tell_stuck()
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
            self._tell_stuck()
            self._ended.set_result(None)

    def _tell_stuck(self) -> None:
        if self.on_stuck is not None and not self._ended.done():
            self.on_stuck(self)

    @property
    def stack(self) -> StackSummary:
        """Where the handler stands now: its thread, or what its coroutine waits for."""
        if self._thread is not None and self._thread.is_alive():
            stack = stack_of_thread(self._thread.ident)
        else:
            stack = stack_of_coroutine(None if self._task is None else self._task.get_coro())
        return below(stack, __file__)

    @property
    def names(self) -> dict[str, Any]:
        """What names the handler and its job in a report."""
        handler, job = self._handler, self._job
        return {"handler": handler.place, "job_id": job.id, "name": job.name, "queue": job.queue}

    def blame(self, error: BaseException) -> str | None:
        """The middleware that raised ``error``, where one did."""
        return None if self._passage is None else self._passage.blame(error)

    def result(self) -> Any:
        """What the handler returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value

    @property
    def returned(self) -> bool:
        """Whether the handler came to its end by itself."""
        return not self.abandoned and self._error is None


def _begin(
    handling: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, name: str
) -> asyncio.Task[None]:
    """A task of the handler's own; from Python 3.12 on it begins at once, not in the next turn."""
    if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
        return asyncio.Task(handling, loop=loop, name=name, eager_start=True)
    return loop.create_task(handling, name=name)


def job_of_frame(frame: FrameType) -> dict[str, Any] | None:
    """The job whose handler runs below ``frame``, if that is a frame of ours."""
    if frame.f_code is not Run._call.__code__:  # noqa: SLF001
        return None
    run: Run = frame.f_locals["self"]
    return run.names


def prepare(active_job: ActiveJob, handler: Handler, line: Line) -> Job[Any]:
    """Decode and validate a job's data. Raises InvalidPayload."""
    data = handler.validate(decode_data(active_job.data))
    return Job(active_job, kind=handler.kind, data=data, line=line, resources=handler.resources)


def conclude(
    run: Run,
    active_job: ActiveJob,
    handler: Handler,
    random: Callable[[], float],
    strategies: Strategies = NO_STRATEGIES,
) -> Outcome:
    """The outcome of a run that has ended."""
    if run.why is Why.LOST:
        return Lost("the lock was lost while the handler ran")
    if run.why is Why.TIMEOUT:
        return failure(_timed_out(run, active_job, handler), active_job, random, strategies)
    if run.why is Why.STOP and not run.returned:
        return Returned()
    if run.why is Why.CANCELLED and not run.returned:
        return run.asked
    return _from_result(run, active_job, random, strategies)


def _from_result(
    run: Run, active_job: ActiveJob, random: Callable[[], float], strategies: Strategies
) -> Outcome:
    try:
        value = run.result()
        if type(value) not in _PLAIN and inspect.isawaitable(value):
            _discard(value)
            msg = "the handler returned an awaitable: make it async, or await what it returns"
            raise InvalidResult(msg)  # noqa: TRY301 - one place makes outcomes of errors
        return Completed(encode_json(value))
    except AwaitChildren as asked:
        return AwaitsChildren(asked.children)
    except RetryLater as later:
        return Postponed(later.delay)
    except BaseException as error:  # noqa: BLE001 - a value from here on
        return failure(error, active_job, random, strategies, middleware=run.blame(error))


def failure(
    error: BaseException,
    active_job: ActiveJob,
    random: Callable[[], float],
    strategies: Strategies = NO_STRATEGIES,
    *,
    middleware: str | None = None,
) -> Failed:
    """The outcome of an attempt that failed with ``error``, raised by ``middleware`` or within."""
    reason, stack = _reason(error), _stack(error)
    if middleware is not None:
        reason = f"middleware {middleware}: {reason}"
    if isinstance(error, (UnrecoverableError, InvalidPayload, InvalidResult)):
        return Failed(reason, stack, error=error)
    try:
        delay = retry_delay(
            active_job.opts,
            active_job.attempts_made,
            random=random(),
            custom=lambda name: strategies.delay(name, _failed_attempt(active_job, error)),
        )
    except ConfigurationError as unknown:
        return Failed(f"{reason} (not tried again: {unknown})", stack, error=error)
    return Failed(reason, stack, delay, error=error)


def _failed_attempt(active_job: ActiveJob, error: BaseException) -> FailedAttempt:
    return FailedAttempt(
        id=active_job.id,
        name=active_job.name,
        queue=active_job.queue,
        attempt=active_job.attempt,
        max_attempts=active_job.max_attempts,
        error=error,
        raw_data=active_job.data,
    )


def _timed_out(run: Run, active_job: ActiveJob, handler: Handler) -> JobTimeout:
    still = "; it is still running and was abandoned" if run.abandoned else ""
    msg = f"{active_job.name} ran longer than its time-out of {handler.timeout:g} s{still}"
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
    while frames is not None and frames.tb_frame.f_code.co_filename in _OURS:
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
