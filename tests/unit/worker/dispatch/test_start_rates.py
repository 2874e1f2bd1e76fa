"""Rates: what they may look like, and never more starts than they say in any window."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.job.job import Job
from convolab_worker.handlers.registration.registry import HandlerRegistry
from convolab_worker.settings.units import parse_rate
from convolab_worker.worker.dispatch.slots import StartRates

START = 1_000_000.0


@pytest.mark.parametrize(
    ("text", "interval"),
    [("30/m", 2.0), ("5/s", 0.2), ("100/h", 36.0), ("1/10s", 10.0), ("2 / 24h", 43200.0)],
)
def test_a_rate_is_spread_evenly(text: str, interval: float) -> None:
    """From one start to the next there is an equal part of its time."""
    assert parse_rate(text).interval == pytest.approx(interval)


@pytest.mark.parametrize(
    "rate", ["", "30", "30/", "/m", "0/s", "1/0s", "-1/s", "1.5/s", "5/min", 5]
)
def test_what_is_no_rate_is_refused_with_the_handlers_place(rate: object) -> None:
    """The message has the place, the value and what was expected, before anything runs."""
    handlers = HandlerRegistry()

    async def slow(job: Job[object]) -> None:
        """A handler."""

    with pytest.raises(ConfigurationError, match=r"slow:\d+: rate: expected jobs per time.* got"):
        handlers.audio("slow", rate=rate)(slow)  # type: ignore[call-overload]


@given(
    starts=st.integers(1, 50),
    seconds=st.integers(1, 100),
    pauses=st.lists(st.floats(0, 30), min_size=1, max_size=80),
)
def test_no_window_has_more_starts_than_the_rate(
    starts: int, seconds: int, pauses: list[float]
) -> None:
    """Whenever somebody asks: a handler that may start starts, and no window is overfull."""
    rate = parse_rate(f"{starts}/{seconds}s")
    rates = StartRates({"h": rate.interval})
    now, started = START, []

    for pause in pauses:
        now += pause
        rates.pass_time(now)
        if not rates.is_waiting("h"):
            rates.started("h", now)
            started.append(now)

    # A hair less than the window, as floats add up to a hair less than they should.
    busiest = max(sum(0 <= t - first < seconds - 1e-6 for t in started) for first in started)
    assert busiest <= starts
    assert all(later - first >= rate.interval - 1e-6 for first, later in pairwise(started))


def test_a_wait_ends_at_its_time_and_not_before() -> None:
    """A handler may start again exactly when ``next_time`` says, and nobody else is kept."""
    rates = StartRates({"h": 2.0})

    rates.started("h", START)
    rates.started("other", START)
    at = rates.next_time()
    rates.pass_time(START + 1.999)
    early = rates.is_waiting("h"), rates.is_waiting("other")
    rates.pass_time(START + 2.0)

    assert at == START + 2.0
    assert early == (True, False)
    assert (rates.is_waiting("h"), rates.next_time()) == (False, None)
