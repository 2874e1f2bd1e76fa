"""What a worker and a client tell a tracing system: nothing here, OpenTelemetry in ``otel``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from convolab_worker.bullmq.outcome import Outcome
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.settings import Settings


class Tracing(Protocol):
    """Spans around jobs and adds, and counts of jobs."""

    def running(self, job: ActiveJob) -> AbstractContextManager[Callable[[Outcome], None]]:
        """Be in the job's span; what is given hears of the job's outcome."""

    def adding(self, queue: str, name: str) -> AbstractContextManager[dict[str, Any]]:
        """Be in the span of an add; the job options that carry it on."""

    def carried(self) -> dict[str, Any]:
        """The job options that carry the present span on to a child."""

    def ended(self, job: ActiveJob, outcome: Outcome, seconds: float) -> None:
        """Count a job's attempt that took so long."""


class NoTracing:
    """Nobody listens."""

    def running(self, _job: ActiveJob) -> AbstractContextManager[Callable[[Outcome], None]]:
        """Without a span."""
        return _NOBODY

    def adding(self, _queue: str, _name: str) -> AbstractContextManager[dict[str, Any]]:
        """Without a span."""
        return _NOTHING

    def carried(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def ended(self, _job: ActiveJob, _outcome: Outcome, _seconds: float) -> None:
        """Nothing to count."""


_NOBODY: AbstractContextManager[Callable[[Outcome], None]] = nullcontext(lambda _: None)
_NOTHING: AbstractContextManager[dict[str, Any]] = nullcontext({})
NO_TRACING = NoTracing()


def tracing(settings: Settings, worker_name: str = "") -> Tracing:
    """OpenTelemetry if ``settings.otel`` is on. Raises ConfigurationError if it isn't installed."""
    if settings.otel != "on":
        return NO_TRACING
    try:
        from convolab_worker.telemetry.otel import OpenTelemetry
    except ImportError as error:
        msg = f"CONVOLAB_OTEL=on: needs pip install 'convolab_worker[otel]' ({error})"
        raise ConfigurationError(msg) from error
    return OpenTelemetry(worker_name)
