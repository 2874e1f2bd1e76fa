"""A day made from minutes: rates, waits, and the curves of the picture."""

from __future__ import annotations

import pytest

from convolab_worker.worker.dispatch.idle_backoff import Bounds
from examples.benchmarks.benchkit.day import (
    DAY_SECONDS,
    from_rate,
    ramp,
    rest_of_day,
    staircase,
    steady_day,
    waits_of,
)

_BOUNDS = Bounds(shortest=5.0, longest=1800.0)


def test_a_rate_is_carried_on_over_the_day() -> None:
    """110 commands in a minute are 158,400 in a day."""
    assert from_rate(110, 60.0) == pytest.approx(158_400)


def test_a_scaled_minute_that_is_a_day_counts_as_it_is() -> None:
    """Where a minute stands for a day, what was counted is the day's number."""
    assert from_rate(96, 60.0, scale=DAY_SECONDS / 60) == pytest.approx(96)


def test_waits_are_counted_from_block_to_block() -> None:
    """Commands before the first block and from the last one on are in no whole wait."""
    waits = waits_of(
        blocks=[1.0, 6.0, 26.0],
        client_sent=[0.5, 1.0, 5.9, 6.0, 25.9, 26.0],
        billable=[0.5, 0.6, 1.0, 5.9, 5.95, 6.0, 25.9, 26.0],
    )

    assert waits is not None
    assert waits.whole == 2
    assert waits.client_sent == pytest.approx(2.0)
    assert waits.billable == pytest.approx(2.5)
    assert (waits.first_block, waits.last_block) == (1.0, 26.0)


@pytest.mark.parametrize("blocks", [[], [3.0]])
def test_no_whole_wait_gives_no_cost_of_one(blocks: list[float]) -> None:
    """A window with less than two blocks saw no wait from start to end."""
    assert waits_of(blocks, client_sent=[3.0], billable=[3.0]) is None


def test_a_steady_day_has_a_wait_every_half_hour() -> None:
    """48 waits of 30 minutes, two commands each."""
    assert steady_day(2.0, bounds=_BOUNDS) == pytest.approx(96)


def test_the_rest_of_the_day_ends_waits_that_grow_to_the_longest() -> None:
    """From the last measured wait on, each is longer, then all are the longest."""
    ends = rest_of_day(105.0, 80.0, bounds=_BOUNDS)

    lengths = [after - before for before, after in zip([105.0, *ends], ends, strict=False)]
    assert lengths == sorted(lengths)
    assert lengths[0] > 80.0
    assert lengths[-1] == _BOUNDS.longest
    assert DAY_SECONDS - _BOUNDS.longest <= ends[-1] < DAY_SECONDS


def test_a_staircase_rises_by_each_size_and_stays_to_the_days_end() -> None:
    """Each moment is a step of the size given for it, one by default."""
    assert staircase([1.0, 2.0]) == [(1.0, 0), (1.0, 1), (2.0, 1), (2.0, 2), (DAY_SECONDS, 2)]
    assert staircase([1.0], [2.5])[-1] == (DAY_SECONDS, 2.5)


def test_a_ramp_reaches_the_days_number_at_its_end() -> None:
    """A constant rate is drawn by the minute, so that a logarithmic scale shows it truly."""
    points = ramp(1440.0)

    assert points[0] == (60.0, 1.0)
    assert points[-1] == (DAY_SECONDS, 1440.0)
