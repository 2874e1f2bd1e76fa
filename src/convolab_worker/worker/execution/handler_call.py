"""One call of a handler: decode, validate, run, time out; and what its job comes to.

running -- returns, raises -->                         ended
running -- time-out, shutdown, cancel, lock lost -->   aborted    (``cancelled`` is set)
aborted -- returns, raises -->                         ended
aborted -- patience over -->                           abandoned  (nobody waits for it)

A process is killed when patience is over, and so hardly ever abandoned.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import threading
from traceback import StackSummary
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from convolab_worker.bullmq.jobs.outcome import (
    Failed,
    Lost,
    Outcome,
    Returned,
)
from convolab_worker.handlers.around.middleware import MiddlewareChain
from convolab_worker.payloads.encode import EncodedJson
from convolab_worker.telemetry.log_context import bind_job
from convolab_worker.worker.execution.handler_tasks import begun_task
from convolab_worker.worker.watchdog import below, stack_of_coroutine, stack_of_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from convolab_worker.handlers.job.job import Job
    from convolab_worker.handlers.registration.handler import Handler
    from convolab_worker.worker.execution.processes.call import ProcessCall
    from convolab_worker.worker.execution.threads import HandlerThread, HandlerThreads

# How long a handler may go on after it was told to end, before it loses its slot; and at the end of
# a shutdown's grace, or when its lock is lost.
PATIENCE_SECONDS = 5.0
STOP_PATIENCE_SECONDS = 0.5
# How long a killed process may take to be gone.
_KILLED_SECONDS = 0.25


class AbortKind(enum.Enum):
    """Why a handler has to end."""

    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"
    LOCK_LOST = "lock lost"


class Abort(Struct, frozen=True):
    """Tells a handler to end. Its job comes to ``outcome``, unless the handler still returns.

    A handler that goes on for ``patience`` seconds loses its slot. A lost lock counts whatever the
    handler returns; what a time-out comes to depends on the job's attempts.
    """

    kind: AbortKind
    outcome: Outcome | None
    patience: float


LOCK_LOST = Abort(
    AbortKind.LOCK_LOST, Lost("the lock was lost while the handler ran"), STOP_PATIENCE_SECONDS
)
SHUTDOWN = Abort(AbortKind.SHUTDOWN, Returned(), STOP_PATIENCE_SECONDS)


def cancellation(outcome: Failed | Returned) -> Abort:
    return Abort(AbortKind.CANCELLED, outcome, PATIENCE_SECONDS)


class HandlerCall:
    """One call of a handler for a job: in one of ``tasks`` or ``threads``, or ``in_process``.

    In the last case a thread waits for the process.
    """

    # What most calls leave as it is stands here, and not in each of them: every job makes one.
    _task: asyncio.Task[None] | None = None
    _thread: HandlerThread | None = None  # while it makes this call
    _thread_id: int | None = None  # of the thread that it runs in, if not the loop's
    _chain: MiddlewareChain | None = None
    _timer: asyncio.TimerHandle | None = None
    _began = False
    _began_at = 0.0  # by the loop's clock, if there is a time-out
    _is_over = False  # ended or abandoned
    _over: asyncio.Future[None] | None = None  # for ``run``, while it waits for that
    _value: Any = None
    error: BaseException | None = None
    aborted: Abort | None = None
    abandoned = False
    killed = False
    # Programs that the handler left running: job.subprocess's, killed, and others, which run.
    killed_programs: Sequence[str] = ()
    running_programs: Sequence[str] = ()
    # Called while the handler still stands where it is: its time is over, or it is abandoned.
    on_stuck: Callable[[HandlerCall], None] | None = None

    def __init__(
        self,
        job: Job[Any],
        handler: Handler,
        threads: HandlerThreads,
        loop: asyncio.AbstractEventLoop,
        in_process: ProcessCall | None = None,
    ) -> None:
        self._job = job
        self._handler = handler
        self._threads = threads
        self._in_process = in_process
        self._loop = loop

    async def run(self) -> None:
        """Start the handler and wait until it has ended or has been abandoned."""
        try:
            if not self.start():
                await self.wait()
        finally:
            self.end_programs()

    def start(self) -> bool:
        """Start the handler; whether it has ended already, as one that waits for nothing has."""
        if self._handler.timeout is not None:
            self._began_at = self._loop.time()
        if self._handler.threaded and not self._handler.middleware:
            try:
                self._start_thread(self._job, self._finish)
            except RuntimeError as error:  # the system gives no more threads
                self.error = error
                self._end()
        else:
            name = f"job {self._job.name} {self._job.id}"
            self._task = begun_task(self._call(), self._loop, name)
        return self._is_over

    def end_programs(self) -> None:
        """Kill what is left of the job's subprocesses, which end with it."""
        if (programs := self._job._subprocesses) is not None:  # noqa: SLF001 - they end with us
            self.killed_programs = programs.end()

    async def wait(self) -> None:
        """Wait until the handler has ended or has been abandoned."""
        if self._in_process is None and self._handler.timeout is not None:
            self._start_clock(self._began_at)
        self._over = asyncio.Future(loop=self._loop)
        try:
            await self._over
        except asyncio.CancelledError:  # nobody waits for it any more
            self._is_over = True
            self._job.cancelled.set()
            if self._task is not None:
                self._task.cancel()
            self._leave_thread()
            if self._in_process is not None:
                self._in_process.kill()
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def find_left_behind(self, since: float, *, is_alone: bool) -> None:
        """See what an aborted handler has left running; ``since`` (epoch seconds) it began.

        One in the loop that is not alone may be blamed for another one's.
        """
        if self._in_process is not None:  # which has ended, with all of them
            return
        from convolab_worker.worker.execution.left_behind import left_behind

        in_loop = self._thread_id is None
        thread_id = threading.get_native_id() if in_loop else self._thread_id
        known = {int(text.rpartition("pid ")[2].rstrip(")")) for text in self.killed_programs}
        self.running_programs = [
            f"{'perhaps ' if in_loop and not is_alone else ''}{name} (pid {pid})"
            for pid, name in left_behind(thread_id, since)
            if pid not in known
        ]

    def _start_clock(self, began: float | None = None) -> None:
        """The time-out counts from when the handler ``began``, by the loop's clock; or from now."""
        if self._handler.timeout is not None and self.aborted is None and not self._is_over:
            began = self._loop.time() if began is None else began
            self._timer = self._loop.call_at(began + self._handler.timeout, self._time_out)

    async def _call(self) -> None:
        self._began = True
        handler, job = self._handler, self._job
        _bind(job)
        try:
            if handler.middleware:
                innermost = self._in_thread if handler.threaded else handler.function
                self._chain = MiddlewareChain(handler.middleware, innermost)
                self._value = await self._chain.run(job)
            else:
                self._value = await handler.function(job)
        except BaseException as error:  # noqa: BLE001 - nothing a handler raises may end the worker
            self.error = error
        self._end()

    def _start_thread(
        self, job: Job[Any], finish: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Call the handler in a thread; ``finish`` hears of its value or error, in the loop."""
        context, function = contextvars.copy_context(), self._handler.function
        if self._in_process is not None:
            function = self._in_process.run
            self._in_process.on_started = lambda: self._tell_loop(self._start_clock)
        context.run(_bind, self._job)

        def call() -> Any:
            return context.run(function, job)

        def ended(value: Any, error: BaseException | None) -> None:
            self._thread = None
            finish(value, error)

        def tell(value: Any, error: BaseException | None) -> None:
            self._tell_loop(ended, value, error)

        self._thread = self._threads.call(f"job {self._job.id}", call, tell)
        self._thread_id = self._thread.native_id

    def _tell_loop(self, hear: Callable[..., None], *news: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed without us
            self._loop.call_soon_threadsafe(hear, *news)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        self._value, self.error = value, error
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
                if self.aborted is None or self.abandoned or task is None:
                    raise
                task.uncancel()
        value, error = ended.result()
        if error is not None:
            raise error
        return value.decoded() if type(value) is EncodedJson else value

    def _end(self) -> None:
        self._is_over = True
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _time_out(self) -> None:
        self._tell_stuck()
        self.abort(Abort(AbortKind.TIMEOUT, None, PATIENCE_SECONDS))

    def abort(self, abort: Abort) -> None:
        """Tell the handler to end; of several aborts the first says what the job comes to."""
        if self._is_over:
            return
        if self.aborted is None:
            self.aborted = abort
            self._job.cancelled.set()
            if self._in_process is not None:
                self._in_process.interrupt()
            if (programs := self._job._subprocesses) is not None:  # noqa: SLF001 - as below
                programs.terminate()  # a thread may wait for one
            if self._task is not None:
                self._task.cancel()
                if not self._began:  # asyncio drops a task that is cancelled before its first step
                    self.error = asyncio.CancelledError()
                    self._end()
                    return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(abort.patience, self._abandon)

    def _abandon(self) -> None:
        if self._in_process is not None and not self.killed and not self._is_over:
            self.killed = True
            self._tell_stuck()
            self._in_process.kill()
            self._timer = self._loop.call_later(_KILLED_SECONDS, self._abandon)
        elif not self._is_over:
            self.abandoned = True
            self._tell_stuck()
            self._leave_thread()
            self._end()

    def _leave_thread(self) -> None:
        if self._thread is not None:
            self._threads.abandon(self._thread)

    def _tell_stuck(self) -> None:
        if self.on_stuck is not None and not self._is_over:
            self.on_stuck(self)

    @property
    def stack(self) -> StackSummary:
        """Where the handler stands now: its thread, or what its coroutine waits for."""
        if self._in_process is not None:
            return StackSummary()  # what its thread does says nothing
        if self._thread is not None:
            stack = stack_of_thread(self._thread.ident)
        else:
            stack = stack_of_coroutine(None if self._task is None else self._task.get_coro())
        return below(stack, __file__)

    @property
    def names(self) -> dict[str, Any]:
        """What names the handler and its job in a report."""
        handler, job = self._handler, self._job
        names = {
            "handler": handler.place,
            "job_id": job.id,
            "job_name": job.name,
            "queue": job.queue,
        }
        return names if self._in_process is None else {**names, "pid": self._in_process.pid}

    def blame(self, error: BaseException) -> str | None:
        """The middleware that raised ``error``, where one did."""
        return None if self._chain is None else self._chain.blame(error)

    def result(self) -> Any:
        """What the handler returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self._value

    @property
    def returned(self) -> bool:
        """Whether the handler came to its end by itself."""
        return not self.abandoned and self.error is None


def _bind(job: Job[Any]) -> None:
    """Name the job in every line that is logged while it runs, by whatever library."""
    bind_job(job.id, job.name, job.queue, job.attempt)


def job_of_frame(frame: FrameType) -> dict[str, Any] | None:
    """The job whose handler runs below ``frame``, if that is a frame of ours."""
    if frame.f_code is not HandlerCall._call.__code__:  # noqa: SLF001
        return None
    call: HandlerCall = frame.f_locals["self"]
    return call.names
