"""Job[T]: what a handler sees of the job it runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, cast

from convolab_worker._logs import bound_logger
from convolab_worker.bullmq.flows import Child, check_keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Iterable

    import structlog

    # Type checkers know it without its being installed; here R has no default before Python 3.13.
    from typing_extensions import TypeVar as TypeVarWithDefault

    from convolab_worker.bullmq.protocol.records import ActiveJob

    R = TypeVarWithDefault("R", default=Any)
else:
    R = TypeVar("R")

T = TypeVar("T")


class JobReporter(Protocol):
    """What a job reports to, and asks about its children; ``newest`` is its progress as JSON."""

    newest: str | None

    def progress(self, value: Any) -> None:
        """Take the newest progress; may be called from any thread."""

    def log(self, row: str) -> None:
        """Take a row for the job's log in Redis; may be called from any thread."""

    def children_results(self) -> Awaitable[dict[str, Any]]:
        """Fetch the results of the job's children."""

    def children_failures(self) -> Awaitable[dict[str, str]]:
        """Fetch the reasons of children that failed without failing the job."""

    def drop_children(self) -> Awaitable[None]:
        """Remove the job's children that have not started."""

    async def finish(self) -> None:
        """Write what is unwritten, before the job's outcome is written, and nothing after it."""

    def close(self) -> None:
        """Write nothing more: another worker has the job."""


class AwaitChildren(BaseException):
    """Ends a handler that waits for its children; no ``except Exception`` may catch it."""

    def __init__(self, children: tuple[Child, ...]) -> None:
        super().__init__("the handler waits for its children")
        self.children = children


class _Done:
    """An awaitable that is done: what is awaited has happened already."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


_DONE = _Done()


class Job(Generic[T, R]):
    """One attempt at a job: ``Job[T]``, or ``Job[T, R]`` where ``resources`` are to be typed too.

    ``data`` has been validated against ``T``; ``resources`` is what the registry's lifespan gave,
    None without one; ``attempt`` counts from 1 to ``max_attempts``.
    ``cancelled`` is set on a time-out, a shutdown or a lost lock: a handler in the loop is
    cancelled at the same moment, one in a thread has to look at ``cancelled.is_set()``.
    """

    __slots__ = (
        "_log", "_reporter", "attempt", "cancelled", "data", "id", "kind", "max_attempts", "name",
        "queue", "resources",
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
        self.resources: R = cast("R", resources)  # R is whatever the lifespan gives
        self.attempt: int = active_job.attempt
        self.max_attempts: int = active_job.max_attempts
        self.cancelled = asyncio.Event()
        self._reporter = reporter
        self._log: structlog.typing.FilteringBoundLogger | None = None

    @property
    def log(self) -> structlog.typing.FilteringBoundLogger:
        """A structlog logger that names the job; its lines are kept with the job in Redis too."""
        if self._log is None:
            self._log = _job_logger(self)
        return self._log

    def progress(self, value: Any) -> Awaitable[None]:
        """Report progress: a number, or any JSON that Node's QueueEvents are to get.

        The newest value is written at most once a second, the last one always. Works from a
        thread too, without ``await``. Raises InvalidResult if the value is not JSON.
        """
        self._reporter.progress(value)
        return _DONE

    async def enqueue_children(self, children: Iterable[Child]) -> NoReturn:
        """Enqueue parts of this job, give the slot back, and be run again when they are done.

        Never returns: the handler is called again from its start, where ``children_results`` has
        the results. A child that was enqueued before, by its key, is not enqueued again. Raises
        ConfigurationError for children that can't be.
        """
        raise AwaitChildren(check_keys(children))

    async def children_results(self) -> dict[str, Any]:
        """The results of this job's children that have ended, by their keys.

        None stands for a child that failed and, by its ``on_failure``, did not fail this job;
        ``children_failures`` has its reason.
        """
        return await self._reporter.children_results()

    async def children_failures(self) -> dict[str, str]:
        """Why children failed that did not fail this job, by their keys."""
        return await self._reporter.children_failures()

    async def drop_children(self) -> None:
        """Remove this job's children that have not started, and theirs.

        For a job that goes on without them, after a child with ``on_failure="continue"`` failed: it
        can't complete while it has children that may still run.
        """
        await self._reporter.drop_children()

    def __repr__(self) -> str:
        return f"<Job {self.name} {self.id} on {self.queue}, attempt {self.attempt}>"


def _job_logger(job: Job[Any]) -> structlog.typing.FilteringBoundLogger:
    """The configured structlog, with one processor before its own that keeps the row.

    A line that it can't write fails no job.
    """

    def keep(_: Any, level: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        job._reporter.log(_row(level, event))  # noqa: SLF001
        return event

    names = {
        "job_id": job.id, "job_name": job.name, "queue": job.queue, "kind": job.kind,
        "attempt": job.attempt,
    }  # fmt: skip
    return bound_logger("convolab_worker.handlers.job", keep, names)


_BOUND = frozenset(
    {"job_id", "job_name", "queue", "kind", "attempt", "event", "exc_info", "exception"}
)


def _row(level: str, event: structlog.typing.EventDict) -> str:
    """A log row as BullMQ's dashboards show it: level, event, and the keys that the line added."""
    parts = [f"[{level}] {event.get('event', '')}"]
    parts += [f"{key}={value!r}" for key, value in event.items() if key not in _BOUND]
    return " ".join(parts)
