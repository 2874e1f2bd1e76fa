"""Recent runs: what a worker did lately, and never more than it should remember."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from convolab_worker.telemetry.metrics import RecentRun, RecentRuns

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


def test_commands_are_told_by_the_quarter_in_which_they_were_sent() -> None:
    """Quarters without a command are left out."""
    recent_runs = RecentRuns(START)

    recent_runs.counted(START + 10, 5)
    recent_runs.counted(START + 899, 8)
    recent_runs.counted(START + 2700, 20)

    assert recent_runs.curve(START + 2700) == [(START, 8), (START + 2700, 12)]


def test_the_curve_is_a_day_long() -> None:
    """What was sent more than a day ago is not in the curve."""
    recent_runs = RecentRuns(START)

    for quarter in range(200):
        recent_runs.counted(START + 900 * quarter, quarter + 1)

    curve = recent_runs.curve(START + 900 * 199)
    assert len(curve) == 96
    assert {commands for _, commands in curve} == {1}
    assert curve[0][0] == START + 900 * 104


@given(st.lists(st.tuples(st.floats(0, 90_000), st.integers(0, 50)), max_size=300))
def test_no_command_of_the_last_day_is_missing_from_the_curve(
    steps: list[tuple[float, int]],
) -> None:
    """The curve adds up to all that was sent, whenever it was counted."""
    recent_runs, now, total = RecentRuns(START), START, 0

    for at, more in sorted(steps):
        now, total = START + min(at, 85_000), total + more
        recent_runs.counted(now, total)

    assert sum(commands for _, commands in recent_runs.curve(now)) == total
