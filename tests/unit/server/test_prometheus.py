"""The metrics text, read by Prometheus's own parser."""

from __future__ import annotations

from collections import Counter
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.server.gate.traffic import Traffic
from convolab_worker.server.prometheus import metrics_text
from convolab_worker.telemetry.metrics import BUCKETS, Metrics
from convolab_worker.telemetry.recent_runs import RecentRun

TRAFFIC = Traffic(
    answers=Counter({("wake", 202): 4}), dropped=Counter(crowded=3), connections=2, limit=96
)


def run(kind: str, outcome: str, duration: float, waited: float) -> RecentRun:
    """A run of a job that has ended."""
    return RecentRun(0.0, "7", "work", "q", kind, 1, outcome, duration, waited)


def stats() -> dict[str, Any]:
    """What a worker tells that has run three jobs, one kind of them oddly named."""
    metrics, counter = Metrics(), CommandCounter()
    metrics.job_ended(run("audio", "completed", 0.2, 0.004))
    metrics.job_ended(run("audio", "failed", 40.0, 1.0))
    metrics.job_ended(run('odd "kind"\\\n', "completed", 9_999.0, 0.0))
    counter.count(Purpose.FETCH, 3)
    counter.count_inner(Purpose.FETCH, 27)
    counter.count(Purpose.LISTEN)
    return {
        "state": "running",
        "phase": "suspended",
        "held": 2,
        "drains": 5,
        "queues": ["jobs"],
        "stopped": {"jobs": "paused"},
        "unreachable": [("draw", "image")],
        "connected": True,
        "running": 1,
        "free": 7,
        "parked": 3,
        "idle": {"wait": 40.5, "until": None},
        "commands": {
            "projected_day": 1234,
            "budget": 10_000,
            "by_purpose": counter.snapshot(),
        },
        "telemetry": metrics.snapshot(),
    }


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels."""
    return {
        (
            sample.name.removeprefix("convolab_worker_"),
            frozenset(sample.labels.items()),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """How ``samples`` names one."""
    return name, frozenset(labels.items())


def test_the_counts_are_those_of_the_worker() -> None:
    """Jobs by kind and outcome, slots, commands, budget, phase, answers."""
    found = samples(metrics_text(stats(), TRAFFIC))

    assert found[key("jobs_total", kind="audio", outcome="completed")] == 1
    assert found[key("jobs_total", kind='odd "kind"\\\n', outcome="completed")] == 1
    assert found[key("queue_served", queue="jobs")] == 1
    assert found[key("queue_stopped", queue="jobs", why="paused")] == 1
    assert found[key("handler_unreachable", job_name="draw", queue="image")] == 1
    assert found[key("slots", state="running")] == 1
    assert found[key("slots", state="free")] == 7
    assert found[key("parked_jobs")] == 3
    assert found[key("idle_wait_seconds")] == 40.5
    assert found[key("commands_sent_total", purpose="fetch")] == 3
    assert found[key("commands_billable_total", purpose="fetch")] == 30
    assert found[key("commands_projected_day")] == 1234
    assert found[key("command_budget")] == 10_000
    assert found[key("phase", phase="suspended")] == 1
    assert found[key("phase", phase="asleep")] == 0
    assert found[key("held_requests")] == 2
    assert found[key("drains_total")] == 5
    assert found[key("connected")] == 1
    assert found[key("up")] == 1
    assert found[key("http_requests_total", route="wake", status="202")] == 4
    assert found[key("http_connections_dropped_total", reason="crowded")] == 3
    assert (found[key("http_connections")], found[key("http_connections_limit")]) == (2, 96)


def test_the_histograms_are_cumulative_and_complete() -> None:
    """Every bucket, the last one equal to the count, and the sum in seconds."""
    found = samples(metrics_text(stats(), Traffic()))
    buckets = [
        found[key("job_duration_seconds_bucket", kind="audio", le=f"{bound:g}")]
        for bound in BUCKETS
    ]

    assert buckets == sorted(buckets)
    assert found[key("job_duration_seconds_bucket", kind="audio", le="0.25")] == 1
    assert found[key("job_duration_seconds_bucket", kind="audio", le="+Inf")] == 2
    assert found[key("job_duration_seconds_count", kind="audio")] == 2
    assert found[key("job_duration_seconds_sum", kind="audio")] == 40.2
    assert found[key("job_wait_seconds_bucket", kind="audio", le="0.005")] == 1


def test_every_metric_has_its_type_and_help_and_a_name_as_prometheus_wants_it() -> None:
    """Counters end in _total, no sample stands without HELP and TYPE, no line is repeated."""
    text = metrics_text(stats(), TRAFFIC)
    families = list(text_string_to_metric_families(text))

    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}
        assert family.name.startswith("convolab_worker_")
        if family.type == "counter":
            assert f"# TYPE {family.name}_total counter" in text


def test_a_worker_that_has_not_begun_has_metrics_too() -> None:
    """Only that it is not up, before the loop has made its parts."""
    assert samples(metrics_text({"state": "new"}, Traffic())) == {key("up"): 0}
