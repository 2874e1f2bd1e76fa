"""Job[T]: what a handler sees of the job it runs."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, cast, overload

from convolab_worker.bullmq.jobs.child_jobs import ChildJob, check_keys
from convolab_worker.handlers.job.worker_loop import WorkerLoop
from convolab_worker.payloads.encode import encode_data

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable

    import structlog

    # Type checkers know typing_extensions even where it is not installed. At run time R has no
    # default before Python 3.13.
    from typing_extensions import TypeVar as TypeVarWithDefault

    from convolab_worker.bullmq.protocol.keyword_types import Backoff
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.job.reporter import JobReporter
    from convolab_worker.handlers.job.steps.steps import Steps
    from convolab_worker.handlers.job.subprocesses import JobSubprocess, Subprocesses

    R = TypeVarWithDefault("R", default=Any)
else:
    R = TypeVar("R")

T = TypeVar("T")
V = TypeVar("V")
P = ParamSpec("P")


class AwaitChildren(BaseException):
    """Ends a handler that waits for its children; no ``except Exception`` may catch it."""

    def __init__(self, children: tuple[ChildJob, ...]) -> None:
        super().__init__("the handler waits for its children")
        self.children = children


class _Done:
    """An awaitable that has ended already."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_DONE = _Done()
_FIRST_LOOK = threading.Lock()


class Job(Generic[T, R]):
    """One attempt at a job: ``Job[T]``, or ``Job[T, R]`` where ``resources`` are to be typed too.

    ``data`` has been validated against ``T``; ``resources`` is what the registry's lifespan gave,
    None without one; ``attempt`` counts from 1 to ``max_attempts``, and ``starts`` from 1 how often
    a worker has fetched the job: more than ``attempt`` where a run has never ended, was postponed,
    or waited for children.
    ``cancelled`` is set on a time-out, a shutdown or a lost lock: a handler in the loop is
    cancelled at the same moment, one in a thread has to look at ``cancelled.is_set()``.

    In a handler that runs in a thread every method works without ``await``, and returns what
    awaiting it would.
    """

    __slots__ = (
        "_active_job", "_cancelled", "_log", "_reporter", "_steps", "_subprocesses", "attempt",
        "data", "id", "kind", "name", "queue", "resources",
    )  # fmt: skip

    if not TYPE_CHECKING:

        def __class_getitem__(cls, types: Any) -> Any:
            """``Job[T]`` is ``Job[T, Any]``."""
            return super().__class_getitem__(types if isinstance(types, tuple) else (types, Any))

    def __init__(
        self,
        active_job: ActiveJob,
        *,
        kind: str,
        data: T,
        reporter: JobReporter,
        resources: R | None = None,
    ) -> None:
        """Show ``active_job`` to its handler; reports go to ``reporter``."""
        self.id: str = active_job.id
        self.name: str = active_job.name
        self.queue: str = active_job.queue
        self.kind = kind
        self.data = data
        self.resources: R = resources  # type: ignore[assignment] # R is what the lifespan gives
        self.attempt: int = active_job.attempts_made + 1
        self._cancelled: asyncio.Event | None = None
        self._reporter = reporter
        self._active_job = active_job
        self._steps: Steps | None = None
        self._log: structlog.typing.FilteringBoundLogger | None = None
        self._subprocesses: Subprocesses | None = None

    # What few handlers ask is not worked out for each job.

    @property
    def max_attempts(self) -> int:
        """How often the job may be tried."""
        return self._active_job.max_attempts

    @property
    def starts(self) -> int:
        """How often a worker has fetched the job, from 1."""
        return max(self._active_job.starts, 1)

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the handler is to end; the class says when."""
        if self._cancelled is None:
            with _FIRST_LOOK:  # a handler's thread may look while the loop tells it to end
                if self._cancelled is None:
                    self._cancelled = asyncio.Event()
        return self._cancelled

    @property
    def log(self) -> structlog.typing.FilteringBoundLogger:
        """A structlog logger that names the job; its lines are kept with the job in Redis too."""
        if self._log is None:
            from convolab_worker.handlers.job.job_log import (
                job_logger,  # which most jobs do without
            )

            self._log = job_logger(self, self._reporter)
        return self._log

    def progress(self, value: Any) -> Awaitable[None]:
        """Report progress: a number, or any JSON that Node's QueueEvents are to get.

        The newest value is written at most once a second, the last one always. Works from a
        thread too, without ``await``. Raises InvalidResult if the value is not JSON.
        """
        self._reporter.progress(value)
        return _DONE

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., Coroutine[Any, Any, V]],
        /,
        *args: Any,
        attempts: int,
        backoff: Backoff | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, V]: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., V],
        /,
        *args: Any,
        attempts: int,
        backoff: Backoff | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, V]: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., Coroutine[Any, Any, V]],
        /,
        *args: Any,
        timeout: float,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, V]: ...

    @overload
    def step(
        self, name: str, function: Callable[..., V], /, *args: Any, timeout: float, **kwargs: Any
    ) -> Coroutine[Any, Any, V]: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[P, Coroutine[Any, Any, V]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, V]: ...

    @overload
    def step(
        self, name: str, function: Callable[P, V], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, V]: ...

    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call the function with these arguments, and keep its result with the job in Redis.

        A later run of this job (another attempt, or the one after a crash) gets the kept result,
        and nothing is called. ``name`` is what a step is known by, whatever the order; each name
        begins once in a run. Only results are kept, no exceptions: the step runs again then.

        The result is written as JSON, and read as the type that the function says it returns; the
        first run gets what a later one would. ``attempts``, ``backoff`` and ``timeout`` (seconds)
        of the step itself use up no attempt of the job. A plain function runs in a thread where
        the handler is async. What was called, and not recorded before a crash, is called again:
        ``step_key`` is for providers that know a call by a key.

        Raises ConfigurationError for a name that is taken, a step inside a step, and options that
        can't be; InvalidResult for a result that is not JSON, is not of that type any more, or is
        too large to be kept; JobTimeout; and LockLost if the job is not this worker's any more.
        """
        return self._all_steps().begin(name, function, args, kwargs)

    def step_key(self, name: str) -> str:
        """Return a key of the step ``name``: the same in all runs of this job, and in no other job.

        For a provider's idempotency header: 32 hexadecimal digits.
        """
        return self._all_steps().key(name)

    def ask_reporter(self, what: str, *arguments: Any) -> Any:
        """Call a method of the reporter, in the worker's loop: for the library's own use."""
        return WorkerLoop(self._reporter.loop).result(getattr(self._reporter, what)(*arguments))

    def _all_steps(self) -> Steps:
        if self._steps is None:
            from convolab_worker.handlers.job.steps.steps import Steps  # which most jobs do without

            loop = WorkerLoop(self._reporter.loop)
            self._steps = Steps(self._active_job, self._reporter, loop)
        return self._steps

    def update_data(self, data: T) -> Coroutine[Any, Any, None]:
        """Write other data for this job, as BullMQ's ``updateData``: later runs get it.

        Raises InvalidResult for what is not JSON, and JobNotFound if the job was removed.
        """
        updated = WorkerLoop(self._reporter.loop).result(self._update_data(data))
        return cast("Coroutine[Any, Any, None]", updated)

    async def _update_data(self, data: T) -> None:
        await self._reporter.update_data(encode_data(data))
        self.data = data

    def enqueue_children(self, children: Iterable[ChildJob]) -> Coroutine[Any, Any, NoReturn]:
        """Enqueue parts of this job, give the slot back, and be run again when they are done.

        Never returns: the handler is called again from its start, where ``children_results`` has
        the results. A child that was enqueued before, by its key, is not enqueued again. Raises
        ConfigurationError for children that can't be.
        """
        raise AwaitChildren(check_keys(children))

    def children_results(self) -> Coroutine[Any, Any, dict[str, Any]]:
        """The results of this job's children that have ended, by their keys.

        None stands for a child that failed and, by its ``on_failure``, did not fail this job;
        ``children_failures`` has its reason.
        """
        results = self.ask_reporter("children_results")
        return cast("Coroutine[Any, Any, dict[str, Any]]", results)

    def children_failures(self) -> Coroutine[Any, Any, dict[str, str]]:
        """Why children failed that did not fail this job, by their keys."""
        failures = self.ask_reporter("children_failures")
        return cast("Coroutine[Any, Any, dict[str, str]]", failures)

    def drop_children(self) -> Coroutine[Any, Any, None]:
        """Remove this job's children that have not started, and theirs.

        For a job that goes on without them, after a child with ``on_failure="continue"`` failed: it
        can't complete while it has children that may still run.
        """
        dropped = self.ask_reporter("drop_children")
        return cast("Coroutine[Any, Any, None]", dropped)

    def subprocess(self, *command: str, **options: Any) -> JobSubprocess:
        """A program that ends with this job: for ``async with``, or ``with`` in a plain function.

        Gives an ``asyncio.subprocess.Process`` or a ``subprocess.Popen``; the ``options`` are those
        of ``asyncio.create_subprocess_exec`` and ``subprocess.Popen``. The program has a session
        and a group of its own, so that a Ctrl-C does not reach it. When the block is left, or when
        the job has to end, its group gets SIGTERM; a second later, or when the job has ended,
        SIGKILL. On Linux it also ends when this process is killed.
        """
        if self._subprocesses is None:
            from convolab_worker.handlers.job.subprocesses import Subprocesses

            self._subprocesses = Subprocesses()
        return self._subprocesses.start(command, options)

    def __repr__(self) -> str:
        return f"<Job {self.name} {self.id} on {self.queue}, attempt {self.attempt}>"
