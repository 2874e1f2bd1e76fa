"""Whether a worker is well, from what was seen once a second."""

from __future__ import annotations

import pytest

from convolab_worker.server.worker_proxy import HealthWatch
from convolab_worker.worker.status import Health

WELL = Health(state="running", ready=True, overdue=False)
OVERDUE = Health(state="running", ready=True, overdue=True)


def test_a_worker_that_answers_is_well() -> None:
    """Nothing to complain of."""
    watch = HealthWatch()
    for _ in range(100):
        watch.look(WELL, answered=True)

    assert watch.problem(WELL) is None


def test_a_loop_that_hangs_for_five_looks_is_a_problem_until_it_turns() -> None:
    """Four are not: a garbage collection or a slow disk is no reason to be killed."""
    watch = HealthWatch()
    for _ in range(4):
        watch.look(WELL, answered=False)
    assert watch.problem(WELL) is None
    watch.look(WELL, answered=False)

    assert watch.problem(WELL) == "the event loop has not turned for 5 s"

    watch.look(WELL, answered=True)
    assert watch.problem(WELL) is None


def test_a_process_that_stood_still_is_well() -> None:
    """Frozen for an hour between two looks: one look in vain is all that is seen."""
    watch = HealthWatch()
    watch.look(OVERDUE, answered=False)

    assert watch.problem(OVERDUE) is None


def test_a_loop_of_takes_that_is_overdue_for_five_looks_is_a_problem() -> None:
    """The event loop turns, and yet no job is taken."""
    watch = HealthWatch()
    for _ in range(5):
        watch.look(OVERDUE, answered=True)

    assert watch.problem(OVERDUE) == "the loop that takes jobs makes no progress"


@pytest.mark.parametrize("state", ["new", "running", "stopping"])
def test_a_worker_that_begins_or_stops_is_well(state: str) -> None:
    """Readiness tells of that, and not health."""
    assert HealthWatch().problem(Health(state=state, ready=False, overdue=False)) is None


def test_a_worker_that_has_ended_is_a_problem() -> None:
    """A server that outlives its worker serves nobody."""
    health = Health(state="stopped", ready=False, overdue=False)

    assert HealthWatch().problem(health) == "the worker has ended"
