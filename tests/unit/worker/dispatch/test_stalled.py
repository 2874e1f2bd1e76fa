"""Stalled-job checks: when each queue's next one is due, and whose active jobs are news."""

from __future__ import annotations

import time

import pytest

from convolab_worker.bullmq.worker_side.backend import Backend
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.upkeep.key_changes import KeyChanges
from convolab_worker.worker.dispatch.stalled import StalledChecker
from tests.unit.worker.dispatch.tables import START

LOCK_SECONDS = 30.0


class Stage:
    """A checker that sends nothing, and the ids of the worker's own jobs."""

    def __init__(self) -> None:
        self.ours: dict[str, set[str]] = {"a": set(), "b": set()}
        counter = CommandCounter()
        connection = Connection(Address.parse("redis://localhost"), timeout=1.0, counter=counter)
        backend = Backend(
            tuple(self.ours),
            prefix="bull",
            connection=connection,
            waiting=connection,
            changes=KeyChanges(connection),
            worker_id="w",
            worker_name=None,
            lock_duration=LOCK_SECONDS,
        )
        self.checker = StalledChecker(
            backend, lambda queue: self.ours[queue], max_stalled=1, lock_duration=LOCK_SECONDS
        )


@pytest.fixture
def stage() -> Stage:
    """A stage of the test's own."""
    return Stage()


def test_nothing_is_due_at_the_start(stage: Stage) -> None:
    """No active job is known."""
    assert (stage.checker.next_time(), stage.checker.due(START)) == (None, [])


def test_a_worker_checks_the_queues_of_its_own_jobs_once_in_a_locks_duration(stage: Stage) -> None:
    """However often it fetches; another worker's job may be active beside them."""
    for seconds in (0, 10, 20):
        stage.checker.fetched("a", START + seconds)

    assert stage.checker.next_time() == START + LOCK_SECONDS
    assert stage.checker.due(START + LOCK_SECONDS - 0.1) == []
    assert stage.checker.due(START + LOCK_SECONDS) == ["a"]


def test_its_own_jobs_are_nobody_elses(stage: Stage) -> None:
    """A drain does not wait for a check that only they have made due."""
    stage.checker.fetched("a", START)

    assert stage.checker.next_foreign() is None


def test_of_two_checks_of_a_queue_the_earlier_counts(stage: Stage) -> None:
    """A later one is not scheduled beside it."""
    before = time.time()
    stage.checker.schedule("a", after=5.0)
    stage.checker.schedule("a", after=1.0)
    stage.checker.schedule("a")

    check_at = stage.checker.next_time()
    assert check_at is not None
    assert before + 1.0 <= check_at <= time.time() + 1.0
    assert stage.checker.next_foreign() == check_at


def test_a_check_is_scheduled_for_the_end_of_a_lock_unless_told(stage: Stage) -> None:
    """That is when a job whose worker has died is nobody's."""
    before = time.time()

    stage.checker.schedule("a")

    check_at = stage.checker.next_time()
    assert check_at is not None
    assert before + LOCK_SECONDS <= check_at <= time.time() + LOCK_SECONDS


@pytest.mark.parametrize(
    ("ours", "anew", "is_due"), [(False, False, True), (False, True, True), (True, False, False),
                                 (True, True, True)]
)  # fmt: skip
def test_active_jobs_that_are_seen_are_checked_at_once(
    stage: Stage,
    ours: bool,  # noqa: FBT001
    anew: bool,  # noqa: FBT001
    is_due: bool,  # noqa: FBT001
) -> None:
    """Where this worker has some they may all be its own, unless everything is asked anew."""
    stage.ours["a"] = {"1"} if ours else set()

    stage.checker.seen_active("a", START, anew=anew)

    assert (stage.checker.due(START) == ["a"]) is is_due
    assert (stage.checker.next_foreign() is not None) is is_due


def test_active_jobs_that_are_seen_again_put_no_check_forward(stage: Stage) -> None:
    """It is known when their locks run out."""
    stage.checker.seen_active("a", START, anew=False)

    stage.checker.seen_active("a", START + 5, anew=False)

    assert stage.checker.next_time() == START


def test_active_jobs_are_news_where_none_are_known(stage: Stage) -> None:
    """Neither by a check that is planned nor as our own."""
    stage.ours["a"] = {"1"}
    before = stage.checker.is_news("a"), stage.checker.is_news("b")

    stage.checker.seen_active("b", START, anew=False)

    assert before == (False, True)
    assert not stage.checker.is_news("b")


def test_a_queue_without_active_jobs_needs_no_check(stage: Stage) -> None:
    """Where our own jobs are the probe was too early."""
    stage.ours["b"] = {"1"}
    for queue in ("a", "b"):
        stage.checker.seen_active(queue, START, anew=True)

    stage.checker.none_active(["a", "b"])

    assert stage.checker.due(START) == ["b"]


def test_after_a_long_outage_workers_have_time_to_lock_their_jobs_again(stage: Stage) -> None:
    """After a short one no lock has run out."""
    stage.checker.outage_over(LOCK_SECONDS / 5, START)
    stage.checker.seen_active("a", START, anew=True)
    stage.checker.outage_over(LOCK_SECONDS / 3, START)
    stage.checker.seen_active("b", START, anew=True)

    assert stage.checker.due(START) == ["a"]
    assert stage.checker.due(START + 6.0) == ["a", "b"]


def test_a_clock_that_is_set_makes_no_check_late(stage: Stage) -> None:
    """Nor early."""
    stage.checker.fetched("a", START)

    stage.checker.shift(-3600.0)

    assert stage.checker.next_time() == START - 3600.0 + LOCK_SECONDS
