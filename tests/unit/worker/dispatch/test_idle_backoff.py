"""Idle waits: how they grow, and what cuts them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from convolab_worker.settings import Settings
from convolab_worker.worker.dispatch.idle_backoff import (
    GROWTH,
    JITTER,
    Bounds,
    cut,
    next_wait,
    revalidation,
)

DAY_SECONDS = 24 * 3600
MEAN = 0.5

CHANCE = st.floats(0, 1)
BOUNDS = st.tuples(st.floats(0.001, 3600), st.floats(1, 1000)).map(
    lambda pair: Bounds(shortest=pair[0], longest=pair[0] * pair[1])
)


def default_bounds() -> Bounds:
    """The bounds of a worker without settings."""
    settings = Settings()
    return Bounds(shortest=settings.idle_min, longest=settings.idle_max)


def waits_until(longest: float, bounds: Bounds, chance: Callable[[], float]) -> list[float]:
    """The waits after work was seen, up to the first that is ``longest``."""
    waits = [next_wait(None, bounds=bounds, random=chance())]
    while waits[-1] < longest:
        waits.append(next_wait(waits[-1], bounds=bounds, random=chance()))
    return waits


# the wait


@given(bounds=BOUNDS, chances=st.lists(CHANCE, min_size=1, max_size=30))
def test_waits_only_grow_while_nothing_happens(bounds: Bounds, chances: list[float]) -> None:
    """Each wait is at least as long as the one before, whatever the jitter."""
    waits = [next_wait(None, bounds=bounds, random=MEAN)]

    for chance in chances:
        waits.append(next_wait(waits[-1], bounds=bounds, random=chance))

    assert waits == sorted(waits)


@given(bounds=BOUNDS, previous=st.none() | st.floats(0, 1e9), chance=CHANCE)
def test_no_wait_passes_the_bounds(bounds: Bounds, previous: float | None, chance: float) -> None:
    """Whatever came before, a wait is between the shortest and the longest."""
    wait = next_wait(previous, bounds=bounds, random=chance)

    assert bounds.shortest <= wait <= bounds.longest


@given(bounds=BOUNDS, chance=CHANCE)
def test_work_brings_the_wait_back_to_the_start(bounds: Bounds, chance: float) -> None:
    """After work was seen, the wait is the shortest, at once and without jitter."""
    assert next_wait(None, bounds=bounds, random=chance) == bounds.shortest


@given(previous=st.floats(1, 100), chance=CHANCE)
def test_jitter_stays_within_its_part(previous: float, chance: float) -> None:
    """Where no bound is near, growth is drawn from its mean plus or minus its jitter."""
    bounds = Bounds(shortest=0.001, longest=1e9)

    growth = next_wait(previous, bounds=bounds, random=chance) / previous

    least, most = GROWTH * (1 - JITTER), GROWTH * (1 + JITTER)
    assert least == pytest.approx(growth) or least < growth
    assert most == pytest.approx(growth) or growth < most


def test_two_workers_do_not_march_in_step() -> None:
    """The same wait grows to another length in another worker."""
    bounds = default_bounds()

    lengths = {next_wait(10.0, bounds=bounds, random=chance) for chance in (0.1, 0.5, 0.9)}

    assert len(lengths) == 3


@given(bounds=BOUNDS, chance=CHANCE)
def test_the_longest_wait_has_no_jitter(bounds: Bounds, chance: float) -> None:
    """A day in steady idle has no more waits than it must."""
    assert next_wait(bounds.longest, bounds=bounds, random=chance) == bounds.longest


def test_an_idle_day_at_the_defaults_has_48_waits() -> None:
    """In steady idle, a wait is half an hour: 48 waits, so 96 commands, a day."""
    bounds = default_bounds()
    wait = waits_until(bounds.longest, bounds, lambda: MEAN)[-1]

    waits_a_day = DAY_SECONDS / next_wait(wait, bounds=bounds, random=MEAN)

    assert waits_a_day == 48


@given(chances=st.lists(CHANCE, min_size=8, max_size=8))
def test_the_longest_wait_is_reached_in_a_few_steps(chances: list[float]) -> None:
    """A worker that has just worked is in steady idle after four waits or five, not dozens."""
    bounds = default_bounds()
    chance = itertools.cycle(chances)

    waits = waits_until(bounds.longest, bounds, lambda: next(chance))

    assert 4 <= len(waits) <= 5


# what cuts it


@given(wait=st.floats(0.001, 1e6), until_due=st.floats(-1e9, 1e9))
def test_no_block_passes_a_due_time(wait: float, until_due: float) -> None:
    """A block ends when something is due, and never later than the wait."""
    seconds = cut(wait, until_due=until_due)

    assert seconds <= wait
    assert seconds <= max(until_due, 0.001)


@given(wait=st.floats(0.001, 1e6), until_due=st.none() | st.floats(allow_nan=False))
def test_no_block_is_for_ever(wait: float, until_due: float | None) -> None:
    """Redis blocks for ever where it is asked for 0, and is asked in milliseconds."""
    assert float(f"{cut(wait, until_due=until_due):.3f}") > 0


@pytest.mark.parametrize("until_due", [None, float("inf"), 60.001])
def test_a_wait_that_nothing_interrupts_is_whole(until_due: float | None) -> None:
    """Without a due time before its end, a block is exactly the wait: a sweep follows it."""
    assert cut(60.0, until_due=until_due) == 60.0


# a known due time and unknown ones


@given(bounds=BOUNDS, remaining=st.floats(0, 1e7))
def test_looks_for_an_earlier_due_time_are_no_more_often_than_sweeps(
    bounds: Bounds, remaining: float
) -> None:
    """A job that is due soon is not looked past; one far away is looked past half-way."""
    wait = revalidation(remaining, bounds=bounds)

    assert wait >= bounds.longest
    assert wait == bounds.longest or wait == remaining / 2


def test_a_job_that_is_due_in_a_day_costs_under_ten_looks() -> None:
    """Halving the remaining time keeps the price of a delayed job small."""
    bounds = default_bounds()
    remaining, looks = float(DAY_SECONDS), 0

    while (wait := revalidation(remaining, bounds=bounds)) < remaining:
        remaining -= wait
        looks += 1

    assert 1 <= looks < 10
