"""OpenTelemetry: spans and metrics of jobs, and the span's context in BullMQ's job options.

Names and attributes are those of BullMQ's own telemetry, which npm's ``bullmq-otel`` exports, and
OpenTelemetry's attributes for messaging as well. Only OpenTelemetry's API is used: the application
sets up what exports the spans and metrics. Imported only if ``CONVOLAB_OTEL`` is on.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from convolab_worker.bullmq.jobs.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Outcome,
    Postponed,
)
from convolab_worker.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from convolab_worker.bullmq.protocol.records import ActiveJob

_LIBRARY = "convolab_worker"
# BullMQ's counters by an attempt's outcome. Jobs that were lost or returned have no counter.
_COUNTERS = {
    "completed": "bullmq.jobs.completed",
    "failed": "bullmq.jobs.failed",
    "delayed": "bullmq.jobs.delayed",
    "retried": "bullmq.jobs.retried",
    "waiting-children": "bullmq.jobs.waiting_children",
}


class OpenTelemetry(Tracing):
    """Spans and metrics of jobs, made with OpenTelemetry's global providers."""

    def __init__(self, worker_name: str) -> None:
        self._worker_name = worker_name
        self._tracer = trace.get_tracer(_LIBRARY)
        meter = metrics.get_meter(_LIBRARY)
        self._counters = {
            state: meter.create_counter(name, unit="1", description=f"Number of jobs {state}")
            for state, name in _COUNTERS.items()
        }
        self._duration = meter.create_histogram(
            "bullmq.job.duration", unit="ms", description="Job processing duration"
        )

    @contextmanager
    def running(self, job: ActiveJob) -> Iterator[Callable[[Outcome], None]]:
        """Enter the job's span, a child of the span in which the producer added the job."""
        attributes: dict[str, str | int] = {
            **_attributes(job.queue, job.name, "process"),
            "bullmq.job.id": job.id,
            "bullmq.worker.name": self._worker_name,
            "bullmq.job.processed.timestamp": job.processed_on,
            "messaging.message.id": job.id,
        }
        with self._tracer.start_as_current_span(
            f"process {job.queue}",
            context=_producer_context(job),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
        ) as span:
            yield lambda outcome: _record(span, job, outcome)

    @contextmanager
    def adding(self, queue: str, name: str) -> Iterator[dict[str, Any]]:
        """Enter the span of adding a job, and give the job options that carry it on."""
        with self._tracer.start_as_current_span(
            f"add {queue}.{name}",
            kind=SpanKind.PRODUCER,
            attributes=_attributes(queue, name, "add"),
        ):
            yield self.carried()

    def carried(self) -> dict[str, Any]:
        """Return the job option in which BullMQ carries the current span."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return {"tm": json.dumps(carrier, separators=(",", ":"))} if carrier else {}

    def span(self) -> Context:
        """Return the current context, with its span and its baggage."""
        return context.get_current()

    @contextmanager
    def resumed(self, span: Context) -> Iterator[None]:
        """Make a context the current one, without beginning or ending a span."""
        token = context.attach(span)
        try:
            yield
        finally:
            context.detach(token)

    def ended(self, job: ActiveJob, outcome: Outcome, seconds: float) -> None:
        """Count an attempt of a job, which took ``seconds``."""
        state = _state(outcome)
        if state is None:
            return
        attributes = {
            "bullmq.queue.name": job.queue,
            "bullmq.job.name": job.name,
            "bullmq.job.state": state,
        }
        self._counters[state].add(1, attributes)
        self._duration.record(seconds * 1000, attributes)


def _attributes(queue: str, name: str, operation: str) -> dict[str, str]:
    return {
        "bullmq.queue.name": queue,
        "bullmq.queue.operation": operation,
        "bullmq.job.name": name,
        "messaging.system": "bullmq",
        "messaging.destination.name": queue,
        "messaging.operation.name": operation,
        "messaging.operation.type": "process" if operation == "process" else "send",
    }


def _producer_context(job: ActiveJob) -> Context:
    """Return the context that the job's options carry, or the current one if they carry none."""
    carrier: object = None
    with suppress(TypeError, ValueError):
        carrier = json.loads(job.opts.get("tm") or "null")
    if not isinstance(carrier, dict):
        return context.get_current()
    return propagate.extract({key: text for key, text in carrier.items() if isinstance(text, str)})


def _record(span: Span, job: ActiveJob, outcome: Outcome) -> None:
    span.set_attribute("bullmq.job.attempt_finished_timestamp", int(time.time() * 1000))
    if isinstance(outcome, Completed):
        span.set_attribute("bullmq.job.attempts.made", job.attempt)
        span.add_event("job completed")
    elif isinstance(outcome, Failed):
        span.set_attribute("bullmq.job.attempts.made", job.attempt)
        span.add_event("job failed", {"bullmq.job.failed.reason": outcome.reason})
        if outcome.error is not None:
            span.record_exception(outcome.error)
        span.set_status(Status(StatusCode.ERROR, outcome.reason))


def _state(outcome: Outcome) -> str | None:
    """Return BullMQ's name for an attempt's outcome; None for one that BullMQ does not count."""
    if isinstance(outcome, Failed):
        if outcome.retry_in is None:
            return "failed"
        return "delayed" if outcome.retry_in > 0 else "retried"
    if isinstance(outcome, Postponed):
        return "delayed"
    if isinstance(outcome, AwaitsChildren):
        return "waiting-children"
    return "completed" if isinstance(outcome, Completed) else None
