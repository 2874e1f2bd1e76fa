"""The soak's schedule: random, and the same again from the same seed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from examples.benchmarks.benchkit.report import quantile
from examples.benchmarks.benchkit.schedule import Arrival, schedule

HALF_AN_HOUR = 1800.0
QUEUES = ["a", "b"]


def test_a_seed_gives_the_same_events_again() -> None:
    """Two contenders, or two runs, can be given the same jobs."""
    assert schedule(7, HALF_AN_HOUR, QUEUES) == schedule(7, HALF_AN_HOUR, QUEUES)
    assert schedule(7, HALF_AN_HOUR, QUEUES) != schedule(8, HALF_AN_HOUR, QUEUES)


@given(seed=st.integers(), seconds=st.floats(0, HALF_AN_HOUR))
def test_all_jobs_are_due_within_the_time_and_have_numbers_of_their_own(
    seed: int, seconds: float
) -> None:
    """Whatever the seed, numbers count the jobs, and nothing is due after the end."""
    events = schedule(seed, seconds, QUEUES)

    numbers = [number for event in events for number in event.numbers]
    due = [event.at + delay / 1000 for event in events for delay in event.delays_ms]
    assert numbers == list(range(len(numbers)))
    assert all(0 <= at <= seconds + 0.001 for at in due)
    assert all(event.queue in QUEUES for event in events)


def test_half_an_hour_has_every_kind_of_arrival_and_pauses() -> None:
    """Alone, delayed and in bulk; and gaps in which a wait of 20 s comes to its end."""
    events = schedule(1, HALF_AN_HOUR, QUEUES)

    gaps = [later.at - earlier.at for earlier, later in pairwise(events)]
    assert {event.kind for event in events} == set(Arrival)
    assert sum(gap > 20 for gap in gaps) > 10
    assert any(len(event.delays_ms) > 1 for event in events if event.kind is Arrival.DELAYED)


@pytest.mark.parametrize(
    ("part", "value"), [(0.0, 1.0), (0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (1.0, 4.0)]
)
def test_a_quantile_is_one_of_the_values(part: float, value: float) -> None:
    """The smallest one that enough of them do not exceed."""
    assert quantile([4.0, 1.0, 3.0, 2.0], part) == value
