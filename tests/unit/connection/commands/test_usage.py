"""The command counter: counts by purpose, and a day's commands held against a budget."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from convolab_worker.connection.commands.usage import (
    DAY_SECONDS,
    CommandCounter,
    DailyBudget,
    DayReport,
    Purpose,
)

START = 1_700_000_000.0
MINUTE = 60.0
HOUR = 3600.0

PURPOSES = st.sampled_from(Purpose)
COUNTS = st.lists(st.tuples(PURPOSES, st.booleans(), st.integers(1, 100)), max_size=20)


def metered(counts: list[tuple[Purpose, bool, int]]) -> CommandCounter:
    """A counter that has counted those commands, sent or inside scripts."""
    counter = CommandCounter()
    for purpose, inner, commands in counts:
        if inner:
            counter.count_inner(purpose, commands)
        else:
            counter.count(purpose, commands)
    return counter


# counting


def test_a_new_meter_has_counted_nothing() -> None:
    """Before the first command there is nothing to tell."""
    counter = CommandCounter()

    assert (counter.client_sent, counter.billable, counter.snapshot()) == (0, 0, {})


def test_commands_inside_a_script_are_billed_but_not_sent() -> None:
    """A provider counts both, a client sends one."""
    counter = CommandCounter()

    counter.count(Purpose.FETCH)
    counter.count_inner(Purpose.FETCH, 9)
    counter.count(Purpose.LISTEN, 2)

    assert (counter.client_sent, counter.billable) == (3, 12)
    assert counter.snapshot() == {
        "fetch": {"sent": 1, "billable": 10},
        "listen": {"sent": 2, "billable": 2},
    }


@given(COUNTS)
def test_the_purposes_sum_up_to_the_whole(counts: list[tuple[Purpose, bool, int]]) -> None:
    """No command is in the sum that is not under a purpose, or the other way round."""
    counter = metered(counts)

    by_purpose = counter.snapshot().values()

    assert sum(each["sent"] for each in by_purpose) == counter.client_sent
    assert sum(each["billable"] for each in by_purpose) == counter.billable


@given(COUNTS, COUNTS)
def test_meters_of_two_connections_add_up(
    first: list[tuple[Purpose, bool, int]], second: list[tuple[Purpose, bool, int]]
) -> None:
    """Both together count what each of them has counted, and neither changes."""
    one, other = metered(first), metered(second)

    both = one + other

    assert both.snapshot() == metered([*first, *second]).snapshot()
    assert one.snapshot() == metered(first).snapshot()


def test_a_snapshot_is_not_changed_by_later_commands() -> None:
    """What was told once stays as it was."""
    counter = metered([(Purpose.FETCH, False, 1)])
    snapshot = counter.snapshot()

    counter.count(Purpose.FETCH)

    assert snapshot == {"fetch": {"sent": 1, "billable": 1}}


# a day and its budget


def reports(budget: int | None, counts: dict[float, int]) -> dict[float, DayReport]:
    """What a daily_budget that starts with no commands has to say, by the time of each count."""
    daily_budget = DailyBudget(budget, START)
    said = {at: daily_budget.check(START + at, billable) for at, billable in counts.items()}
    return {at: report for at, report in said.items() if report is not None}


def test_a_day_within_its_budget_is_told_once_at_its_end() -> None:
    """One report a day says what was used, and the next day begins at nothing."""
    said = reports(
        100, {HOUR: 4, 12 * HOUR: 48, DAY_SECONDS: 96, 1.5 * DAY_SECONDS: 144, 2 * DAY_SECONDS: 192}
    )

    assert list(said) == [DAY_SECONDS, 2 * DAY_SECONDS]
    assert all(report.used == 96 for report in said.values())
    assert all(not report.is_over for report in said.values())


def test_a_day_without_a_budget_has_no_warning() -> None:
    """There is nothing to be over."""
    said = reports(None, {HOUR: 10**9, DAY_SECONDS: 2 * 10**9})

    assert [report.is_over for report in said.values()] == [False]


def test_a_projection_over_the_budget_is_warned_of_once() -> None:
    """At 100 commands an hour a budget of 1,000 will be passed: said early, and not again."""
    said = reports(1_000, {at * HOUR: round(100 * at) for at in (0.5, 1, 2, 5, 11)})

    assert list(said) == [0.5 * HOUR]
    report = said[0.5 * HOUR]
    assert report.is_over
    assert report.projected == pytest.approx(2_400)
    assert (report.used, report.budget) == (50, 1_000)


def test_nothing_is_projected_from_the_first_minutes() -> None:
    """A worker that connects and looks round sends more than it will all day."""
    assert reports(1_000, {MINUTE: 50, 5 * MINUTE: 60}) == {}


def test_a_budget_that_is_used_up_is_told_at_once() -> None:
    """However short the day has been."""
    said = reports(1_000, {MINUTE: 1_001})

    assert said[MINUTE].is_over


def test_the_next_day_is_warned_of_again() -> None:
    """A day over its budget does not silence the next one."""
    said = reports(
        100, {HOUR: 50, DAY_SECONDS: 1_000, DAY_SECONDS + HOUR: 1_050, 2 * DAY_SECONDS: 2_000}
    )

    assert [report.is_over for report in said.values()] == [True, False, True, False]


def test_a_burst_is_not_projected_over_the_whole_day() -> None:
    """After the hour in which it happened, the pace is that of the last hour again."""
    daily_budget = DailyBudget(None, START)
    for hour, billable in enumerate([0, 10_000, 10_004, 10_008]):
        daily_budget.check(START + hour * HOUR, billable)

    projected = daily_budget.projection(START + 3 * HOUR, 10_008)

    assert projected == pytest.approx(10_008 + 4 * 21)


def test_a_clock_that_is_set_back_begins_a_new_day() -> None:
    """No negative times, and no silence until the clock has caught up."""
    daily_budget = DailyBudget(100, START)

    report = daily_budget.check(START - HOUR, 10)

    assert report == DayReport(used=10, projected=10, budget=100, is_over=False)
    assert daily_budget.projection(START - HOUR, 10) == 0


@given(
    budget=st.integers(1, 10_000),
    steps=st.lists(st.tuples(st.floats(1, DAY_SECONDS / 4), st.integers(0, 2_000)), max_size=40),
)
def test_each_day_is_told_once_and_warned_of_once_at_most(
    budget: int, steps: list[tuple[float, int]]
) -> None:
    """Whatever the pace, the reports of the days sum up, and no day has two warnings."""
    daily_budget, now, billable, told, warnings = DailyBudget(budget, START), START, 0, 0, 0

    for seconds, commands in steps:
        now, billable = now + seconds, billable + commands
        report = daily_budget.check(now, billable)
        if report is None:
            continue
        if report.is_over:
            warnings += 1
            assert max(report.used, report.projected) > budget
        else:
            told += report.used
            warnings = 0

        assert warnings <= 1
        assert told <= billable
