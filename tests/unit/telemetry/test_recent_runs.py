"""Recent runs: what a worker did lately, and never more than it should remember."""

from __future__ import annotations

import pytest

from convolab_worker.telemetry.recent_runs import RecentRun, RecentRuns

START = 1_800_000_000.0  # the beginning of a quarter of an hour


def run(at: float, **changes: object) -> RecentRun:
    """A run of a job that ended then."""
    fields: dict[str, object] = {
        "at": at,
        "id": "1",
        "name": "generate-audio",
        "queue": "audio",
        "kind": "audio",
        "attempt": 1,
        "outcome": "completed",
        "duration": 0.5,
        "waited": 0.1,
    }
    return RecentRun(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_newest_run_comes_first() -> None:
    """What ended last is the first that is shown, with its reason."""
    recent_runs = RecentRuns(START)

    recent_runs.ended(run(START + 1, id="first"))
    recent_runs.ended(run(START + 2, id="second", outcome="failed", reason="no voice"))

    assert [run["id"] for run in recent_runs.recent()] == ["second", "first"]
    assert recent_runs.recent()[0]["reason"] == "no voice"


def test_a_hundred_runs_are_kept() -> None:
    """Of more runs than a hundred the oldest are forgotten."""
    recent_runs = RecentRuns(START)

    for number in range(250):
        recent_runs.ended(run(START + number, id=str(number)))

    assert [run["id"] for run in recent_runs.recent()] == [str(n) for n in range(249, 149, -1)]


def test_a_rate_is_that_of_the_last_five_minutes() -> None:
    """What ended earlier than five minutes ago is not in a rate."""
    recent_runs = RecentRuns(START)
    now = START + 3600 + 59.9

    for second in range(0, 3600, 10):
        recent_runs.ended(run(START + second))
    for second in range(0, 60, 2):
        recent_runs.ended(run(START + 3600 + second, kind="image"))

    rates = recent_runs.rates(now)
    assert rates["audio"] == pytest.approx(24 / 5, rel=0.01)
    assert rates["image"] == pytest.approx(30 / 5, rel=0.01)


def test_a_worker_that_has_just_started_is_not_rated_over_five_minutes() -> None:
    """A young worker is rated over the minutes that it has lived."""
    recent_runs = RecentRuns(START + 30)

    for second in range(12):
        recent_runs.ended(run(START + 30 + second))

    assert recent_runs.rates(START + 150) == {"audio": 6.0}


def test_a_kind_without_jobs_lately_has_no_rate() -> None:
    """A kind whose jobs ended long ago is not rated."""
    recent_runs = RecentRuns(START)

    recent_runs.ended(run(START))

    assert recent_runs.rates(START + 600) == {}


def test_what_ended_is_told_by_the_minute_and_by_the_quarter_of_an_hour() -> None:
    recent_runs = RecentRuns(START)

    recent_runs.ended(run(START + 1))
    recent_runs.ended(run(START + 2, outcome="failed", reason="no voice"))
    recent_runs.ended(run(START + 61, kind="image"))

    assert recent_runs.history(START + 70) == {
        "minutes": [
            (START, {"audio": {"completed": 1, "failed": 1}}),
            (START + 60, {"image": {"completed": 1}}),
        ],
        "quarters": [(START, {"audio": {"completed": 1, "failed": 1}, "image": {"completed": 1}})],
    }
    assert recent_runs.history(START + 86_400)["quarters"] == []


def test_a_week_of_jobs_takes_no_more_memory_than_a_day() -> None:
    """The history is bounded while time goes on, and when a clock is set back."""
    recent_runs = RecentRuns(START)

    for minute in range(7 * 24 * 60):
        recent_runs.ended(run(START + 60 * minute, reason=f"fault {'x' * (minute % 99)}"))
    for minute in range(200):
        recent_runs.ended(run(START - 60 * minute))

    history = recent_runs.history(START + 60 * (7 * 24 * 60 - 1))
    assert len(history["minutes"]) <= 60
    assert len(history["quarters"]) <= 96
    assert len(recent_runs.reasons()) == 50


def test_failures_are_grouped_by_what_their_reasons_have_in_common() -> None:
    """Numbers and quoted text make no difference; the newest one is told, and comes first."""
    recent_runs = RecentRuns(START)

    for number in range(3):
        reason = f"no voice for chapter {number}"
        outcome = "failed" if number == 2 else "retried"
        recent_runs.ended(run(START + number, id=str(number), outcome=outcome, reason=reason))
    recent_runs.ended(run(START + 3, id="3", outcome="failed", reason="quota"))

    newest, voices = recent_runs.reasons()
    assert (newest["reason"], newest["count"]) == ("quota", 1)
    assert (voices["reason"], voices["id"]) == ("no voice for chapter 2", "2")
    assert (voices["count"], voices["final"], recent_runs.failed) == (3, 1, 4)
