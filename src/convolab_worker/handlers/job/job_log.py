"""The logger of a job: its lines go to the configured structlog, and are kept with the job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker._logs import NAMES, bound_logger, named

if TYPE_CHECKING:
    import structlog

    from convolab_worker.handlers.job.job import Job
    from convolab_worker.handlers.job.reporter import JobReporter


def job_logger(job: Job[Any], reporter: JobReporter) -> structlog.typing.FilteringBoundLogger:
    """The configured structlog, with one processor before its own that keeps the row.

    A line that it can't write does not fail the job.
    """

    def keep(_: Any, level: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        reporter.log(_row(level, event))
        return event

    names = named((job.id, job.name, job.queue, job.kind, job.attempt))
    return bound_logger("convolab_worker.handlers.job", keep, names)


_BOUND = frozenset({*NAMES, "event", "exc_info", "exception"})


def _row(level: str, event: structlog.typing.EventDict) -> str:
    """A log row as BullMQ's dashboards show it: level, event, and the keys that the line added."""
    parts = [f"[{level}] {event.get('event', '')}"]
    parts += [f"{key}={value!r}" for key, value in event.items() if key not in _BOUND]
    return " ".join(parts)
