"""A trace goes on from Node's producer, by bullmq-otel, through our worker, to its children."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
import pytest_asyncio
import structlog
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import JobFailed
from tests.support.node import NodeScripts

pytestmark = pytest.mark.asyncio
SOON = 30.0
EXPORTER, READER = InMemorySpanExporter(), InMemoryMetricReader()


@pytest.fixture(scope="module", autouse=True)
def providers() -> Iterator[None]:
    """OpenTelemetry's SDK, as an application sets it up, that keeps everything in memory."""
    tracers, meters = TracerProvider(), MeterProvider([READER])
    tracers.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    yield
    tracers.shutdown()
    meters.shutdown()


@pytest.fixture(autouse=True)
def _nothing_yet() -> None:
    EXPORTER.clear()


@pytest.fixture
def settings(server_url: str) -> Settings:
    """Settings of worker and client, with OpenTelemetry on."""
    prefix = f"otel-{uuid.uuid4().hex[:10]}"
    return Settings(
        redis_url=server_url, prefix=prefix, queues=("work",), worker_name="convolab", otel="on"
    )


@pytest_asyncio.fixture
async def client(settings: Settings) -> AsyncIterator[JobClient]:
    """A client, and a running worker."""
    async with JobClient(settings) as client, Worker(registry(), settings):
        yield client


def registry() -> HandlerRegistry:
    """Handlers that make a span of their own, fail, and have a child."""
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> str:
        with trace.get_tracer("handler").start_as_current_span("synthesise"):
            return job.id

    @handlers.audio("in-a-thread")
    def in_a_thread(job: Job[Any]) -> str:
        with trace.get_tracer("handler").start_as_current_span("synthesise"):
            return job.id

    @handlers.audio("break")
    async def broken(job: Job[Any]) -> None:
        msg = f"no voice for {job.name}"
        raise RuntimeError(msg)

    @handlers.course("course")
    async def course(job: Job[Any]) -> Any:
        done = await job.children_results()
        if not done:
            await job.enqueue_children([Child("work")])
        return done

    return handlers


def spans(name: str) -> list[ReadableSpan]:
    """The finished spans of that name, in the order of their ends."""
    return [span for span in EXPORTER.get_finished_spans() if span.name == name]


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether it is in the trace of ``parent``, right below it."""
    above, context = span.parent, parent.get_span_context()
    return above is not None and context is not None and above.span_id == context.span_id


@pytest.mark.parametrize("name", ["work", "in-a-thread"])
async def test_a_job_of_nodes_goes_on_in_its_producers_trace(
    client: JobClient, settings: Settings, node: NodeScripts, name: str
) -> None:
    """The consumer span's parent is Node's add; the handler's own spans are below it."""
    task = {"redisUrl": settings.redis_url, "prefix": settings.prefix, "name": name}
    added = await node.run("otel_producer.mjs", task)
    await client.result(added["jobId"], timeout=SOON)

    (consumer,), (own,) = spans("process work"), spans("synthesise")
    assert consumer.parent is not None
    assert f"{consumer.parent.trace_id:032x}" == added["traceId"]
    assert f"{consumer.parent.span_id:016x}" == added["spanId"]
    assert is_child(own, consumer)
    assert consumer.kind is trace.SpanKind.CONSUMER
    attributes = consumer.attributes or {}
    assert attributes["bullmq.queue.name"] == "work"
    assert attributes["bullmq.queue.operation"] == "process"
    assert attributes["bullmq.job.name"] == name
    assert attributes["bullmq.job.id"] == added["jobId"]
    assert attributes["bullmq.job.attempts.made"] == 1
    assert attributes["bullmq.worker.name"] == "convolab"
    assert attributes["messaging.system"] == "bullmq"
    assert [event.name for event in consumer.events] == ["job completed"]
    assert consumer.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize(("name", "last"), [("work", "job.completed"), ("break", "job.failed")])
async def test_a_jobs_lines_belong_to_its_span(settings: Settings, name: str, last: str) -> None:
    """The last one, too, which is written when the span has ended."""
    lines: dict[str, trace.SpanContext] = {}

    def note(_: Any, __: str, event: MutableMapping[str, Any]) -> Any:
        lines[event["event"]] = trace.get_current_span().get_span_context()
        raise structlog.DropEvent

    structlog.configure(processors=[note])
    async with JobClient(settings) as client:
        await client.enqueue(name)
    await Worker(registry(), settings).drain()

    (consumer,) = spans("process work")
    assert lines["job.started"] == lines[last] == consumer.get_span_context()
    assert not lines["worker.stopped"].is_valid


async def test_a_failed_job_has_a_failed_span(client: JobClient) -> None:
    """With the reason and the exception; the client's add is its parent."""
    job_id = await client.enqueue("break")
    with pytest.raises(JobFailed):
        await client.result(job_id, timeout=SOON)

    (producer,), (consumer,) = spans("add work.break"), spans("process work")
    assert is_child(consumer, producer)
    assert producer.kind is trace.SpanKind.PRODUCER
    assert consumer.status.status_code is trace.StatusCode.ERROR
    assert consumer.status.description == "no voice for break"
    failed, exception = consumer.events
    assert (failed.attributes or {})["bullmq.job.failed.reason"] == "no voice for break"
    assert (exception.attributes or {})["exception.type"] == "RuntimeError"


async def test_children_go_on_in_their_parents_trace(client: JobClient) -> None:
    """A child's span is below the run that asked for it; both runs are below the add."""
    with trace.get_tracer("api").start_as_current_span("request") as request:
        job_id = await client.enqueue("course")
    await client.result(job_id, timeout=SOON)

    (producer,) = spans("add work.course")
    first, child, second = spans("process work")
    assert producer.parent is not None
    assert producer.parent.span_id == request.get_span_context().span_id
    assert is_child(first, producer)
    assert is_child(child, first)
    assert is_child(second, producer)


async def test_a_context_that_is_no_context_is_no_obstacle(
    client: JobClient, settings: Settings, node: NodeScripts
) -> None:
    """A job whose telemetry metadata is not what bullmq-otel writes is run all the same."""
    base = {"redisUrl": settings.redis_url, "prefix": settings.prefix, "name": "work"}
    for metadata in ("not JSON", "[1]", '{"traceparent": 7}'):
        added = await node.run("otel_producer.mjs", {**base, "metadata": metadata})
        await client.result(added["jobId"], timeout=SOON)

    assert [span.parent for span in spans("process work")] == [None] * 3


async def test_jobs_are_counted_by_bullmqs_names(client: JobClient) -> None:
    """Completed and failed ones, and how long they took, by queue and job name."""
    done, broken = await client.enqueue("work"), await client.enqueue("break", attempts=2)
    await client.result(done, timeout=SOON)
    with pytest.raises(JobFailed):
        await client.result(broken, timeout=SOON)

    counted = points()
    assert counted["bullmq.jobs.completed", "work", "completed"].value >= 1
    assert counted["bullmq.jobs.retried", "break", "retried"].value >= 1
    assert counted["bullmq.jobs.failed", "break", "failed"].value >= 1
    assert counted["bullmq.job.duration", "work", "completed"].count >= 1


def points() -> dict[tuple[str, str, str], Any]:
    """The data points by metric, job name and state."""
    data = READER.get_metrics_data()
    assert data is not None
    return {
        (
            metric.name,
            str((point.attributes or {})["bullmq.job.name"]),
            str((point.attributes or {})["bullmq.job.state"]),
        ): point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
