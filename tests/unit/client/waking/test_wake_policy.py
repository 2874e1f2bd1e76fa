"""What is done after a wake, whatever the service said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from convolab_worker.client.waking.wake_policy import (
    ATTEMPTS,
    Again,
    Answered,
    GivenUp,
    Heard,
    Unanswered,
    due_in,
    judge,
    retry_after,
)

NOW = 1_800_000_000.0


def judged(result: Answered | Unanswered, **more: Any) -> Heard | Again | GivenUp:
    """The verdict on a first attempt, with no chance in it."""
    return judge(result, **{"attempt": 1, "futile": 0, "now": NOW, "random": 1.0, **more})


def held(**body: Any) -> Answered:
    """The answer of a service that held the request."""
    return Answered(status=200, body=body)


@pytest.mark.parametrize(
    "result",
    [
        Unanswered(reason="refused"),
        Unanswered(reason="cut", held=3.0),
        Answered(status=200, body={"error": "Redis can't be reached"}),
        *[Answered(status=status) for status in (408, 425, 429, 500, 502, 503, 504)],
    ],
)
def test_what_may_pass_is_tried_again_a_few_times(result: Answered | Unanswered) -> None:
    """Each pause doubles the one before, and after the last attempt it is given up."""
    verdicts = [judged(result, attempt=attempt) for attempt in range(1, ATTEMPTS + 1)]

    assert verdicts[:-1] == [Again(0.5, 2), Again(1, 3), Again(2, 4), Again(4, 5)]
    assert isinstance(verdicts[-1], GivenUp)
    assert "5 times" in verdicts[-1].reason


@given(random=st.floats(0, 1), attempt=st.integers(1, ATTEMPTS - 1))
def test_half_of_a_pause_is_chance(random: float, attempt: int) -> None:
    """Services that lost their worker at one moment do not come back at one moment."""
    verdict = judged(Unanswered(reason="refused"), attempt=attempt, random=random)

    assert isinstance(verdict, Again)
    assert 0.5 <= verdict.after / (0.5 * 2 ** (attempt - 1)) <= 1


def test_the_service_may_ask_for_a_pause() -> None:
    """Retry-After is waited for, and a bit of chance; one that is too long is given up."""
    busy = Answered(status=429, retry_after=7.0)

    assert judged(busy, random=0.0) == Again(7.0, 2)
    assert judged(busy) == Again(7.5, 2)
    assert isinstance(judged(Answered(status=503, retry_after=3600.0)), GivenUp)


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (301, "redirects"),
        (401, "CONVOLAB_WAKE_TOKEN"),
        (403, "IAM"),
        (404, "/wake"),
        (405, "/wake"),
        (400, ""),
    ],
)
def test_what_does_not_pass_is_given_up_with_what_to_do(status: int, hint: str) -> None:
    """Asking again would change nothing."""
    verdict = judged(Answered(status=status))

    assert isinstance(verdict, GivenUp)
    assert str(status) in verdict.reason
    assert hint in (verdict.hint or "")


def test_a_held_request_that_a_platform_cut_starts_afresh() -> None:
    """After half an hour of work the hour's limit is not a failure of the service's."""
    assert judged(Unanswered(reason="cut", held=1800.0), attempt=ATTEMPTS) == Again(0.5, 1)


def test_a_service_that_stays_awake_is_not_told_again_at_once() -> None:
    """202 means that it looks by itself from now on."""
    assert judged(Answered(status=202, body={"status": "awake"})) == Heard(quiet_for=1.0)


@pytest.mark.parametrize("body", [{}, {"status": "awake"}, {"status": ["drained"]}])
def test_an_answer_that_says_nothing_is_the_end_of_it(body: dict[str, Any]) -> None:
    """A page of a proxy's, or of another version."""
    assert judged(held(**body)) == Heard()


def test_a_budget_that_ended_before_the_work_is_followed_by_another() -> None:
    """At once, as long as something is done; with growing pauses where nothing is."""
    more = held(status="budget", processed=3, remaining=5, next_due_at=None)
    stuck = held(status="budget", processed=0, remaining=5, next_due_at=None)

    assert judged(more) == Heard(0.0)
    assert [judged(stuck, futile=times) for times in (0, 1, 2, 1000)] == [
        Heard(1.0, futile=1),
        Heard(2.0, futile=2),
        Heard(4.0, futile=3),
        Heard(300.0, futile=1001),
    ]
    assert judged(held(status="budget", processed=3, remaining=0)) == Heard()


def test_the_next_delayed_job_is_come_back_for() -> None:
    """When it is due; one that is due and stays is not asked about in a rush."""
    later = held(status="drained", processed=1, remaining=1, next_due_at=NOW + 60)
    overdue = held(status="drained", processed=0, remaining=1, next_due_at=NOW - 60)

    assert judged(later) == Heard(60.05)
    assert judged(later, futile=9) == Heard(60.05)
    assert judged(overdue, futile=1) == Heard(2.0, futile=2)
    assert judged(held(status="drained", processed=1, next_due_at=None)) == Heard()
    assert due_in(60.0) == 60.05


@pytest.mark.parametrize("value", ["soon", True, [], {}, None])
def test_numbers_that_are_none_count_as_nothing(value: object) -> None:
    """Whatever is in the answer, the client goes on."""
    body = {"status": "budget", "processed": value, "remaining": value, "next_due_at": value}

    assert judged(held(**body)) == Heard(futile=1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("-1", None),
        ("soon", None),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    """As HTTP has it."""
    assert retry_after(text, NOW) == seconds
