"""Metrics: what a worker did, counted and timed by kind of job, and its commands by the day."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from convolab_worker.connection.usage import CommandCounter, Purpose
from convolab_worker.telemetry.metrics import (
    CommandUsage,
    Histogram,
    Metrics,
    RecentRun,
    RecentRuns,
)

START = 1_800_000_000.0
DAY_SECONDS = 24 * 3600.0


def run(kind: str, outcome: str, duration: float, waited: float = 0.0) -> RecentRun:
    """A run of a job that has ended."""
    return RecentRun(START, "7", "work", "q", kind, 1, outcome, duration, waited)


# histograms


def test_a_histogram_counts_up_to_each_bound() -> None:
    """Each bucket holds how many were at most its bound; negative times count as zero."""
    histogram = Histogram()

    for seconds in (-0.5, 0.005, 0.02, 3600.0):
        histogram.observe(seconds)

    snapshot = histogram.snapshot()
    assert (snapshot["count"], snapshot["max"]) == (4, 3600.0)
    assert snapshot["sum"] == pytest.approx(3600.025)
    assert snapshot["buckets"]["0.005"] == 2
    assert snapshot["buckets"]["0.025"] == 3
    assert snapshot["buckets"]["1800"] == 3
    assert snapshot["buckets"]["+Inf"] == 4


def test_a_histogram_tells_what_a_part_of_its_times_did_not_pass() -> None:
    """The bound of a bucket, or the longest time where that is less."""
    histogram = Histogram()
    empty = histogram.at_most(0.5)

    for seconds in (0.02, 0.02, 0.02, 0.07):
        histogram.observe(seconds)

    assert empty is None
    assert histogram.at_most(0.5) == 0.025
    assert histogram.at_most(0.95) == 0.07


def test_times_beyond_the_last_bound_are_known_by_the_longest() -> None:
    """There is no bound that they did not pass."""
    histogram = Histogram()

    histogram.observe(7200.0)

    assert histogram.at_most(0.5) == 7200.0


# jobs


def test_jobs_are_counted_by_kind_and_outcome() -> None:
    """A snapshot has counts, durations and waits for each kind, ready for JSON."""
    metrics = Metrics()

    metrics.job_ended(run("audio", "completed", 1.0, 0.002))
    metrics.job_ended(run("audio", "failed", 2.0, 0.004))
    metrics.job_ended(run("course", "completed", 60.0))

    snapshot = metrics.snapshot()
    assert snapshot["jobs"] == {"audio": {"completed": 1, "failed": 1}, "course": {"completed": 1}}
    assert snapshot["duration"]["audio"]["sum"] == 3.0
    assert snapshot["waited"]["audio"]["count"] == 2
    assert json.loads(json.dumps(snapshot)) == snapshot


def test_jobs_are_counted_by_outcome_whatever_their_kind() -> None:
    """And remembered as recent runs."""
    metrics = Metrics()

    metrics.job_ended(run("audio", "completed", 1.0))
    metrics.job_ended(run("course", "completed", 60.0))
    metrics.job_ended(run("course", "retried", 5.0))

    assert metrics.outcomes == {"completed": 2, "retried": 1}
    assert (metrics.recent_runs.total, metrics.outcomes["failed"]) == (3, 0)


def test_a_kind_has_what_half_and_nearly_all_of_its_runs_took() -> None:
    """With its outcomes, for the status page."""
    metrics = Metrics()

    for duration in (0.02, 0.02, 0.02, 40.0):
        metrics.job_ended(run("audio", "completed", duration))

    assert metrics.kinds() == {
        "audio": {"outcomes": {"completed": 4}, "median": 0.025, "p95": 40.0}
    }


def test_a_snapshot_is_a_copy() -> None:
    """What happens later does not change a snapshot that was made."""
    metrics = Metrics()
    metrics.job_ended(run("audio", "completed", 1.0))

    snapshot = metrics.snapshot()
    metrics.job_ended(run("audio", "completed", 1.0))

    assert snapshot["jobs"]["audio"]["completed"] == 1
    assert snapshot["duration"]["audio"]["count"] == 1


# commands


def test_the_commands_of_all_connections_are_counted_together() -> None:
    """By purpose, and for the curve of recent runs."""
    counters, recent_runs = (CommandCounter(), CommandCounter()), RecentRuns(START)
    usage = CommandUsage(*counters, budget=None, recent_runs=recent_runs, now=START)

    counters[0].count(Purpose.FETCH, 3)
    counters[1].count(Purpose.LOCK, 2)
    usage.check(START + 60)

    assert (usage.billable, usage.total.billable) == (5, 5)
    assert {*usage.total.snapshot()} >= {Purpose.FETCH, Purpose.LOCK}
    assert recent_runs.curve(START + 60) == [(START, 5)]


def test_a_day_is_told_at_its_end_and_the_next_one_starts_at_none() -> None:
    """The total goes on."""
    counter = CommandCounter()
    usage = CommandUsage(counter, budget=None, recent_runs=RecentRuns(START), now=START)
    counter.count(Purpose.FETCH, 3)

    with capture_logs() as captured:
        usage.check(START + DAY_SECONDS)
        usage.check(START + DAY_SECONDS + 1)
    counter.count(Purpose.LISTEN)

    assert [line["event"] for line in captured] == ["commands.day"]
    assert captured[0]["used"] == 3
    assert (usage.today.billable, usage.total.billable) == (1, 4)


def test_a_day_over_its_budget_is_told_once() -> None:
    """As soon as it is over."""
    counter = CommandCounter()
    usage = CommandUsage(counter, budget=2, recent_runs=RecentRuns(START), now=START)
    counter.count(Purpose.FETCH, 3)

    with capture_logs() as captured:
        usage.check(START + 1)
        usage.check(START + 2)

    assert [(line["event"], line["log_level"]) for line in captured] == [
        ("commands.over_budget", "warning")
    ]
    assert (captured[0]["used"], captured[0]["budget"]) == (3, 2)
