"""Backoff: whether and when a failed job is tried again, by the formulas of BullMQ's Backoffs."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from hypothesis import given, strategies as st

from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.retry import retry_delay

MANY = 100

# What json.loads may give for an option.
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "delay", "jitter"]), inner)
    ),
    max_leaves=4,
)


def javascript_round(value: float) -> int:
    """Math.round: halves go up."""
    return math.floor(value + 0.5)


def bullmq_fixed(delay: float, jitter: float, chance: float) -> float:
    """``fixed`` of BullMQ's Backoffs, in milliseconds."""
    if jitter > 0:
        return math.floor(chance * delay * jitter + delay * (1 - jitter))
    return delay


def bullmq_exponential(delay: float, jitter: float, chance: float, attempts_made: int) -> float:
    """``exponential`` of BullMQ's Backoffs, in milliseconds; it counts the attempt that failed."""
    longest = javascript_round(2 ** (attempts_made - 1) * delay)
    if jitter > 0:
        return math.floor(chance * longest * jitter + longest * (1 - jitter))
    return longest


def delay_ms(backoff: Any, attempts_made: int = 0, chance: float = 0.5) -> float:
    """The delay for a job with attempts left, in milliseconds."""
    delay = retry_delay({"attempts": MANY, "backoff": backoff}, attempts_made, random=chance)
    assert delay is not None
    return delay * 1000


def delay_or_refusal(
    opts: dict[str, Any], made: int, chance: float
) -> float | ConfigurationError | None:
    """The delay, or the error that is raised in its stead."""
    try:
        return retry_delay(opts, made, random=chance)
    except ConfigurationError as error:
        return error


# whether


@pytest.mark.parametrize(
    ("attempts", "made", "retried"),
    [
        (1, 0, False),
        (2, 0, True),
        (2, 1, False),
        (3, 1, True),
        (3, 2, False),
        (3, 7, False),
        (0, 0, False),
        (-1, 0, False),
        (1.5, 0, True),
        (10**400, 5, True),
        (True, 0, False),
        ("3", 0, True),
        ("3", 2, False),
        ("x", 0, False),
        (None, 0, False),
        (float("inf"), 0, True),
        (float("nan"), 0, False),
        ([3], 0, True),
        ({}, 0, False),
    ],
)
def test_a_job_is_tried_again_while_it_has_attempts_left(
    attempts: object,
    made: int,
    retried: bool,  # noqa: FBT001
) -> None:
    """The attempt that failed counts; options that do not say how many give none more."""
    delay = retry_delay({"attempts": attempts}, made, random=0.5)

    assert delay == (0 if retried else None)


def test_a_job_has_one_attempt_by_default() -> None:
    """Without the option a failed job is not tried again."""
    assert retry_delay({}, 0, random=0.5) is None


# when


@pytest.mark.parametrize("backoff", [None, False, 0, 0.0, ""], ids=repr)
def test_without_a_backoff_the_next_attempt_is_at_once(backoff: object) -> None:
    """What is false in JavaScript is not a backoff."""
    assert delay_ms(backoff) == 0


@pytest.mark.parametrize("made", [0, 1, 5])
def test_a_number_is_a_fixed_delay(made: int) -> None:
    """A plain number of milliseconds is the delay of every attempt."""
    assert delay_ms(1500, made) == 1500


@pytest.mark.parametrize(
    ("longest", "delays"),
    [
        (5000, [2000, 4000, 5000, 5000]),
        (0, [0, 0, 0, 0]),
        (-3, [0, 0, 0, 0]),
        ("5000", [2000, 4000, 8000, 16_000]),
        (None, [2000, 4000, 8000, 16_000]),
    ],
    ids=repr,
)
def test_an_exponential_backoff_has_a_longest_wait(longest: object, delays: list[float]) -> None:
    """What is not a number is not a bound, as for Node's workers, which know none."""
    backoff = {"type": "exponential", "delay": 2000, "maxDelay": longest}

    assert [delay_ms(backoff, made) for made in range(4)] == delays


def test_jitter_begins_where_the_longest_wait_ends() -> None:
    """Jobs that have waited longest are not tried again together either."""
    backoff = {"type": "exponential", "delay": 2000, "maxDelay": 8000, "jitter": 0.5}

    assert [delay_ms(backoff, 20, chance) for chance in (0, 0.5, 0.99)] == [4000, 6000, 7960]


@given(
    delay=st.integers(0, 10**9),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
    made=st.integers(0, 30),
)
def test_fixed_delays_are_bullmqs(delay: int, jitter: float, chance: float, made: int) -> None:
    """The same delay and jitter as Node's worker would draw by the same chance."""
    ours = delay_ms({"type": "fixed", "delay": delay, "jitter": jitter}, made, chance)

    assert ours == pytest.approx(bullmq_fixed(delay, jitter, chance))


@given(
    delay=st.integers(0, 10**6) | st.floats(0, 10**6),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
    made=st.integers(0, 30),
)
def test_exponential_delays_are_bullmqs(
    delay: float, jitter: float, chance: float, made: int
) -> None:
    """The same doubling, rounding and jitter as Node's worker would compute."""
    ours = delay_ms({"type": "exponential", "delay": delay, "jitter": jitter}, made, chance)

    assert ours == pytest.approx(bullmq_exponential(delay, jitter, chance, made + 1))


@pytest.mark.parametrize(
    ("made", "expected"), [(0, 1000), (1, 2000), (2, 4000), (3, 8000), (9, 512_000)]
)
def test_exponential_delays_double(made: int, expected: int) -> None:
    """The delay given is that of the second attempt, and doubles from there."""
    assert delay_ms({"type": "exponential", "delay": 1000}, made) == expected


@pytest.mark.parametrize("kind", ["fixed", "exponential"])
@given(chance=st.floats(0, 1), jitter=st.floats(0, 1))
def test_jitter_shortens_a_delay_by_its_part_at_most(
    kind: str, chance: float, jitter: float
) -> None:
    """With jitter 0.5 a delay is drawn from its second half, and none is longer than without."""
    longest = delay_ms({"type": kind, "delay": 10_000}, 2)

    drawn = delay_ms({"type": kind, "delay": 10_000, "jitter": jitter}, 2, chance)

    assert longest * (1 - jitter) - 1 <= drawn <= longest


@pytest.mark.parametrize(
    ("backoff", "longest"),
    [
        ({"type": "fixed", "delay": 8, "jitter": "0.5"}, 6),
        ({"type": "fixed", "delay": 8, "jitter": True}, 4),
        ({"type": "fixed", "delay": 8, "jitter": -0.5}, 8),
        ({"type": "fixed", "delay": 8, "jitter": "x"}, 8),
        ({"type": "exponential", "delay": 8, "jitter": 1.5}, 2),
        ({"type": "fixed", "delay": "0", "jitter": "Infinity"}, 0),
        ({"type": "exponential", "delay": "x", "jitter": 1}, 0),
        ({"type": "fixed", "delay": True}, 1),
        ({"type": "fixed", "delay": False}, 0),
    ],
    ids=repr,
)
def test_numbers_of_a_backoff_are_what_javascript_makes_of_them(
    backoff: dict[str, Any], longest: float
) -> None:
    """Whatever a producer wrote; at a chance of a half."""
    assert delay_ms(backoff) == pytest.approx(longest)


@pytest.mark.parametrize(
    "backoff",
    [-5, -0.5, {"type": "fixed", "delay": "0"}, {"type": "exponential", "delay": -3}],
    ids=repr,
)
def test_a_wait_that_is_over_but_true_in_javascript_is_no_wait_but_not_zero(backoff: Any) -> None:
    """With 0 a job goes straight back to its queue; this one goes by way of the delayed jobs."""
    assert 0 < delay_ms(backoff) < 0.5


@pytest.mark.parametrize("kind", ["fixed", "exponential"])
@pytest.mark.parametrize("missing", [{}, {"delay": None}, {"delay": 0}, {"jitter": None}], ids=repr)
def test_a_backoff_without_a_delay_is_at_once(kind: str, missing: dict[str, Any]) -> None:
    """A type alone makes no delay, as in BullMQ."""
    assert delay_ms({"type": kind, **missing}, 3) == 0


@given(
    delay=st.floats(0, sys.float_info.max) | st.integers(0, 10**300),
    made=st.integers(-(10**30), 10**30),
    kind=st.sampled_from(["fixed", "exponential"]),
)
def test_no_delay_is_beyond_what_javascript_counts(delay: float, made: int, kind: str) -> None:
    """However often a delay doubled, it is a time that a dashboard can show."""
    opts = {"attempts": 1e300, "backoff": {"type": kind, "delay": delay}}

    seconds = retry_delay(opts, made, random=0.5)

    assert seconds is not None
    assert 0 <= seconds <= (2**53 - 1) / 1000


# what can't be understood


@pytest.mark.parametrize(
    ("backoff", "named"),
    [
        pytest.param({"type": "lunar", "delay": 5}, "lunar", id="unknown-strategy"),
        pytest.param({"delay": 5}, "None", id="no-type"),
        pytest.param({"type": ["fixed"]}, "fixed", id="type-in-a-list"),
        pytest.param("5s", "5s", id="text"),
        pytest.param(True, "True", id="true"),
        pytest.param([], r"\[\]", id="list"),
        pytest.param({}, "None", id="empty"),
        pytest.param({"type": "fixed", "delay": "x"}, "'x'", id="delay-as-text"),
        pytest.param({"type": "fixed", "delay": float("inf")}, "inf", id="delay-infinite"),
        pytest.param({"type": "fixed", "delay": 10**400}, "0000", id="delay-beyond-floats"),
        pytest.param(float("nan"), "nan", id="nan"),
    ],
)
def test_a_backoff_that_can_not_be_understood_is_named(backoff: object, named: str) -> None:
    """The message has the value, so that the producer's mistake can be found."""
    with pytest.raises(ConfigurationError, match=named):
        retry_delay({"attempts": 3, "backoff": backoff}, 0, random=0.5)


def test_the_backoff_of_a_last_attempt_is_not_looked_at() -> None:
    """A job that is not tried again needs none."""
    opts = {"attempts": 3, "backoff": {"type": "lunar"}}

    assert retry_delay(opts, 2, random=0.5) is None


@given(attempts=ANY_JSON, backoff=ANY_JSON, made=st.integers(0, 10), chance=st.floats(0, 1))
def test_whatever_the_options_only_a_configuration_error_is_raised(
    attempts: object, backoff: object, made: int, chance: float
) -> None:
    """Options come from any producer; each is a delay, no delay, or an error that says why."""
    opts = {"attempts": attempts, "backoff": backoff}

    outcome = delay_or_refusal(opts, made, chance)

    if isinstance(outcome, ConfigurationError):
        assert str(outcome).startswith("backoff: ")
    else:
        assert outcome is None or 0 <= outcome < float("inf")
