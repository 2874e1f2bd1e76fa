"""The commands inside BullMQ's scripts, as the scripts' texts have them."""

from __future__ import annotations

from typing import Any

import pytest

from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.calls import Transitions
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob

TRANSITIONS = Transitions(QueueKeys("bull", "q"), worker_name=None, lock_ms=60_000)
NOW = 1_700_000_000_000
FOUND: list[Any] = [[b"name", b"n"], b"1", 0, 0]
NOTHING: list[Any] = [0, 0, 0, 0]
DRAINED = 0


def active_job(**fields: Any) -> ActiveJob:
    """A job that was taken for its first attempt."""
    return ActiveJob(
        **{"queue": "q", "id": "1", "token": "t", "name": "n", "data": b"", "opts": {}} | fields
    )


def finished(job: ActiveJob, answer: Any, target: str = "completed", *, fetch: bool = False) -> int:
    """Commands inside the finish of ``job``."""
    fields = {"failedReason": "x"} if target == "failed" else None
    call = TRANSITIONS.finish(
        job, target=target, value="null", now_ms=NOW, fetch_next=fetch, fields=fields
    )
    return script_costs.transition(call, answer, job=job)


def delayed(answer: Any, *, fetch: bool = False, postponed: bool = False) -> int:
    """Commands inside a move to ``delayed``."""
    call = TRANSITIONS.delay(
        active_job(),
        delay_ms=1000,
        now_ms=NOW,
        skip_attempt=postponed,
        fetch_next=fetch,
        fields=None if postponed else {"failedReason": "x"},
    )
    return script_costs.transition(call, answer)


@pytest.mark.parametrize(
    ("taken", "commands"),
    [
        (active_job(), 9),
        (active_job(opts={"priority": 3}), 11),
        (active_job(opts={"delay": 1000}), 17),
        (active_job(opts={"delay": 1000}, starts=2), 9),
    ],
)
def test_a_take_costs_more_from_the_prioritized_and_the_delayed(
    taken: ActiveJob, commands: int
) -> None:
    """A delayed job is promoted once, before its first attempt."""
    assert script_costs.fetch(found=True, job=taken) == commands


def test_a_take_that_finds_nothing_costs_six_or_four() -> None:
    """A rate limit ends the script early."""
    assert script_costs.fetch(found=False) == 6
    assert script_costs.fetch(found=False, is_limited=True) == 4


@pytest.mark.parametrize(
    ("job", "target", "commands"),
    [
        (active_job(), "completed", 18),
        (active_job(), "failed", 19),
        (active_job(parent_key="bull:p:1"), "completed", 25),
        (active_job(parent_key="bull:p:1"), "failed", 23),
        (active_job(opts={"removeOnComplete": True}), "completed", 17),
        (active_job(opts={"removeOnComplete": 0}), "completed", 17),
        (active_job(opts={"removeOnComplete": False}), "completed", 18),
        (active_job(opts={"removeOnComplete": 100}), "completed", 22),
        (active_job(opts={"removeOnComplete": {"age": 60}}), "completed", 22),
        (active_job(opts={"removeOnComplete": True}), "failed", 19),
    ],
)
def test_a_finish_costs_what_the_job_has_and_leaves(
    job: ActiveJob, target: str, commands: int
) -> None:
    """The failure's fields, a parent that is told, old jobs that are removed."""
    assert finished(job, DRAINED, target) == commands


@pytest.mark.parametrize(
    ("answer", "commands"),
    [(FOUND, 14 + 9), (NOTHING, 14 + 6), ([0, 0, 500, 0], 14 + 4), (DRAINED, 14 + 6 + 4)],
)
def test_a_finish_that_fetches_is_a_finish_and_a_take(answer: Any, commands: int) -> None:
    """With no job at all it looks round, too, and tells that the queue is drained."""
    assert finished(active_job(), answer, fetch=True) == commands


def test_a_delay_pays_for_the_promotion_to_come() -> None:
    """Moved, marked and promoted later; with a job to go on with, no marker is set."""
    assert delayed(DRAINED) == 14 + 8
    assert delayed(DRAINED, postponed=True) == 12 + 8
    assert delayed(DRAINED, fetch=True) == 14 + 8 + 6
    assert delayed(FOUND, fetch=True) == 12 + 8 + 9


@pytest.mark.parametrize(("opts", "commands"), [({}, 15), ({"priority": 1}, 16)])
def test_a_retry_at_once_goes_back_to_where_the_job_was(
    opts: dict[str, Any], commands: int
) -> None:
    """Prioritized jobs need a score from the counter."""
    job = active_job(opts=opts)
    call = TRANSITIONS.retry(job, now_ms=NOW, fields={"failedReason": "x"})

    assert script_costs.transition(call, 0, job=job) == commands
