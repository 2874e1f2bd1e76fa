"""Which queue is next, how many jobs at once, and what is asked after each event."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from convolab_worker.worker.dispatch.queue_choice import MOST_SKIPS
from convolab_worker.worker.dispatch.queue_state import TURN_JOBS, TURN_SECONDS, FollowUp, Turn
from convolab_worker.worker.dispatch.queue_table import QueueTable
from tests.unit.worker.dispatch.tables import (
    START,
    end_one,
    fetch_none,
    fetch_one,
    make_slots,
    make_table,
)


def fill(
    table: QueueTable, waiting: dict[str, int], counted: int | None = None
) -> list[tuple[str, int]]:
    """Fetch ``waiting`` jobs as a worker does: each round's queue, and how many fetches it sent.

    A count, which shows as a round of none, tells of ``counted`` jobs, or of those that wait.
    """
    rounds = []
    while (queue := table.choice.next_queue()) is not None:
        count = table.choice.fetch_count(queue)
        wants_count = table.choice.wants_count(queue)
        rounds.append((queue, count))
        for _ in range(count):
            if waiting[queue]:
                waiting[queue] -= 1
                fetch_one(table, queue)
            else:
                fetch_none(table, queue)
        if wants_count:
            rounds.append((queue, 0))
            table.counted(queue, waiting[queue] if counted is None else counted)
    return rounds


# how many at once


def test_fifty_slots_fill_in_few_rounds() -> None:
    """A few fetches show that jobs flow; from a count on, each round doubles what was found."""
    table = make_table("a", concurrency=50, ready=["a"])

    rounds = fill(table, {"a": 1000})

    assert rounds == [("a", n) for n in (1, 1, 1, 1, 0, 4, 8, 16, 18)]
    assert table.slots.running == 50


@pytest.mark.parametrize(
    ("jobs", "rounds"),
    [(1, [1, 1]), (2, [1, 1, 1]), (4, [1, 1, 1, 1, 0, 1]), (7, [1, 1, 1, 1, 0, 3, 1])],
)
def test_no_more_fetches_leave_than_there_are_jobs(jobs: int, rounds: list[int]) -> None:
    """But the one that finds the queue empty, as ever; few jobs are not counted."""
    table = make_table("a", concurrency=50, ready=["a"])

    assert fill(table, {"a": jobs}) == [("a", n) for n in rounds]


def test_what_stops_a_queue_costs_no_more_fetches_than_have_found_a_job() -> None:
    """A queue may be paused, limited or full at any time, however many jobs wait."""
    table = make_table("a", concurrency=50, ready=["a"])

    rounds = [count for _, count in fill(table, {"a": 8}, counted=1000)]

    assert rounds == [1, 1, 1, 1, 0, 4, 8]
    assert table.choice.fetch_count("a") == 1


def test_jobs_that_came_after_a_count_are_counted_anew() -> None:
    """A count that is used up says nothing of later jobs."""
    table = make_table("a", concurrency=50, ready=["a"])
    for _ in range(4):
        fetch_one(table, "a")
    table.counted("a", 1)
    fetch_one(table, "a")

    wanted = []
    for _ in range(4):
        wanted.append(table.choice.wants_count("a"))
        fetch_one(table, "a")

    assert wanted == [False, False, False, True]


def test_jobs_that_came_alone_make_no_burst() -> None:
    """Each was announced by a hint of its own: two jobs after them are not counted."""
    table = make_table("a", concurrency=50)
    for _ in range(5):
        table.mark_ready("a")
        fetch_one(table, "a")
    table.mark_ready("a", certain=True)

    assert not table.choice.wants_count("a")


def test_a_fetch_that_finds_nothing_ends_a_row_of_finds() -> None:
    """Jobs that are seen after it are few until more are found."""
    table = make_table("a", concurrency=50, ready=["a"])
    for _ in range(5):
        fetch_one(table, "a")
    fetch_none(table, "a")

    table.mark_ready("a", certain=True)

    assert not table.choice.wants_count("a")


def test_ready_queues_share_the_free_slots() -> None:
    """One of three that are ready gets a third of them at once."""
    table = make_table("a", "b", "c", concurrency=12, ready=["a", "b", "c"])
    for _ in range(100):
        table.fetch_found("a")
    table.counted("a", 100)

    assert table.choice.fetch_count("a") == 4


@pytest.mark.parametrize(
    ("limits", "intervals", "one_by_one"),
    [({"h": 2}, None, False), (None, {"h": 1.0}, False), (None, None, True)],
)
def test_jobs_of_limited_handlers_are_fetched_one_by_one(
    limits: dict[str, int] | None,
    intervals: dict[str, float] | None,
    one_by_one: bool,  # noqa: FBT001
) -> None:
    """A worker does not hoard what it can't run."""
    slots = make_slots("a", concurrency=8, limits=limits, intervals=intervals)
    table = make_table("a", slots=slots, one_by_one=one_by_one, ready=["a"])
    for _ in range(100):
        table.fetch_found("a")

    assert not table.choice.wants_count("a")
    table.counted("a", 100)
    assert table.choice.fetch_count("a") == 1


# which queue is next


def test_nothing_is_fetched_from_a_queue_that_nothing_is_known_of() -> None:
    """A new worker listens to its queues, and nothing is due."""
    table = make_table("a", "b")

    assert (table.choice.next_queue(), table.next_time()) == (None, None)
    assert table.choice.listenable() == ["a", "b"]


def test_nothing_is_fetched_without_a_free_slot() -> None:
    """A worker whose slots are all busy fetches from no queue and listens to none."""
    table = make_table(concurrency=1, ready=["a"])
    fetch_one(table, "a")

    assert table.choice.next_queue() is None
    assert table.choice.listenable() == []


def test_a_closed_queue_is_left_alone() -> None:
    """While its handlers are at their limits, it is neither fetched from nor listened to."""
    slots = make_slots(handlers_of={"a": ("h",), "b": ("h", "g")}, limits={"h": 1})
    table = make_table(slots=slots, ready=["a"])
    fetch_one(table, "a")

    assert table.choice.next_queue() is None
    assert table.choice.listenable() == ["b"]


def test_queues_that_are_full_of_jobs_take_turns() -> None:
    """Each of several busy queues is fetched from as often as the others."""
    queues = ("a", "b", "c")
    table = make_table(*queues, concurrency=1, ready=queues)

    chosen = []
    for _ in range(9):
        queue = table.choice.next_queue()
        assert queue is not None
        chosen.append(queue)
        fetch_one(table, queue)
        end_one(table, queue)

    assert Counter(chosen) == dict.fromkeys(queues, 3)
    assert chosen[:3] == chosen[3:6] == chosen[6:]


def test_a_queue_that_becomes_ready_comes_first() -> None:
    """A lone job on a quiet queue does not wait for the others' rotation."""
    table = make_table("a", "b", "c", concurrency=1, ready=["a", "b"])
    for queue in ("c", "a", "b"):
        fetch_one(table, queue)
        end_one(table, queue)

    table.mark_ready("c")

    assert table.choice.next_queue() == "c"


def test_a_hint_is_good_for_one_fetch() -> None:
    """A marker tells of one job, not of how many."""
    table = make_table()
    table.mark_ready("a")

    fetch_one(table, "a")

    assert table.choice.next_queue() is None


def test_seen_jobs_are_good_for_fetches_until_one_finds_nothing() -> None:
    """Where jobs were seen, one fetch follows the other."""
    table = make_table(ready=["a"])

    fetch_one(table, "a")
    still = table.choice.next_queue()
    fetch_none(table, "a")

    assert still == "a"
    assert table.choice.next_queue() is None


@pytest.mark.parametrize("queues", [2, 4])
def test_a_busy_queue_is_not_starved_by_one_that_keeps_becoming_ready(queues: int) -> None:
    """Rate limits that end and jobs that fall due make queues ready again and again.

    With one slot and long jobs, such queues come first each time the slot is free.
    """
    names = [f"q{number}" for number in range(queues)]
    busy, *limited = names
    table = make_table(*names, concurrency=1, ready=names)

    chosen = []
    now = START
    for _ in range(40):
        queue = table.choice.next_queue()
        assert queue is not None
        chosen.append(queue)
        if queue in limited:
            fetch_none(table, queue, now, limited_for=1)
        else:
            fetch_one(table, queue)
            end_one(table, queue)
        now += 10
        table.pass_time(now)

    gaps = "".join("x" if queue == busy else "." for queue in chosen).split("x")
    assert max(len(gap) for gap in gaps) <= MOST_SKIPS + len(limited)


@given(names=st.lists(st.sets(st.sampled_from(["b", "c", "d"])), min_size=20, max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_ready_queue_is_chosen_soon_whatever_the_others_do(names: list[set[str]]) -> None:
    """However other queues become empty and ready again, a busy one has its turn."""
    table = make_table("a", "b", "c", "d", concurrency=1, ready=["a"])
    waited = 0

    for newly_ready in names:
        for name in newly_ready:
            table.mark_ready(name)
        queue = table.choice.next_queue()
        assert queue is not None
        fetch_one(table, queue)
        end_one(table, queue)
        waited = 0 if queue == "a" else waited + 1

        assert waited <= MOST_SKIPS + 3


# what a fetch that finds nothing says


def test_jobs_that_were_seen_and_can_not_be_fetched_are_stopped_by_something() -> None:
    """A fetch in vain says so only where jobs were seen and none was found since."""
    table = make_table()

    wanted = []
    table.mark_ready("a")
    wanted.append(fetch_none(table, "a"))
    table.mark_ready("a", certain=True)
    wanted.append(fetch_none(table, "a"))
    table.mark_ready("a", certain=True)
    fetch_one(table, "a")
    wanted.append(fetch_none(table, "a"))

    assert wanted == [FollowUp.CHECK_STALLED, FollowUp.ASK_WHY_STOPPED, FollowUp.CHECK_STALLED]


def test_a_hint_during_a_fetch_in_vain_is_not_lost() -> None:
    """A job that was added after the fetch ran on the server is looked for again.

    Its marker may arrive before the fetch's own answer, which then says nothing of it.
    """
    table = make_table()
    table.mark_ready("a")

    wanted = fetch_none(table, "a", meanwhile=lambda: table.mark_ready("a"))

    assert wanted is not FollowUp.ASK_WHY_STOPPED
    assert table.choice.next_queue() == "a"


def test_jobs_seen_during_a_fetch_in_vain_are_looked_for_before_a_stop_is_assumed() -> None:
    """Only a fetch that began after they were seen can say that something stops them."""
    table = make_table()
    table.mark_ready("a")

    first = fetch_none(table, "a", meanwhile=lambda: table.mark_ready("a", certain=True))
    second = fetch_none(table, "a")

    assert first is not FollowUp.ASK_WHY_STOPPED
    assert second is FollowUp.ASK_WHY_STOPPED


def test_a_marker_during_a_fetch_that_finds_a_job_asks_for_a_probe() -> None:
    """It may have been the fetch's own, or tell of another job: nothing else will."""
    table = make_table()

    hinted = fetch_one(table, "a", meanwhile=lambda: table.mark_ready("a"))
    quiet = fetch_one(table, "a")

    assert (hinted, quiet) == (FollowUp.PROBE, FollowUp.NONE)


# staying on a queue


def test_a_slot_stays_on_its_queue_while_no_other_is_ready() -> None:
    """Completing a job and fetching the next one in one command is the cheapest way."""
    table = make_table(ready=["a"])

    assert table.choice.stays("a", Turn(START, jobs=10_000), START + 10_000)


def test_a_slot_does_not_stay_on_a_queue_that_is_not_ready() -> None:
    """There is nothing to fetch there as far as is known."""
    assert not make_table().choice.stays("a", Turn(START), START)


def test_a_slot_leaves_at_once_for_a_queue_that_is_newly_ready() -> None:
    """A lone job elsewhere waits for one job to end, not for a whole turn."""
    table = make_table(ready=["a"])
    fetch_one(table, "a")

    table.mark_ready("b")

    assert not table.choice.stays("a", Turn(START, jobs=1), START)


@pytest.mark.parametrize(
    ("jobs", "seconds", "stays"),
    [
        pytest.param(1, 0.0, True, id="begun"),
        pytest.param(TURN_JOBS - 1, TURN_SECONDS * 0.99, True, id="nearly-over"),
        pytest.param(TURN_JOBS, 0.0, False, id="jobs-over"),
        pytest.param(1, TURN_SECONDS, False, id="time-over"),
        pytest.param(1, -1.0, False, id="clock-set-back"),
    ],
)
def test_a_turn_beside_busy_queues_is_bounded(jobs: int, seconds: float, stays: bool) -> None:  # noqa: FBT001
    """Beside another busy queue, a slot stays for so many jobs and so long."""
    table = make_table(ready=["a", "b"])
    for queue in ("a", "b"):
        fetch_one(table, queue)

    assert table.choice.stays("a", Turn(START, jobs=jobs), START + seconds) is stays


def test_a_slot_does_not_leave_for_a_queue_that_is_limited() -> None:
    """Nothing can be fetched there yet."""
    table = make_table(ready=["a", "b"])
    fetch_none(table, "b", limited_for=5)

    assert table.choice.stays("a", Turn(START, jobs=TURN_JOBS), START)


def test_only_the_last_slot_leaves_other_queues_unwatched() -> None:
    """While slots are free their markers are listened to; others need no probe."""
    table = make_table("a", "b", "c", "d", concurrency=2, ready=["a", "b"])
    fetch_none(table, "c", limited_for=5)

    with table.slots.reserve():
        with_one_free = table.choice.unwatched("a")
        fetch_one(table, "a")
        with_none_free = table.choice.unwatched("a")

    assert with_one_free == []
    assert with_none_free == ["d"]
