"""The pauses after refusals and lost connections, and questions that are asked until answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st
from structlog.testing import capture_logs

from convolab_worker.connection.upkeep.reconnect import Reconnection, reconnect_delay, refusal_delay
from convolab_worker.errors import RedisRefused, ReplyLost

DAY_SECONDS = 24 * 3600
MEAN = 0.5
CHANCE = st.floats(0, 1)


@pytest.mark.parametrize(
    ("delay", "longest"),
    [
        pytest.param(reconnect_delay, 5.0, id="reconnect"),
        pytest.param(refusal_delay, 120.0, id="refusal"),
    ],
)
def test_pauses_grow_in_the_mean_and_are_bounded(
    delay: Callable[..., float], longest: float
) -> None:
    """Each further failure waits at least as long on average, and never beyond the longest."""
    means = [delay(count, random=MEAN) for count in range(1, 1_000)]
    most = [delay(count, random=1.0) for count in range(1, 1_000)]

    assert means == sorted(means)
    assert means[0] > 0
    assert max(most) == longest


@given(count=st.integers(1, 10**30), chance=CHANCE)
@pytest.mark.parametrize("delay", [reconnect_delay, refusal_delay])
def test_jitter_shortens_pauses_by_a_quarter_at_most(
    delay: Callable[..., float], count: int, chance: float
) -> None:
    """However often it failed, a pause is within its jitter."""
    longest = delay(count, random=1.0)

    assert 0.75 * longest <= delay(count, random=chance) <= longest


def test_the_first_connection_is_tried_at_once() -> None:
    """Without a failure there is nothing to wait for."""
    assert reconnect_delay(0, random=1.0) == 0


def test_a_server_that_comes_back_within_minutes_is_found_within_half_a_second() -> None:
    """The first job after a restart is to run within a second."""
    elapsed, failures, longest = 0.0, 0, 0.0

    while elapsed < 120:
        failures += 1
        delay = reconnect_delay(failures, random=1.0)
        longest = max(longest, delay)
        elapsed += delay

    assert longest <= 0.5


def test_refusals_are_billed_and_so_are_few() -> None:
    """A server that refuses everything for a day gets about as many commands as an hour's minutes.

    Half a second after the first refusal, two minutes in the end.
    """
    elapsed, refusals = 0.0, 0

    while elapsed < DAY_SECONDS:
        refusals += 1
        elapsed += refusal_delay(refusals, random=MEAN)

    assert refusal_delay(1, random=1.0) == 0.5
    assert refusals < 1_000


@pytest.mark.asyncio
async def test_a_question_is_asked_until_it_is_answered_and_logged_twice() -> None:
    """Refusals and lost replies in between are paused for; the log has the first and the end."""
    errors = [RedisRefused("OOM no room"), ReplyLost("cut"), ReplyLost("cut again")]
    reconnection = Reconnection(where="the server")

    async def ask() -> str:
        if errors:
            raise errors.pop(0)
        return "answer"

    with capture_logs() as lines:
        answer = await reconnection.answered(ask)

    assert answer == "answer"
    told = [(line["event"], line["log_level"]) for line in lines if line["log_level"] != "debug"]
    assert told == [("redis.refused", "error"), ("redis.recovered", "info")]
    assert "raise maxmemory" in lines[0]["error"]


@pytest.mark.asyncio
async def test_all_that_are_refused_share_a_pause_and_the_first_answer_ends_it() -> None:
    reconnection = Reconnection(where="the server")
    paused = [asyncio.create_task(reconnection.refused(RedisRefused("OOM"))) for _ in range(3)]
    await asyncio.sleep(0)

    reconnection.served()

    async with asyncio.timeout(refusal_delay(1, random=0.0) / 2):
        await asyncio.gather(*paused)
