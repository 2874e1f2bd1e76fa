"""The calls by which workers and clients are traced: without effect here, spans in ``otel``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from convolab_worker.bullmq.jobs.outcome import Outcome
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.settings import Settings


class Tracing:
    """Spans around jobs and around adding them, and counts of jobs: here there are none."""

    def running(self, _job: ActiveJob) -> AbstractContextManager[Callable[[Outcome], None]]:
        """Enter the span of a job; call what it gives with the job's outcome."""
        return _NO_SPAN

    def adding(self, _queue: str, _name: str) -> AbstractContextManager[dict[str, Any]]:
        """Enter the span of adding a job; it gives the job options that carry the span on."""
        return _NO_OPTIONS

    def carried(self) -> dict[str, Any]:
        """Return the job options that carry the current span on to a child job."""
        return {}

    def span(self) -> Any:
        """Return what stands for the current span; None if there are no spans."""
        return None

    def resumed(self, _span: Any) -> AbstractContextManager[object]:
        """Make a span that has ended the current one again, so that log lines belong to it."""
        return nullcontext()

    def ended(self, _job: ActiveJob, _outcome: Outcome, _seconds: float) -> None:
        """Count an attempt of a job, which took ``seconds``."""


_NO_SPAN: AbstractContextManager[Callable[[Outcome], None]] = nullcontext(lambda _: None)
_NO_OPTIONS: AbstractContextManager[dict[str, Any]] = nullcontext({})
NO_TRACING = Tracing()


def tracing(settings: Settings, worker_name: str = "") -> Tracing:
    """Return OpenTelemetry's tracing if ``settings.otel`` is on, and none otherwise.

    Raises ConfigurationError if it is on and OpenTelemetry is not installed.
    """
    if settings.otel != "on":
        return NO_TRACING
    try:
        from convolab_worker.telemetry.otel import OpenTelemetry
    except ImportError as error:
        msg = f"CONVOLAB_OTEL=on: needs pip install 'convolab_worker[otel]' ({error})"
        raise ConfigurationError(msg) from error
    return OpenTelemetry(worker_name)
