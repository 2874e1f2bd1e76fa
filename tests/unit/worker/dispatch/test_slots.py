"""Slots: limits are kept, parked jobs wait in order, and no reserved slot is forgotten."""

from __future__ import annotations

import pytest

from tests.unit.worker.dispatch.tables import START, admit_one, make_slots

# slots and reservations


def test_every_slot_is_free_at_the_start() -> None:
    """A new worker runs nothing and has nothing parked."""
    slots = make_slots(concurrency=3)

    assert (slots.free, slots.running, slots.parked) == (3, 0, 0)


def test_a_reserved_slot_is_not_free() -> None:
    """A fetch under way holds its slot, and frees it when it finds nothing."""
    slots = make_slots(concurrency=1)

    with slots.reserve():
        during = slots.free

    assert (during, slots.free) == (0, 1)


def test_an_exception_frees_a_reserved_slot() -> None:
    """Whatever ends a fetch, its slot is free afterwards."""
    slots = make_slots(concurrency=1)

    with pytest.raises(ConnectionError), slots.reserve():
        raise ConnectionError

    assert slots.free == 1


def test_a_reservation_ends_once() -> None:
    """Ending it early and leaving its block frees one slot, not two."""
    slots = make_slots(concurrency=2)

    with slots.reserve() as slot:
        slot.end()
        ended_early = slots.free
        slot.end()

    assert (ended_early, slots.free) == (2, 2)


def test_a_job_uses_its_reservation_up() -> None:
    """Leaving the block does not free the slot of a job that has it."""
    slots = make_slots(concurrency=2)

    with slots.reserve() as slot:
        slots.admit(slot, "h", "job", START)

    assert (slots.free, slots.running) == (1, 1)


def test_a_parked_job_gives_its_reservation_back() -> None:
    """It has no slot, and leaving the block does not free another one's."""
    slots = make_slots(concurrency=2, limits={"h": 1})
    admit_one(slots)

    with slots.reserve() as slot:
        slots.admit(slot, "h", "parked", START)

    assert (slots.free, slots.running, slots.parked) == (1, 1, 1)


def test_reservations_are_apart() -> None:
    """The end of one leaves the others reserved."""
    slots = make_slots(concurrency=3)

    with slots.reserve(), slots.reserve() as slot:
        slot.end()

        assert slots.free == 2

    assert slots.free == 3


# limits and parked jobs


def test_a_handler_at_its_limit_has_its_jobs_parked() -> None:
    """The job over the limit takes no slot."""
    slots = make_slots(concurrency=4, limits={"h": 1})

    first, second = admit_one(slots, job="1"), admit_one(slots, job="2")

    assert (first, second) == (True, False)
    assert (slots.running, slots.parked, slots.free) == (1, 1, 3)


def test_a_parked_job_waits_for_its_handlers_limit() -> None:
    """It runs when a job of its handler has ended, and not before."""
    slots = make_slots(limits={"h": 1})
    admit_one(slots, job="1")
    admit_one(slots, job="2")

    early = slots.unpark(START)
    slots.release("h")
    late = slots.unpark(START)

    assert (early, late) == (None, "2")
    assert (slots.running, slots.parked) == (1, 0)


def test_a_parked_job_waits_for_a_free_slot() -> None:
    """Room at its handler alone is not enough."""
    slots = make_slots(concurrency=1, limits={"h": 1})
    admit_one(slots, job="1")
    admit_one(slots, job="2")
    slots.release("h")
    admit_one(slots, "other")

    assert slots.has_startable
    assert slots.unpark(START) is None


def test_parked_jobs_run_in_the_order_in_which_they_were_parked() -> None:
    """Of the handlers with room, the longest parked job comes first, whosever it is."""
    slots = make_slots(concurrency=8, limits={"h": 1, "g": 1})
    for handler in ("h", "g"):
        admit_one(slots, handler, f"{handler}-running")
    for handler, job in (("g", "1"), ("h", "2"), ("g", "3")):
        admit_one(slots, handler, job)
    slots.release("h")
    slots.release("g")

    unparked = [slots.unpark(START), slots.unpark(START), slots.unpark(START)]

    assert unparked == ["1", "2", None]


def test_a_new_job_does_not_overtake_parked_ones_of_its_handler() -> None:
    """A job fetched just when its handler has room again goes behind those that were parked."""
    slots = make_slots(concurrency=4, limits={"h": 1})
    admit_one(slots, job="running")
    admit_one(slots, job="older")
    slots.release("h")

    overtakes = admit_one(slots, job="newer")

    assert not overtakes
    assert slots.unpark(START) == "older"


def test_an_adopted_job_is_parked_where_no_slot_is_free() -> None:
    """Never more run than there are slots, whatever a fetch whose answer was lost brings back."""
    slots = make_slots(concurrency=1)
    admit_one(slots, job="running")

    runs = admit_one(slots, job="adopted")
    slots.release("h")

    assert not runs
    assert slots.unpark(START) == "adopted"


def test_a_lost_job_is_dropped_only_where_it_is_parked() -> None:
    """Dropping a job that is not parked here changes nothing, even if it equals one that is."""
    job, equal = (f"job-{number}" for number in (1, 1))
    slots = make_slots(limits={"h": 1})
    admit_one(slots, job="running")
    admit_one(slots, job=job)

    dropped = [slots.drop_parked(equal), slots.drop_parked(job), slots.drop_parked(job)]

    assert dropped == [False, True, False]
    assert slots.parked == 0


def test_clearing_gives_the_parked_jobs_in_order() -> None:
    """At a shutdown every parked job comes out once, the longest parked first."""
    slots = make_slots(concurrency=8, limits={"h": 1, "g": 1})
    for handler in ("h", "g"):
        admit_one(slots, handler, "running")
    for handler, job in (("g", "1"), ("h", "2"), ("g", "3")):
        admit_one(slots, handler, job)

    cleared = slots.clear_parked()

    assert cleared == ["1", "2", "3"]
    assert slots.parked == 0
    assert slots.clear_parked() == []


# queues that are open


def test_a_queue_is_closed_while_all_its_handlers_are_at_their_limits() -> None:
    """A queue with other handlers stays open."""
    slots = make_slots(handlers_of={"a": ("h",), "b": ("h", "g")}, limits={"h": 1})

    admit_one(slots)

    assert (slots.is_open("a"), slots.is_open("b")) == (False, True)


def test_a_queue_without_handlers_is_open() -> None:
    """Its jobs fail at once, whatever else is at its limit."""
    slots = make_slots(handlers_of={"a": ("h",), "b": ()}, limits={"h": 1})

    admit_one(slots)

    assert slots.is_open("b")


def test_a_full_park_closes_queues_whose_jobs_might_be_parked() -> None:
    """With no room to park, a queue is open only while all its handlers have room."""
    slots = make_slots(
        concurrency=8,
        park_limit=1,
        handlers_of={"a": ("h", "g"), "b": ("g",)},
        limits={"h": 1},
    )
    admit_one(slots, "h", "running")
    admit_one(slots, "h", "parked")

    assert not slots.is_open("a")
    assert slots.is_open("b")


def test_fetches_under_way_count_as_parked_where_they_might_be() -> None:
    """Fetches that run at the same time do not fill the park beyond its limit together."""
    slots = make_slots(concurrency=8, park_limit=1, handlers_of={"a": ("h", "g")}, limits={"h": 1})
    reserved = []
    while slots.is_open("a") and slots.free > 0:
        reserved.append(slots.reserve())

    runs = [slots.admit(slot, "h", "job", START) for slot in reserved]

    assert runs.count(True) == 1
    assert runs.count(False) <= 1


def test_a_park_of_no_size_parks_nothing() -> None:
    """With park_limit 0, a queue is open only while every handler of it has room for a job."""
    slots = make_slots(concurrency=8, park_limit=0, handlers_of={"a": ("h", "g")}, limits={"h": 2})

    runs = []
    while slots.is_open("a"):
        runs.append(admit_one(slots))

    assert runs == [True, True]


def test_a_queue_has_limits_if_one_of_its_handlers_has() -> None:
    """A concurrency or a rate; a queue that no handler listens to has none."""
    slots = make_slots(
        handlers_of={"a": ("free", "h"), "b": ("free", "g"), "c": ("free",)},
        limits={"h": 1},
        intervals={"g": 1.0},
    )

    assert [slots.has_limits(queue) for queue in "abcd"] == [True, True, False, False]


# rates


def test_a_handler_that_waits_has_its_jobs_parked_until_its_time() -> None:
    """The job after a start is parked with a slot free, and runs when the wait is over."""
    slots = make_slots(intervals={"h": 2.0})

    first, second = admit_one(slots, job="1"), admit_one(slots, job="2")
    slots.end_waits(START + 1.9)
    early = slots.unpark(START + 1.9)
    slots.end_waits(START + 2.0)
    late = slots.unpark(START + 2.0)

    assert (first, second) == (True, False)
    assert (early, late) == (None, "2")


def test_an_unparked_job_is_a_start_too() -> None:
    """The next one waits for a whole interval after it."""
    slots = make_slots(intervals={"h": 2.0})
    for job in "123":
        admit_one(slots, job=job)

    slots.end_waits(START + 5)
    unparked = slots.unpark(START + 5), slots.unpark(START + 5)

    assert unparked == ("2", None)
    assert slots.next_start() == START + 7


def test_a_queue_is_closed_while_its_only_handler_waits() -> None:
    """It is open again when the wait is over."""
    slots = make_slots("a", intervals={"h": 2.0})

    admit_one(slots)
    during = slots.is_open("a")
    slots.end_waits(START + 2.0)

    assert (during, slots.is_open("a")) == (False, True)


def test_a_full_park_closes_a_queue_whose_job_might_have_to_wait() -> None:
    """With a fetch under way for a handler with a rate, the next job could not start."""
    slots = make_slots("a", park_limit=0, intervals={"h": 2.0})

    alone = slots.is_open("a")
    with slots.reserve():
        during = slots.is_open("a")

    assert (alone, during) == (True, False)


def test_without_rates_there_is_no_next_start() -> None:
    """And ending waits does nothing."""
    slots = make_slots()

    admit_one(slots)
    slots.end_waits(START)

    assert (slots.has_rates, slots.next_start()) == (False, None)
