"""Metrics: what a worker did, counted and timed by kind of job, and its commands by the day."""

from __future__ import annotations

import json
import sys
import threading

import pytest
from hypothesis import given, strategies as st
from structlog.testing import capture_logs

from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.telemetry.metrics import (
    CommandUsage,
    Histogram,
    Metrics,
)
from convolab_worker.telemetry.recent_runs import RecentRun

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


def test_any_thread_may_ask_while_jobs_end() -> None:
    """Whoever asks counts what is not counted yet: no run is lost or counted twice."""
    metrics, over = Metrics(), threading.Event()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            while not over.is_set():
                metrics.outcomes  # noqa: B018 - asking is what is tried
        except Exception as error:  # noqa: BLE001 - the test fails with it
            errors.append(error)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for asker in askers:
        asker.start()
    try:
        for number in range(2000):  # each is the first of its kind
            metrics.job_ended(run(f"kind {number}", f"outcome {number % 5}", 1.0))
    finally:
        sys.setswitchinterval(usual)
        over.set()
    for asker in askers:
        asker.join()

    assert errors == []
    assert metrics.outcomes == {f"outcome {number}": 400 for number in range(5)}
    assert metrics.recent_runs.total == 2000


def test_a_kind_has_what_half_and_nearly_all_of_its_runs_took() -> None:
    """With its outcomes, for the status page."""
    metrics = Metrics()

    for duration in (0.02, 0.02, 0.02, 40.0):
        metrics.job_ended(run("audio", "completed", duration, 0.5))

    assert metrics.kinds() == {
        "audio": {
            "outcomes": {"completed": 4},
            "took": {"median": 0.025, "p95": 40.0, "p99": 40.0, "max": 40.0},
            "waited": {"median": 0.5, "p95": 0.5, "p99": 0.5, "max": 0.5},
        }
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


class Spent:
    """Usage whose commands are counted and looked at as a worker does it."""

    def __init__(self) -> None:
        self.counter = CommandCounter()
        self.usage = CommandUsage(self.counter, budget=None, now=START)

    def fetch(self, at: float, commands: int) -> None:
        self.usage.check(at)
        self.counter.count(Purpose.FETCH, commands)


def test_commands_are_told_by_the_quarter_in_which_they_were_sent() -> None:
    """Quarters without a command are left out."""
    spent = Spent()

    spent.fetch(START + 10, 5)
    spent.fetch(START + 899, 3)
    spent.fetch(START + 2700, 12)

    assert spent.usage.curve(START + 2700) == [(START, {"fetch": 8}), (START + 2700, {"fetch": 12})]


def test_the_curve_is_a_day_long() -> None:
    """What was sent more than a day ago is not in the curve."""
    spent = Spent()

    for quarter in range(200):
        spent.fetch(START + 900 * quarter, 1)

    curve = spent.usage.curve(START + 900 * 199)
    assert len(curve) == 96
    assert curve[0] == (START + 900 * 104, {"fetch": 1})


@given(st.lists(st.tuples(st.floats(0, 90_000), st.integers(0, 50)), max_size=300))
def test_no_command_of_the_last_day_is_missing_from_the_curve(
    steps: list[tuple[float, int]],
) -> None:
    """The curve adds up to all that was sent, whenever it was counted."""
    spent, now = Spent(), START

    for at, more in sorted(steps):
        now = START + min(at, 85_000)
        spent.fetch(now, more)

    told = sum(commands["fetch"] for _, commands in spent.usage.curve(now))
    assert told == spent.counter.billable


def test_the_commands_of_all_connections_are_counted_together() -> None:
    """By purpose, and for the curve."""
    counters = (CommandCounter(), CommandCounter())
    usage = CommandUsage(*counters, budget=None, now=START)

    counters[0].count(Purpose.FETCH, 3)
    counters[1].count(Purpose.LOCK, 2)
    usage.check(START + 60)

    assert (usage.billable, usage.total.billable) == (5, 5)
    assert {*usage.total.snapshot()} >= {Purpose.FETCH, Purpose.LOCK}
    assert usage.curve(START + 60) == [(START, {"fetch": 3, "lock": 2})]


def test_a_day_is_told_at_its_end_and_the_next_one_starts_at_none() -> None:
    """The total goes on."""
    counter = CommandCounter()
    usage = CommandUsage(counter, budget=None, now=START)
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
    usage = CommandUsage(counter, budget=2, now=START)
    counter.count(Purpose.FETCH, 3)

    with capture_logs() as captured:
        usage.check(START + 1)
        usage.check(START + 2)

    assert [(line["event"], line["log_level"]) for line in captured] == [
        ("commands.over_budget", "warning")
    ]
    assert (captured[0]["used"], captured[0]["budget"]) == (3, 2)
