"""Slots: every job in one place, limits kept, parked jobs in order, no queue starved or unheard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from convolab_worker.worker.dispatch.slots import MOST_PASSES, TURN_JOBS, TURN_SECONDS, Slots, Turn

FOREVER = float("inf")
NO_HANDLER = "(no handler)"
START = 1_000_000.0


def make_slots(
    *queues: str,
    concurrency: int = 4,
    park_limit: int = 100,
    handlers_of: Mapping[str, Sequence[str]] | None = None,
    limits: Mapping[str, int] | None = None,
    intervals: Mapping[str, float] | None = None,
    one_by_one: bool = False,
    ready: Sequence[str] = (),
) -> Slots[str]:
    """Slots of a worker on ``queues``; of those, ``ready`` are full of jobs."""
    names = queues or ("a", "b")
    slots: Slots[str] = Slots(
        names,
        concurrency=concurrency,
        park_limit=park_limit,
        handlers_of=handlers_of or dict.fromkeys(names, ("h",)),
        limits=limits or {},
        intervals=intervals,
        one_by_one=one_by_one,
    )
    for queue in ready:
        slots.ready(queue, sure=True)
    return slots


def run_one(slots: Slots[str], queue: str, handler: str = "h", job: str = "job") -> bool:
    """Take a job from ``queue`` and admit it: whether it runs."""
    slots.reserve(queue)
    slots.took(queue)
    return slots.admit(handler, job, START)


def find_nothing(slots: Slots[str], queue: str) -> bool:
    """Take from ``queue`` in vain: whether something holds its jobs."""
    slots.reserve(queue)
    slots.cancel_reservation()
    return slots.nothing(queue)


def fill(
    slots: Slots[str], waiting: dict[str, int], counted: int | None = None
) -> list[tuple[str, int]]:
    """Take ``waiting`` jobs as the engine does: each round's queue, and how many takes it sent.

    A count, which shows as a round of none, tells of ``counted`` jobs, or of those that wait.
    """
    rounds = []
    while (queue := slots.next_queue(START)) is not None:
        count = slots.takes(queue, START)
        is_counted = slots.wants_count(queue)
        rounds.append((queue, count))
        for _ in range(count):
            slots.reserve(queue)
        for _ in range(count):
            if waiting[queue]:
                waiting[queue] -= 1
                slots.took(queue)
                slots.admit("h", "job", START)
            else:
                slots.cancel_reservation()
                slots.nothing(queue)
        if is_counted:
            rounds.append((queue, 0))
            slots.counted(queue, waiting[queue] if counted is None else counted)
    return rounds


# how many at once


def test_fifty_slots_fill_in_few_rounds() -> None:
    """A few takes show that jobs flow; from a count on, each round doubles what was found."""
    slots = make_slots("a", concurrency=50, ready=["a"])

    rounds = fill(slots, {"a": 1000})

    assert rounds == [("a", n) for n in (1, 1, 1, 1, 0, 4, 8, 16, 18)]
    assert slots.running == 50


@pytest.mark.parametrize(
    ("jobs", "rounds"),
    [(1, [1, 1]), (2, [1, 1, 1]), (4, [1, 1, 1, 1, 0, 1]), (7, [1, 1, 1, 1, 0, 3, 1])],
)
def test_no_more_takes_leave_than_there_are_jobs(jobs: int, rounds: list[int]) -> None:
    """But the one that finds the queue empty, as ever; few jobs are not counted."""
    slots = make_slots("a", concurrency=50, ready=["a"])

    assert fill(slots, {"a": jobs}) == [("a", n) for n in rounds]


def test_what_stops_a_queue_costs_no_more_takes_than_have_found_a_job() -> None:
    """A queue may be paused, limited or full at any time, however many jobs wait."""
    slots = make_slots("a", concurrency=50, ready=["a"])

    rounds = [count for _, count in fill(slots, {"a": 8}, counted=1000)]

    assert rounds == [1, 1, 1, 1, 0, 4, 8]
    assert slots.takes("a", START) == 1


def test_jobs_that_came_after_a_count_are_counted_anew() -> None:
    """A count that is used up says nothing of later jobs."""
    slots = make_slots("a", concurrency=50, ready=["a"])
    for _ in range(4):
        run_one(slots, "a")
    slots.counted("a", 1)
    run_one(slots, "a")

    wanted = []
    for _ in range(4):
        wanted.append(slots.wants_count("a"))
        run_one(slots, "a")

    assert wanted == [False, False, False, True]


def test_jobs_that_came_alone_make_no_burst() -> None:
    """Each was announced by a hint of its own: two jobs after them are not counted."""
    slots = make_slots("a", concurrency=50)
    for _ in range(5):
        slots.ready("a")
        run_one(slots, "a")
    slots.ready("a", sure=True)

    assert not slots.wants_count("a")


def test_ready_queues_share_the_free_slots() -> None:
    """One of three that are ready gets a third of them at once."""
    slots = make_slots("a", "b", "c", concurrency=12, ready=["a", "b", "c"])
    slots.standing["a"].found = 100
    slots.counted("a", 100)

    assert slots.takes("a", START) == 4


@pytest.mark.parametrize(
    ("limits", "intervals", "one_by_one"),
    [({"h": 2}, None, False), (None, {"h": 1.0}, False), (None, None, True)],
)
def test_jobs_of_limited_handlers_are_taken_one_by_one(
    limits: dict[str, int] | None,
    intervals: dict[str, float] | None,
    one_by_one: bool,  # noqa: FBT001
) -> None:
    """A worker does not hoard what it can't run."""
    slots = make_slots(
        "a", concurrency=8, limits=limits, intervals=intervals, one_by_one=one_by_one, ready=["a"]
    )
    slots.standing["a"].found = 100

    assert not slots.wants_count("a")
    slots.counted("a", 100)
    assert slots.takes("a", START) == 1


# slots and their limits


def test_marker_during_a_take_that_finds_a_job_is_told_of() -> None:
    """It may have been the take's own, or tell of another job: nothing else will."""
    slots = make_slots()

    slots.reserve("a")
    slots.ready("a")
    hinted = slots.took("a")
    slots.reserve("a")
    quiet = slots.took("a")

    assert (hinted, quiet) == (True, False)


def test_every_slot_is_free_at_the_start() -> None:
    """A new worker has all its slots, runs nothing and takes from no queue it knows nothing of."""
    slots = make_slots(concurrency=3)

    assert (slots.free, slots.running, slots.parked) == (3, 0, 0)
    assert slots.next_queue(START) is None
    assert slots.next_time() is None


def test_a_reserved_slot_is_not_free() -> None:
    """A take under way holds its slot, and frees it when it finds nothing."""
    slots = make_slots(concurrency=1, ready=["a"])

    slots.reserve("a")
    held = slots.free
    slots.cancel_reservation()

    assert held == 0
    assert slots.free == 1


def test_nothing_is_taken_without_a_free_slot() -> None:
    """A worker whose slots are all busy takes from no queue and waits for none."""
    slots = make_slots(concurrency=1, ready=["a"])
    run_one(slots, "a")

    assert slots.next_queue(START) is None
    assert slots.waitable(START) == []


def test_a_handler_at_its_limit_has_its_jobs_parked() -> None:
    """The job over the limit is parked, and takes no slot."""
    slots = make_slots(concurrency=4, limits={"h": 1})

    first, second = run_one(slots, "a", job="1"), run_one(slots, "a", job="2")

    assert (first, second) == (True, False)
    assert (slots.running, slots.parked, slots.free) == (1, 1, 3)


def test_a_parked_job_waits_for_its_handlers_limit() -> None:
    """It is handed out when a job of its handler has ended, and not before."""
    slots = make_slots(limits={"h": 1})
    run_one(slots, "a", job="1")
    run_one(slots, "a", job="2")

    early = slots.unpark(START)
    slots.release("a", "h")
    late = slots.unpark(START)

    assert (early, late) == (None, "2")
    assert (slots.running, slots.parked) == (1, 0)


def test_a_parked_job_waits_for_a_free_slot() -> None:
    """Room at its handler alone is not enough."""
    slots = make_slots(concurrency=1, limits={"h": 1})
    run_one(slots, "a", job="1")
    run_one(slots, "a", job="2")
    slots.release("a", "h")
    run_one(slots, "a", "other")

    assert slots.has_ripe
    assert slots.unpark(START) is None


def test_parked_jobs_run_in_the_order_in_which_they_were_parked() -> None:
    """Of the handlers with room, the longest parked job comes first, whosever it is."""
    slots = make_slots(concurrency=8, limits={"h": 1, "g": 1})
    for handler in ("h", "g"):
        run_one(slots, "a", handler, f"{handler}-running")
    for handler, job in (("g", "1"), ("h", "2"), ("g", "3")):
        run_one(slots, "a", handler, job)
    slots.release("a", "h")
    slots.release("a", "g")

    handed_out = [slots.unpark(START), slots.unpark(START), slots.unpark(START)]

    assert handed_out == ["1", "2", None]


def test_a_new_job_does_not_overtake_parked_ones_of_its_handler() -> None:
    """A job taken just when its handler has room again goes behind those that were parked."""
    slots = make_slots(concurrency=4, limits={"h": 1})
    run_one(slots, "a", job="running")
    run_one(slots, "a", job="older")
    slots.release("a", "h")

    overtakes = run_one(slots, "a", job="newer")

    assert not overtakes
    assert slots.unpark(START) == "older"


def test_a_job_that_is_ours_already_is_parked_where_no_slot_is_free() -> None:
    """Never more run than there are slots, whatever a take whose answer was lost brings back."""
    slots = make_slots(concurrency=1)
    run_one(slots, "a", job="running")

    runs = run_one(slots, "a", job="adopted")
    slots.release("a", "h")

    assert not runs
    assert slots.unpark(START) == "adopted"


def test_a_lost_job_is_dropped_only_where_it_is_parked() -> None:
    """Dropping a job that is not parked here changes nothing, even if it equals one that is."""
    job, equal = (f"job-{number}" for number in (1, 1))
    slots = make_slots(limits={"h": 1})
    run_one(slots, "a", job="running")
    run_one(slots, "a", job=job)

    dropped = [slots.drop_parked(equal), slots.drop_parked(job), slots.drop_parked(job)]

    assert dropped == [False, True, False]
    assert slots.parked == 0


def test_clearing_gives_the_parked_jobs_in_order() -> None:
    """At a shutdown every parked job comes out once, the longest parked first."""
    slots = make_slots(concurrency=8, limits={"h": 1, "g": 1})
    for handler in ("h", "g"):
        run_one(slots, "a", handler, "running")
    for handler, job in (("g", "1"), ("h", "2"), ("g", "3")):
        run_one(slots, "a", handler, job)

    cleared = slots.clear_parked()

    assert cleared == ["1", "2", "3"]
    assert slots.parked == 0
    assert slots.clear_parked() == []


def test_a_queue_is_closed_while_all_its_handlers_are_at_their_limits() -> None:
    """What a queue of its own would give could only be parked: nothing is taken, none waited for.

    A queue with other handlers stays open beside it.
    """
    slots = make_slots(handlers_of={"a": ("h",), "b": ("h", "g")}, limits={"h": 1})
    run_one(slots, "a")
    slots.ready("a", sure=True)

    assert not slots.is_open("a")
    assert slots.next_queue(START) is None
    assert slots.waitable(START) == ["b"]


def test_a_full_park_closes_queues_whose_jobs_might_be_parked() -> None:
    """With no room to park, a queue is open only while all its handlers have room."""
    slots = make_slots(
        concurrency=8,
        park_limit=1,
        handlers_of={"a": ("h", "g"), "b": ("g",)},
        limits={"h": 1},
    )
    run_one(slots, "a", "h", "running")
    run_one(slots, "a", "h", "parked")

    assert not slots.is_open("a")
    assert slots.is_open("b")


def test_takes_under_way_count_as_parked_where_they_might_be() -> None:
    """Takes that run at the same time do not fill the park beyond its limit together."""
    slots = make_slots(
        concurrency=8, park_limit=1, handlers_of={"a": ("h", "g")}, limits={"h": 1}, ready=["a"]
    )
    reserved = 0
    while slots.next_queue(START) is not None:
        slots.reserve("a")
        reserved += 1

    runs = [slots.admit("h", str(number), START) for number in range(reserved)]

    assert runs.count(False) <= 1


def test_a_park_of_no_size_parks_nothing() -> None:
    """With park_limit 0, a job is taken only while every handler of its queue has room for it."""
    slots = make_slots(
        concurrency=8, park_limit=0, handlers_of={"a": ("h", "g")}, limits={"h": 2}, ready=["a"]
    )

    runs = []
    while slots.next_queue(START) is not None:
        runs.append(run_one(slots, "a"))

    assert runs == [True, True]


# which queue is next


def test_queues_that_are_full_of_jobs_take_turns() -> None:
    """Each of several busy queues is taken from as often as the others."""
    queues = ("a", "b", "c")
    slots = make_slots(*queues, concurrency=1, ready=queues)

    chosen = []
    for _ in range(9):
        queue = slots.next_queue(START)
        assert queue is not None
        chosen.append(queue)
        run_one(slots, queue)
        slots.release(queue, "h")

    assert Counter(chosen) == dict.fromkeys(queues, 3)
    assert chosen[:3] == chosen[3:6] == chosen[6:]


def test_a_queue_that_becomes_ready_comes_first() -> None:
    """A lone job on a quiet queue does not wait for the others' rotation."""
    slots = make_slots("a", "b", "c", concurrency=1, ready=["a", "b"])
    run_one(slots, "c")
    slots.release("c", "h")
    for queue in ("a", "b"):
        run_one(slots, queue)
        slots.release(queue, "h")

    slots.ready("c")

    assert slots.next_queue(START) == "c"


def test_a_hint_is_good_for_one_take() -> None:
    """A marker tells of one job, not of how many."""
    slots = make_slots()
    slots.ready("a")

    run_one(slots, "a")

    assert slots.next_queue(START) is None


def test_seen_jobs_are_good_for_takes_until_one_finds_nothing() -> None:
    """Where jobs were seen, one take follows the other."""
    slots = make_slots(ready=["a"])

    run_one(slots, "a")
    still = slots.next_queue(START)
    find_nothing(slots, "a")

    assert still == "a"
    assert slots.next_queue(START) is None


def test_jobs_that_were_seen_and_can_not_be_taken_are_held_by_something() -> None:
    """A take in vain says so only where jobs were seen and none was found since."""
    slots = make_slots()

    outcomes = []
    slots.ready("a")
    outcomes.append(find_nothing(slots, "a"))
    slots.ready("a", sure=True)
    outcomes.append(find_nothing(slots, "a"))
    slots.ready("a", sure=True)
    run_one(slots, "a")
    outcomes.append(find_nothing(slots, "a"))

    assert outcomes == [False, True, False]


def test_a_hint_during_a_take_in_vain_is_not_lost() -> None:
    """A job that was added after the take ran on the server is looked for again.

    Its marker may arrive before the take's own answer, which then says nothing of it.
    """
    slots = make_slots()
    slots.ready("a")
    slots.reserve("a")
    slots.ready("a")

    slots.cancel_reservation()
    held = slots.nothing("a")

    assert not held
    assert slots.next_queue(START) == "a"


def test_jobs_seen_during_a_take_in_vain_are_looked_for_before_a_hold_is_assumed() -> None:
    """Only a take that began after they were seen can say that something holds them."""
    slots = make_slots()
    slots.ready("a")
    slots.reserve("a")
    slots.ready("a", sure=True)
    slots.cancel_reservation()

    first = slots.nothing("a")
    second = find_nothing(slots, "a")

    assert (first, second) == (False, True)


@pytest.mark.parametrize("queues", [2, 4])
def test_a_busy_queue_is_not_starved_by_one_that_keeps_becoming_ready(queues: int) -> None:
    """Rate limits that end and jobs that fall due make queues ready again and again.

    With one slot and long jobs, such queues are owed a take each time the slot is free.
    """
    names = [f"q{number}" for number in range(queues)]
    busy, *limited = names
    slots = make_slots(*names, concurrency=1, ready=names)

    chosen = []
    now = START
    for _ in range(40):
        queue = slots.next_queue(now)
        assert queue is not None
        chosen.append(queue)
        slots.reserve(queue)
        slots.cancel_reservation()
        if queue in limited:
            slots.nothing(queue)
            slots.hold(queue, now + 1)
        now += 10
        slots.pass_time(now)

    gaps = "".join("x" if queue == busy else "." for queue in chosen).split("x")
    assert max(len(gap) for gap in gaps) <= MOST_PASSES + len(limited)


# staying on a queue


def test_a_slot_stays_on_its_queue_while_no_other_is_ready() -> None:
    """Finishing a job and taking the next one in one command is the cheapest way."""
    slots = make_slots(ready=["a"])

    assert slots.stays("a", Turn(START, jobs=10_000), START + 10_000)


def test_a_slot_does_not_stay_on_a_queue_that_is_not_ready() -> None:
    """There is nothing to take there as far as is known."""
    slots = make_slots()

    assert not slots.stays("a", Turn(START), START)


def test_a_slot_leaves_at_once_for_a_queue_that_is_owed_a_take() -> None:
    """A lone job elsewhere waits for one job to end, not for a whole turn."""
    slots = make_slots(ready=["a"])
    run_one(slots, "a")

    slots.ready("b")

    assert not slots.stays("a", Turn(START, jobs=1), START)


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
    slots = make_slots(ready=["a", "b"])
    for queue in ("a", "b"):
        run_one(slots, queue)

    assert slots.stays("a", Turn(START, jobs=jobs), START + seconds) is stays


def test_a_slot_does_not_leave_for_a_queue_that_is_held() -> None:
    """Nothing can be taken there yet."""
    slots = make_slots(ready=["a", "b"])
    slots.hold("b", START + 5)

    assert slots.stays("a", Turn(START, jobs=TURN_JOBS), START)


# holds, due times, waits


def test_a_held_queue_is_left_alone_until_its_time() -> None:
    """It is neither taken from nor waited for, and ready when the time has come."""
    slots = make_slots("a")
    slots.ready("a")
    find_nothing(slots, "a")
    slots.hold("a", START + 5)

    early = (slots.next_queue(START), slots.waitable(START), slots.pass_time(START + 4.9))
    woken = slots.pass_time(START + 5)

    assert early == (None, [], [])
    assert woken == ["a"]
    assert slots.next_queue(START + 5) == "a"
    assert slots.next_time() is None


def test_a_paused_queue_is_waited_for() -> None:
    """Its marker ends the pause, and nothing else does."""
    slots = make_slots("a", ready=["a"])
    find_nothing(slots, "a")
    slots.hold("a", FOREVER)

    assert slots.next_queue(START) is None
    assert slots.waitable(START) == ["a"]


def test_a_paused_queue_is_waited_for_after_one_of_its_jobs_fell_due() -> None:
    """A delayed job that falls due during a pause does not make the worker deaf to its end."""
    slots = make_slots("a", ready=["a"])
    find_nothing(slots, "a")
    slots.hold("a", FOREVER)
    slots.due("a", START + 5)

    slots.pass_time(START + 6)

    assert slots.next_queue(START + 6) is None
    assert slots.waitable(START + 6) == ["a"]


def test_the_end_of_a_job_frees_a_queue_that_is_full() -> None:
    """A queue at its own concurrency is looked at again when one of its jobs has ended here."""
    slots = make_slots(ready=["a"])
    run_one(slots, "a")
    slots.nothing("a")
    slots.hold("a", START + 60, full=True)

    held = slots.next_queue(START)
    slots.release("a", "h")

    assert held is None
    assert slots.next_queue(START) == "a"


def test_of_two_due_times_the_earlier_counts() -> None:
    """A later one, or none, changes nothing."""
    slots = make_slots("a")

    for due_at in (START + 9, START + 5, START + 7, None):
        slots.due("a", due_at)

    assert slots.next_time() == START + 5


def test_a_due_time_that_has_passed_asks_for_the_next_one() -> None:
    """The first take after it is told to find out, the one after that is not."""
    slots = make_slots("a")
    slots.due("a", START + 5)
    slots.pass_time(START + 5)

    asked = [slots.reserve("a"), slots.reserve("a")]

    assert asked == [True, False]


def test_only_the_last_slot_leaves_other_queues_unwatched() -> None:
    """While slots are free their markers are waited for; ready and held queues need no look."""
    slots = make_slots("a", "b", "c", "d", concurrency=2, ready=["a", "b"])
    slots.hold("c", START + 5)

    with_two_free = slots.unwatched("a")
    run_one(slots, "a")

    assert with_two_free == []
    assert slots.unwatched("a") == ["d"]


# rates


def test_a_handler_that_rests_has_its_jobs_parked_until_its_time() -> None:
    """The job after a start is parked with a slot free, and runs when the rest is over."""
    slots = make_slots(intervals={"h": 2.0})

    first, second = run_one(slots, "a", job="1"), run_one(slots, "a", job="2")
    slots.end_rests(START + 1.9)
    early = slots.unpark(START + 1.9)
    slots.end_rests(START + 2.0)
    late = slots.unpark(START + 2.0)

    assert (first, second) == (True, False)
    assert (early, late) == (None, "2")


def test_a_queue_whose_handlers_all_rest_is_left_alone() -> None:
    """It is neither taken from nor waited for; one with another handler is."""
    slots = make_slots(
        "a", "b", handlers_of={"a": ("h",), "b": ("h", "free")}, intervals={"h": 2.0}, ready=["a"]
    )
    run_one(slots, "a")
    slots.ready("a", sure=True)

    resting = slots.next_queue(START), slots.waitable(START), slots.rests
    slots.end_rests(START + 2.0)

    assert resting == (None, ["b"], True)
    assert (slots.next_queue(START + 2.0), slots.rests) == ("a", False)


def test_a_rest_does_not_cut_a_wait() -> None:
    """A wait is cut to the due times of queues; the loop alone wakes at the end of a rest."""
    slots = make_slots(intervals={"h": 2.0})

    run_one(slots, "a")

    assert (slots.next_time(), slots.next_rested()) == (None, START + 2.0)


def test_a_full_park_closes_a_queue_whose_job_might_have_to_rest() -> None:
    """With a take under way for a handler with a rate, the next job could not start."""
    slots = make_slots("a", park_limit=0, intervals={"h": 2.0})

    alone = slots.is_open("a")
    slots.reserve("a")

    assert (alone, slots.is_open("a")) == (True, False)


# any order of events


@dataclass(eq=False)
class Piece:
    """A job, as the worker knows it."""

    queue: str
    handler: str


@dataclass(eq=False)
class FetchResult:
    """A take under way, for a slot that has been on its queue for ``turn``."""

    queue: str
    turn: Turn


QUEUES = ("q0", "q1", "q2")
HANDLERS = ("h0", "h1", "h2")
PICK = st.integers(min_value=0, max_value=1_000)


class SlotsMachine(RuleBasedStateMachine):
    """A worker's jobs in any order of takes, answers, ends, losses, holds and passing time."""

    @initialize(
        concurrency=st.integers(1, 4),
        park_limit=st.integers(0, 3),
        handlers_of=st.fixed_dictionaries(
            {queue: st.lists(st.sampled_from(HANDLERS), unique=True) for queue in QUEUES}
        ),
        limits=st.dictionaries(st.sampled_from(HANDLERS), st.integers(1, 2)),
        intervals=st.dictionaries(st.sampled_from(HANDLERS), st.floats(0.5, 15)),
    )
    def start(
        self,
        concurrency: int,
        park_limit: int,
        handlers_of: dict[str, list[str]],
        limits: dict[str, int],
        intervals: dict[str, float],
    ) -> None:
        self.concurrency = concurrency
        self.park_limit = park_limit
        self.handlers_of = handlers_of
        self.limits = limits
        self.intervals = intervals
        self.rest_until: dict[str, float] = {}
        self.started_at: dict[str, float] = {}
        self.slots: Slots[Piece] = Slots(
            QUEUES,
            concurrency=concurrency,
            park_limit=park_limit,
            handlers_of=handlers_of,
            limits=limits,
            intervals=intervals,
        )
        self.now = self.clock = START
        self.takes: list[FetchResult] = []
        self.running: list[tuple[Piece, Turn]] = []
        self.parked: list[Piece] = []
        self.adrift: list[str] = []
        self.adopted = False
        self.waits: Counter[str] = Counter()

    # what the test knows

    def has_room(self, handler: str) -> bool:
        limit = self.limits.get(handler)
        has_place = limit is None or self.running_of(handler) < limit
        return has_place and handler not in self.rest_until

    def begin(self, piece: Piece, turn: Turn) -> None:
        """A job starts; of a handler with a rate, no sooner than its rate says."""
        self.running.append((piece, turn))
        interval = self.intervals.get(piece.handler)
        if interval is not None:
            before = self.started_at.get(piece.handler, -FOREVER)
            assert self.clock >= before + interval, "a start too many"
            self.started_at[piece.handler] = self.clock
            self.rest_until[piece.handler] = self.clock + interval

    def running_of(self, handler: str) -> int:
        return sum(piece.handler == handler for piece, _ in self.running)

    def ripe(self) -> list[Piece]:
        return [piece for piece in self.parked if self.has_room(piece.handler)]

    def takeable(self) -> list[str]:
        return [
            queue
            for queue, standing in self.slots.standing.items()
            if standing.ready
            and (standing.held_until is None or standing.held_until <= self.now)
            and self.slots.is_open(queue)
        ]

    def admit(self, piece: Piece, turn: Turn) -> None:
        waiting = {parked.handler for parked in self.parked}
        fits = self.concurrency - len(self.running) - len(self.takes) > 0
        expected = fits and self.has_room(piece.handler) and piece.handler not in waiting
        self.slots.took(piece.queue)
        runs = self.slots.admit(piece.handler, piece, self.clock)
        assert runs is expected
        if runs:
            self.begin(piece, turn)
        else:
            self.parked.append(piece)

    def start_take(self, queue: str, turn: Turn) -> None:
        self.slots.reserve(queue)
        self.takes.append(FetchResult(queue, turn))
        del self.waits[queue]

    def fetch(self) -> bool:
        candidates = self.takeable()
        queue = self.slots.next_queue(self.now)
        if self.slots.free <= 0 or not candidates:
            assert queue is None
            return False
        assert queue in candidates
        self.waits = Counter({name: self.waits[name] + 1 for name in candidates})
        assert max(self.waits.values()) <= MOST_PASSES + 2 * len(QUEUES), "a queue starves"
        self.start_take(queue, Turn(self.now))
        return True

    def land(self, which: int, handler: int) -> None:
        take = self.takes.pop(which)
        handlers = [*self.handlers_of[take.queue], NO_HANDLER]
        self.admit(Piece(take.queue, handlers[handler % len(handlers)]), take.turn)

    # what happens

    @rule(queue=st.sampled_from(QUEUES), sure=st.booleans())
    def hear(self, queue: str, sure: bool) -> None:  # noqa: FBT001
        self.slots.ready(queue, sure=sure)

    @rule(queue=st.sampled_from(QUEUES), handlers=st.lists(PICK, min_size=1, max_size=6))
    def see_jobs(self, queue: str, handlers: list[int]) -> None:
        """Jobs are seen on a queue, and taken one after the other."""
        self.slots.ready(queue, sure=True)
        for handler in handlers:
            if self.fetch():
                self.land(len(self.takes) - 1, handler)

    @rule()
    def take(self) -> None:
        self.fetch()

    @precondition(lambda self: self.takes)
    @rule(which=PICK, handler=PICK)
    def find_a_job(self, which: int, handler: int) -> None:
        self.land(which % len(self.takes), handler)

    @precondition(lambda self: self.takes)
    @rule(
        which=PICK,
        why=st.sampled_from(["nothing", "limited", "due", "paused", "full"]),
        seconds=st.floats(0.1, 10),
    )
    def find_nothing(self, which: int, why: str, seconds: float) -> None:
        queue = self.takes.pop(which % len(self.takes)).queue
        self.slots.cancel_reservation()
        held = self.slots.nothing(queue)
        if why == "limited":
            self.slots.hold(queue, self.now + seconds)
        elif why == "due":
            self.slots.due(queue, self.now + seconds)
        elif held and why == "paused":
            self.slots.hold(queue, FOREVER)
        elif held and why == "full":
            self.slots.hold(queue, self.now + seconds, full=True)

    @precondition(lambda self: self.takes)
    @rule(which=PICK)
    def lose_the_answer(self, which: int) -> None:
        self.adrift.append(self.takes.pop(which % len(self.takes)).queue)
        self.slots.cancel_reservation()

    @precondition(lambda self: self.adrift)
    @rule(handler=PICK)
    def adopt(self, handler: int) -> None:
        queue = self.adrift.pop()
        handlers = [*self.handlers_of[queue], NO_HANDLER]
        self.slots.reserve(queue)
        self.adopted = True  # nobody asked whether there is room to park it
        self.admit(Piece(queue, handlers[handler % len(handlers)]), Turn(self.now))

    @precondition(lambda self: self.running)
    @rule(which=PICK)
    def end_a_job(self, which: int) -> None:
        piece, turn = self.running.pop(which % len(self.running))
        self.slots.release(piece.queue, piece.handler)
        turn.jobs += 1
        assert self.slots.has_ripe is bool(self.ripe())
        if self.slots.has_ripe or not self.slots.stays(piece.queue, turn, self.now):
            return
        others = [queue for queue in self.takeable() if queue != piece.queue]
        assert not (others and turn.is_over(self.now))
        assert not any(self.slots.standing[other].owed for other in others)
        if self.slots.free > 0:
            self.start_take(piece.queue, turn)

    @rule()
    def unpark(self) -> None:
        ripe, free = self.ripe(), self.slots.free
        piece = self.slots.unpark(self.clock)
        if not ripe or free <= 0:
            assert piece is None
            return
        assert piece is ripe[0]
        self.parked.remove(piece)
        self.begin(piece, Turn(self.now))

    @precondition(lambda self: self.parked)
    @rule(which=PICK)
    def lose_a_lock(self, which: int) -> None:
        piece = self.parked.pop(which % len(self.parked))
        assert self.slots.drop_parked(piece)
        assert not self.slots.drop_parked(piece)

    @rule()
    def stop(self) -> None:
        assert self.slots.clear_parked() == self.parked
        self.parked.clear()

    @rule(seconds=st.floats(-1, 20))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        woken = self.slots.pass_time(self.now)
        self.clock += max(seconds, 0.0)  # is never set back
        self.slots.end_rests(self.clock)
        self.rest_until = {name: at for name, at in self.rest_until.items() if at > self.clock}
        assert self.slots.next_rested() == min(self.rest_until.values(), default=None)
        assert all(self.slots.standing[queue].ready for queue in woken)
        next_time = self.slots.next_time()
        assert next_time is None or next_time > self.now

    # what is always so

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        assert self.slots.running == len(self.running)
        assert self.slots.parked == len(self.parked)
        assert self.slots.free == self.concurrency - len(self.running) - len(self.takes)

    @invariant()
    def limits_are_kept(self) -> None:
        assert len(self.running) + len(self.takes) <= self.concurrency
        assert all(self.running_of(handler) <= most for handler, most in self.limits.items())
        assert len(self.parked) <= self.park_limit or self.adopted

    @rule()
    def wait_for_what_rests(self) -> None:
        """Parked jobs run at the latest when the rests that are known are over."""
        until = self.slots.next_rested()
        if until is None:
            return
        self.pass_time(until - self.clock)
        while self.ripe() and self.slots.free > 0:
            self.unpark()
        blocked = [p for p in self.parked if p.handler in self.rest_until or self.slots.free <= 0]
        full = [piece for piece in self.parked if not self.has_room(piece.handler)]
        assert {*self.parked} == {*blocked, *full}

    @invariant()
    def every_queue_is_heard(self) -> None:
        """A queue is taken from, waited for, or looked at again at a time that is known."""
        if self.slots.free <= 0:
            return
        waitable = self.slots.waitable(self.now)
        for queue, standing in self.slots.standing.items():
            held = standing.held_until
            timed = held is not None and held != FOREVER
            heard = queue in waitable or queue in self.takeable() or timed
            assert heard or not self.slots.is_open(queue), f"{queue}: {standing}"


TestAnyOrder = SlotsMachine.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


@given(
    owed=st.lists(st.sets(st.sampled_from(["b", "c", "d"])), min_size=20, max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_a_ready_queue_is_chosen_soon_whatever_the_others_do(owed: list[set[str]]) -> None:
    """However other queues become quiet and ready again, a busy one has its turn."""
    slots = make_slots("a", "b", "c", "d", concurrency=1, ready=["a"])
    waited = 0

    for names in owed:
        for name in names:
            slots.ready(name)
        queue = slots.next_queue(START)
        assert queue is not None
        run_one(slots, queue)
        slots.release(queue, "h")
        waited = 0 if queue == "a" else waited + 1

        assert waited <= MOST_PASSES + 3
