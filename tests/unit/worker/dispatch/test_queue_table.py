"""Queue states: limits, pauses and queues that are full, due times, markers and probes."""

from __future__ import annotations

import pytest

from convolab_worker.bullmq.protocol.records import Marker, Restrictions
from convolab_worker.bullmq.worker_side.backend import QueueContents
from convolab_worker.worker.dispatch.queue_state import Availability, FollowUp, Turn
from tests.unit.worker.dispatch.tables import (
    START,
    end_one,
    fetch_none,
    fetch_one,
    fill_up,
    make_slots,
    make_table,
    pause,
)

JOBS = QueueContents(ready=True, delayed=False, active=False)
DELAYED = QueueContents(ready=False, delayed=True, active=False)


# limits, pauses, and queues at their own concurrency


def test_a_limited_queue_is_left_alone_until_its_time() -> None:
    """It is neither fetched from nor listened to, and ready when the time has come."""
    table = make_table("a")
    table.mark_ready("a")
    fetch_none(table, "a", limited_for=5)

    early = (table.choice.next_queue(), table.choice.listenable(), table.pass_time(START + 4.9))
    opened = table.pass_time(START + 5)

    assert early == (None, [], [])
    assert opened == ["a"]
    assert table.choice.next_queue() == "a"
    assert table.next_time() is None


def test_a_paused_queue_is_listened_to() -> None:
    """Its marker ends the pause, and no time does."""
    table = make_table("a")
    pause(table, "a")

    assert (table.choice.next_queue(), table.next_time()) == (None, None)
    assert (table.paused(), table.choice.listenable()) == (["a"], ["a"])


def test_a_paused_queue_is_listened_to_after_one_of_its_jobs_fell_due() -> None:
    """A delayed job that falls due during a pause does not make the worker deaf to its end."""
    table = make_table("a")
    pause(table, "a")
    table.due("a", START + 5)

    table.pass_time(START + 6)

    assert table.choice.next_queue() is None
    assert table.choice.listenable() == ["a"]


def test_a_marker_ends_a_pause() -> None:
    """The queue is ready again."""
    table = make_table("a")
    pause(table, "a")

    table.marker_heard(Marker("a", None), START)

    assert (table.paused(), table.choice.next_queue()) == ([], "a")


def test_the_marker_of_a_job_that_is_due_later_ends_no_pause() -> None:
    """It tells of the job's time, and of nothing else."""
    table = make_table("a")
    pause(table, "a")

    table.marker_heard(Marker("a", START + 5), START)

    assert (table.paused(), table.next_time()) == (["a"], START + 5)


def test_a_probe_ends_a_pause_and_nothing_else() -> None:
    """A queue that is not paused is no more ready for it."""
    table = make_table("a", "b")
    pause(table, "a")

    table.resumed("a")
    table.resumed("b")

    assert (table.paused(), table.choice.next_queue()) == ([], "a")
    assert table.states["b"].availability is Availability.EMPTY


def test_jobs_that_are_seen_in_a_queue_that_is_stopped_change_nothing() -> None:
    """It is known why they can't be fetched."""
    table = make_table("a", "b", "c", ready=["b"])
    pause(table, "a")
    fetch_none(table, "b", limited_for=5)
    fill_up(table, "c")

    for queue in "abc":
        table.probed(queue, JOBS)

    assert table.choice.next_queue() is None
    assert table.choice.listenable() == ["a"]


def test_the_end_of_a_job_frees_a_queue_that_is_full() -> None:
    """A queue at its own concurrency is fetched from again when one of its jobs has ended here."""
    table = make_table()
    fetch_one(table, "a")
    fill_up(table, "a")

    while_full = table.choice.next_queue()
    end_one(table, "a")

    assert while_full is None
    assert (table.choice.next_queue(), table.next_time()) == ("a", None)


def test_the_end_of_a_job_frees_no_queue_that_is_limited_or_paused() -> None:
    """Only its time, or its marker, does."""
    table = make_table()
    for queue in ("a", "b"):
        fetch_one(table, queue)
    fetch_none(table, "a", limited_for=5)
    pause(table, "b")

    end_one(table, "a")
    end_one(table, "b")

    assert table.choice.next_queue() is None


def test_a_full_queue_is_tried_again_after_twice_as_long_each_time() -> None:
    """No marker tells of a place that another worker has freed; ``longest_full`` is the longest."""
    table = make_table("a", longest_full=5.0)

    waits = []
    for _ in range(5):
        fill_up(table, "a")
        until = table.next_time()
        assert until is not None
        waits.append(until - START)
        table.pass_time(until)

    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_job_that_is_found_makes_the_next_wait_of_a_full_queue_short() -> None:
    """Places become free again and again."""
    table = make_table("a")
    for _ in range(3):
        fill_up(table, "a")

    fetch_one(table, "a")
    fill_up(table, "a")

    assert table.next_time() == START + 1.0


def test_a_queue_that_is_full_of_our_own_jobs_waits_for_the_end_of_one() -> None:
    """Nobody else can free a place, so that trying sooner would find none."""
    table = make_table("a", longest_full=1800.0)
    fetch_one(table, "a")

    fill_up(table, "a", most=1, ours=1)

    assert table.next_time() == START + 1800.0


def test_our_own_jobs_do_not_make_the_next_wait_of_a_full_queue_longer() -> None:
    """The wait for places that other workers have begins as short as ever."""
    table = make_table("a")
    fetch_one(table, "a")
    fill_up(table, "a", most=1, ours=1)
    end_one(table, "a")
    fill_up(table, "a", most=1, ours=0)

    assert table.next_time() == START + 1.0


def test_a_job_that_ended_while_it_was_asked_why_has_freed_a_place() -> None:
    """Its end was told before anybody knew that the queue was full."""
    table = make_table("a")
    table.mark_ready("a", certain=True)
    assert fetch_none(table, "a") is FollowUp.ASK_WHY_STOPPED

    found = Restrictions(paused=False, concurrency=1)
    table.restricted("a", found, ours=0, now=START, ended=True)

    assert table.choice.next_queue() == "a"


def test_a_queue_that_nothing_stops_is_listened_to() -> None:
    """A job that was seen may have been fetched by another worker."""
    table = make_table("a", ready=["a"])
    fetch_none(table, "a")

    table.restricted("a", Restrictions(paused=False, concurrency=None), ours=0, now=START)

    assert (table.choice.next_queue(), table.choice.listenable()) == (None, ["a"])


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_clock_that_is_set_lengthens_no_limit(seconds: float) -> None:
    """The time that is left stays the same; a job's due time is what the clock says."""
    table = make_table("a", "b")
    fetch_none(table, "a", limited_for=5)
    table.due("b", START + 7)

    table.shift(seconds)

    assert table.pass_time(START + seconds + 4.9) == (["b"] if seconds > 0 else [])
    assert "a" in table.pass_time(START + seconds + 5)


# due times


def test_of_two_due_times_the_earlier_counts() -> None:
    """A later one changes nothing."""
    table = make_table("a")

    for due_at in (START + 9, START + 5, START + 7):
        table.due("a", due_at)

    assert table.next_time() == START + 5
    assert table.due_times() == {"a": START + 5}


def test_a_queue_is_ready_when_a_job_of_it_is_due() -> None:
    """For one fetch, and before the others."""
    table = make_table("a", "b", ready=["b"])
    fetch_one(table, "b")
    table.due("a", START + 5)

    opened = table.pass_time(START + 5)

    assert opened == ["a"]
    assert table.choice.next_queue() == "a"


def test_a_due_time_that_has_passed_asks_for_the_next_one_until_it_is_known() -> None:
    """Each fetch that finds a job asks, until an answer has come."""
    table = make_table("a", ready=["a"])
    table.due("a", START + 5)
    table.pass_time(START + 5)

    asked = [fetch_one(table, "a"), fetch_one(table, "a")]
    table.due("a", START + 9)
    asked.append(fetch_one(table, "a"))

    assert asked == [FollowUp.ASK_DUE, FollowUp.ASK_DUE, FollowUp.NONE]
    assert table.next_time() == START + 9


def test_the_answer_that_nothing_is_delayed_is_one() -> None:
    """It is not asked again."""
    table = make_table("a", ready=["a"])
    table.due("a", START + 5)
    table.pass_time(START + 5)

    table.due("a", None)

    assert fetch_one(table, "a") is FollowUp.NONE


def test_a_fetch_that_finds_nothing_may_tell_the_next_due_time() -> None:
    """Then nobody needs to ask."""
    table = make_table("a")
    table.due("a", START + 5)
    table.pass_time(START + 5)

    wanted = fetch_none(table, "a", START + 5, due_at=START + 9)

    assert wanted is FollowUp.NONE
    assert fetch_one(table, "a") is FollowUp.NONE
    assert table.next_time() == START + 9


def test_a_due_time_that_passes_in_a_pause_is_asked_for_after_it() -> None:
    """What a fetch finds then may be that job, and others are delayed."""
    table = make_table("a")
    pause(table, "a")
    table.due("a", START + 5)
    table.pass_time(START + 6)

    table.marker_heard(Marker("a", None), START + 60)

    assert fetch_one(table, "a") is FollowUp.ASK_DUE


def test_a_doubtful_marker_does_not_lose_a_due_time() -> None:
    """A probe comes first; the due time is asked for after the next fetch."""
    table = make_table("a")
    table.due("a", START + 5)
    table.pass_time(START + 5)

    wanted = fetch_one(table, "a", meanwhile=lambda: table.mark_ready("a"))

    assert (wanted, fetch_one(table, "a")) == (FollowUp.PROBE, FollowUp.ASK_DUE)


def test_what_is_asked_for_anew_is_forgotten() -> None:
    """Due times always, pauses where that is wanted."""
    table = make_table("a", "b")
    pause(table, "a")
    table.due("b", START + 5)

    table.forget(pauses=False)
    first = table.paused(), table.due_times()
    table.forget(pauses=True)

    assert first == (["a"], {})
    assert table.paused() == []


# markers


def test_a_marker_makes_its_queue_ready() -> None:
    """For one fetch, of a job that waits."""
    table = make_table()

    wanted = table.marker_heard(Marker("a", None), START)

    assert (wanted, table.choice.next_queue()) == (FollowUp.NONE, "a")


def test_the_marker_of_a_delayed_job_tells_when_it_is_due() -> None:
    """The queue is ready then, and not before."""
    table = make_table("a")

    wanted = table.marker_heard(Marker("a", START + 5), START)

    assert (wanted, table.choice.next_queue()) == (FollowUp.NONE, None)
    assert table.pass_time(START + 5) == ["a"]


def test_the_marker_of_a_job_that_is_due_asks_for_the_next_due_time() -> None:
    """The marker stood for the first of the delayed jobs."""
    table = make_table("a")

    table.marker_heard(Marker("a", START), START)

    assert table.choice.next_queue() == "a"
    assert fetch_one(table, "a") is FollowUp.ASK_DUE


def test_a_marker_after_a_fetch_is_probed_before_anything_is_fetched() -> None:
    """A fetch sets the marker again: it may be left over from that, once."""
    table = make_table("a")
    table.mark_ready("a")
    fetch_one(table, "a")

    first = table.marker_heard(Marker("a", None), START), table.choice.next_queue()
    second = table.marker_heard(Marker("a", None), START), table.choice.next_queue()

    assert first == (FollowUp.PROBE, None)
    assert second == (FollowUp.NONE, "a")


@pytest.mark.parametrize("why", ["no slot", "closed"])
def test_a_marker_of_a_job_that_can_not_be_fetched_now_is_set_again(why: str) -> None:
    """Another worker may have room for it."""
    slots = make_slots(
        concurrency=1 if why == "no slot" else 8, limits={} if why == "no slot" else {"h": 1}
    )
    table = make_table(slots=slots)
    fetch_one(table, "b")

    wanted = table.marker_heard(Marker("a", None), START)

    assert wanted is FollowUp.REPUBLISH
    assert table.choice.is_busy("a")


def test_what_only_this_worker_knows_is_announced_when_it_stops() -> None:
    """Jobs that wait in queues that it could fetch from, and due times."""
    table = make_table("a", "b", "c", "d", ready=["a", "d"])
    table.due("b", START + 5)
    fetch_none(table, "d", limited_for=5)

    assert [*table.announcements()] == [("a", None), ("b", START + 5)]


# probes


def test_jobs_that_a_probe_sees_make_the_queue_ready() -> None:
    """Until a fetch finds nothing."""
    table = make_table("a")

    table.probed("a", JOBS)
    fetch_one(table, "a")

    assert table.choice.next_queue() == "a"


def test_delayed_jobs_are_asked_about_where_no_due_time_is_known() -> None:
    """One that is known is good enough."""
    table = make_table("a", "b")
    table.due("b", START + 5)

    assert table.probed("a", DELAYED) is FollowUp.ASK_DUE
    assert table.probed("b", DELAYED) is FollowUp.NONE


def test_only_kinds_that_would_be_news_are_asked_for() -> None:
    """Jobs in a queue that is stopped are none, and delayed ones with a known due time."""
    table = make_table("a", "b", "c")
    pause(table, "b")
    table.due("c", START + 5)

    assert table.news_kinds("a") == ["wait", "prioritized", "delayed"]
    assert table.news_kinds("b") == ["delayed"]
    assert table.news_kinds("c") == ["wait", "prioritized"]


def test_a_probe_is_wanted_until_one_begins() -> None:
    """After something that could not be asked."""
    table = make_table()

    wanted = [table.needs_probe]
    table.unsure()
    wanted.append(table.needs_probe)
    table.probing_all()
    wanted.append(table.needs_probe)

    assert wanted == [False, True, False]


# rates


def test_a_queue_whose_handlers_all_wait_is_left_alone() -> None:
    """It is neither fetched from nor listened to; one with another handler is."""
    slots = make_slots(handlers_of={"a": ("h",), "b": ("h", "free")}, intervals={"h": 2.0})
    table = make_table(slots=slots, ready=["a"])
    fetch_one(table, "a")

    waiting = table.choice.next_queue(), table.choice.listenable(), table.choice.waits_for_rate()
    slots.end_waits(START + 2.0)

    assert waiting == (None, ["b"], True)
    assert (table.choice.next_queue(), table.choice.waits_for_rate()) == ("a", False)


def test_a_rate_does_not_cut_a_blocking_read() -> None:
    """A read is cut to the due times of queues; the loop alone wakes at the end of a wait."""
    slots = make_slots(intervals={"h": 2.0})
    table = make_table(slots=slots)

    fetch_one(table, "a")

    assert (table.next_time(), slots.next_start()) == (None, START + 2.0)


def test_a_worker_without_a_free_slot_waits_for_no_rate() -> None:
    """It waits for a slot."""
    slots = make_slots(concurrency=1, intervals={"h": 2.0})
    table = make_table(slots=slots, ready=["a"])

    fetch_one(table, "a")

    assert not table.choice.waits_for_rate()


def test_a_parked_job_waits_for_its_rate() -> None:
    """Whatever is known of the queues."""
    slots = make_slots(intervals={"h": 2.0})
    table = make_table(slots=slots)

    for _ in range(2):
        fetch_one(table, "a")

    assert table.choice.waits_for_rate()


def test_a_slot_does_not_stay_on_a_queue_that_is_closed() -> None:
    """What it would fetch could not start."""
    slots = make_slots(handlers_of={"a": ("h",), "b": ("g",)}, intervals={"h": 2.0})
    table = make_table(slots=slots, ready=["a"])

    fetch_one(table, "a")
    end_one(table, "a")

    assert not table.choice.stays("a", Turn(START, jobs=1), START)


# changes that are told


def test_a_change_of_a_full_queues_limits_makes_it_ready_at_once() -> None:
    """However long it would have been left alone."""
    table = make_table("a", ready=["a"])
    fill_up(table, "a", most=1, ours=1)
    table.watched("a", START)
    table.pass_time(START + 1)  # a change just before may be missed
    fetch_none(table, "a", START + 1)
    table.restricted("a", Restrictions(paused=False, concurrency=1), ours=1, now=START + 1)

    table.changed("a", "meta", START + 100)

    assert table.next_time() == START + 100
    assert table.pass_time(START + 100) == ["a"]


def test_a_full_queue_is_looked_at_within_a_second_while_its_jobs_come_and_go() -> None:
    """However often they do; the queue is fetched from only if a place is free."""
    table = make_table("a")
    fill_up(table, "a", most=2)
    table.watched("a", START)
    table.pass_time(START + 1)
    fetch_none(table, "a", START + 1)
    table.restricted("a", Restrictions(paused=False, concurrency=2), ours=0, now=START + 1)
    before = table.next_look()
    now, pauses = START + 1, []

    for _ in range(4):
        table.changed("a", "active", now + 0.1)
        at = table.next_look()
        assert at is not None
        pauses.append(at - now)
        now = at
        assert table.looks_due(now) == ["a"]
        table.looked("a", 2)
        assert table.states["a"].availability is Availability.FULL
    table.looked("a", 1)

    assert (before, table.next_look()) == (None, None)
    assert max(pauses) < 1
    assert table.states["a"].availability is Availability.READY


def test_a_place_that_is_freed_while_a_fetch_is_under_way_is_looked_at_too() -> None:
    """The fetch may have been answered before that."""
    table = make_table("a")
    fill_up(table, "a", most=1)
    table.watched("a", START)
    table.pass_time(START + 1)
    table.fetch_started("a")
    table.changed("a", "active", START + 1)
    table.restricted("a", Restrictions(paused=False, concurrency=1), ours=0, now=START + 1)

    assert table.looks_due(START + 2) == ["a"]


def test_other_keys_and_other_states_are_no_reason_to_look() -> None:
    table = make_table("a", "b")
    fill_up(table, "a", most=1)
    table.watched("a", START)
    table.pass_time(START + 1)

    table.changed("a", "limiter", START + 2)
    table.changed("b", "active", START + 2)
    table.changed("b", "meta", START + 2)

    assert table.next_time() is None


def test_a_lost_watch_is_a_reason_to_look() -> None:
    """Changes may have been missed, and none is told from now on."""
    table = make_table("a")
    fill_up(table, "a", most=1)
    table.watched("a", START)
    table.unwatched_all(START + 5)

    assert table.pass_time(START + 5) == ["a"]
    assert not table.wants_watch("a")
    fill_up(table, "a", most=1)
    assert table.wants_watch("a")


def test_a_long_rate_limit_is_watched_and_a_short_one_waited_for() -> None:
    table = make_table("a", "b", ready=["a", "b"])

    asked = [
        fetch_none(table, "a", limited_for=0.5),
        fetch_none(table, "b", limited_for=60.0),
    ]

    assert asked == [FollowUp.NONE, FollowUp.WATCH]


def test_whether_a_queue_has_a_concurrency_is_asked_once_and_then_its_places_are_filled() -> None:
    """A job that came while it was full had no marker."""
    table = make_table("a", "b")

    asked = [table.place_freed("a"), table.place_freed("b")]
    table.limits_asked("a", Restrictions(paused=False, concurrency=2))
    table.limits_asked("b", Restrictions(paused=False, concurrency=None))
    ready = table.choice.next_queue()
    fetch_none(table, "a")
    again = [table.place_freed("a"), table.place_freed("b")]

    assert (asked, again) == ([FollowUp.ASK_LIMITS] * 2, [FollowUp.NONE] * 2)
    assert ready == table.choice.next_queue() == "a"
