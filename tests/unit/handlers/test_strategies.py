"""Backoff strategies by name: what they are given, what they may give, and what goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from convolab_worker import FailedAttempt, HandlerRegistry
from convolab_worker.bullmq.jobs.outcome import Failed
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import ConfigurationError, UnrecoverableError
from convolab_worker.worker.execution.outcomes import failure


def outcome(
    handlers: HandlerRegistry,
    kind: object = "polite",
    *,
    made: int = 0,
    error: Exception | None = None,
) -> Failed:
    """What comes of a failed attempt of a job that asks for that backoff."""
    active_job = ActiveJob(
        queue="audio",
        id="7",
        token="w:1",
        name="speak",
        data=b'{"pause": 2}',
        opts={"attempts": 3, "backoff": {"type": kind}},
        attempts_made=made,
    )
    return failure(error or RuntimeError("boom"), active_job, lambda: 0.5, handlers.strategies)


def with_strategy(gives: Any) -> HandlerRegistry:
    """A registry whose strategy ``polite`` gives that, or raises it."""
    handlers = HandlerRegistry()

    @handlers.backoff("polite")
    def polite(_: FailedAttempt) -> Any:
        if isinstance(gives, Exception):
            raise gives
        return gives

    return handlers


def test_a_strategy_sees_the_attempt_and_decides_on_the_next() -> None:
    """Its attempt counts from 1, as Node's strategies are told; data is as it was enqueued."""
    handlers, seen = HandlerRegistry(), []

    @handlers.backoff("polite")
    def polite(failed: FailedAttempt) -> float:
        seen.append(failed)
        return failed.attempt * 1.5

    error = RuntimeError("busy")
    delays = [outcome(handlers, made=made, error=error).retry_in for made in (0, 1)]

    assert delays == [1.5, 3.0]
    assert [(each.attempt, each.max_attempts) for each in seen] == [(1, 3), (2, 3)]
    assert (seen[0].id, seen[0].name, seen[0].queue) == ("7", "speak", "audio")
    assert seen[0].error is error
    assert seen[0].data == {"pause": 2}


@pytest.mark.parametrize(("gives", "retry_in"), [(0, 0.0), (0.25, 0.25), (None, None), (-1, None)])
def test_none_and_minus_one_are_no_further_attempt(gives: Any, retry_in: float | None) -> None:
    """-1 is what Node's strategies give for that."""
    assert outcome(with_strategy(gives)) == Failed(
        "boom", outcome(with_strategy(gives)).stack, retry_in
    )


@pytest.mark.parametrize(
    ("gives", "why"),
    [
        ("soon", "strategy 'polite' gave 'soon': expected seconds, or None"),
        (-2, "strategy 'polite' gave -2: expected seconds, or None"),
        (float("nan"), "strategy 'polite' gave nan: expected seconds, or None"),
        (float("inf"), "strategy 'polite' gave inf: expected seconds, or None"),
        (True, "strategy 'polite' gave True: expected seconds, or None"),
        (ZeroDivisionError("by zero"), "strategy 'polite' raised ZeroDivisionError: by zero"),
    ],
)
def test_a_strategy_that_fails_ends_the_job_with_both_reasons(gives: Any, why: str) -> None:
    """The job is not left in active; its own reason comes first."""
    assert outcome(with_strategy(gives)).reason == f"boom (not tried again: backoff: {why})"
    assert outcome(with_strategy(gives)).retry_in is None


def test_an_unknown_strategy_names_those_that_are_known() -> None:
    """The job fails with it, for good."""
    failed = outcome(with_strategy(1), "impolite")

    known = "known are fixed, exponential, polite"
    assert failed.reason == (
        f"boom (not tried again: backoff: unknown strategy 'impolite'; {known})"
    )
    assert failed.retry_in is None


def test_no_strategy_is_asked_where_no_attempt_is_left() -> None:
    """Nor after an error that can't be mended."""
    handlers = with_strategy(AssertionError("asked"))

    assert outcome(handlers, made=2).reason == "boom"
    assert outcome(handlers, error=UnrecoverableError("no use")).reason == "no use"


@pytest.mark.parametrize("name", ["fixed", "exponential", "", 7])
def test_a_name_is_text_and_not_bullmqs_own(name: Any) -> None:
    """Node's own strategies go before a worker's of the same name, so they can't be replaced."""
    with pytest.raises(ConfigurationError, match=r"expected a name other than BullMQ's"):
        HandlerRegistry().backoff(name)


def test_a_coroutine_function_is_no_strategy() -> None:
    """It would give a coroutine where seconds are needed."""

    async def later(_: FailedAttempt) -> float:
        return 1

    with pytest.raises(ConfigurationError, match="expected a plain function"):
        HandlerRegistry().backoff("later")(later)  # type: ignore[type-var]


def test_registries_merge_with_their_strategies() -> None:
    """A name that both have is an error that names both places, and changes nothing."""
    ours, theirs = with_strategy(1), HandlerRegistry()
    theirs.backoff("other")(lambda _: 2)

    ours.include(theirs)
    ours.include(theirs)

    assert sorted(ours.strategies) == ["other", "polite"]
    with pytest.raises(ConfigurationError, match="two backoff strategies called 'polite'"):
        ours.include(with_strategy(3))
