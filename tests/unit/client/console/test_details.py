"""When the attempts of a job ran, read off its queue's events."""

from __future__ import annotations

from convolab_worker.client.console.details import Attempt, attempts_of

AT = 1_800_000_000.0


def event(second: int, name: str, job_id: str = "7") -> tuple[float, dict[str, str]]:
    """An event of a queue, as its stream has it."""
    return AT + second, {"event": name, "jobId": job_id}


def test_each_start_is_an_attempt_that_ends_with_the_next_event_of_its_kind() -> None:
    events = [
        event(0, "added"), event(0, "waiting"), event(1, "active"), event(2, "progress"),
        event(3, "delayed"), event(5, "waiting"), event(6, "active"), event(9, "failed"),
    ]  # fmt: skip

    assert attempts_of("7", events) == [
        Attempt(AT + 1, AT + 3, "failed, tried again later"),
        Attempt(AT + 6, AT + 9, "failed"),
    ]


def test_events_of_other_jobs_and_of_the_queue_are_passed_over() -> None:
    events = [event(1, "active"), event(2, "completed", "8"), (AT + 3, {"event": "drained"})]

    assert attempts_of("7", events) == [Attempt(AT + 1, None, None)]


def test_a_stall_ends_an_attempt_and_a_retry_by_hand_begins_none() -> None:
    events = [
        event(1, "active"), event(40, "stalled"), event(40, "waiting"), event(41, "active"),
        event(42, "failed"), event(60, "waiting"),
    ]  # fmt: skip

    assert attempts_of("7", events) == [
        Attempt(AT + 1, AT + 40, "stalled"),
        Attempt(AT + 41, AT + 42, "failed"),
    ]


def test_the_end_of_an_attempt_whose_start_is_no_longer_kept_is_none() -> None:
    assert attempts_of("7", [event(3, "completed")]) == []
