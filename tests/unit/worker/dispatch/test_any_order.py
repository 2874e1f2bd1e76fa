"""Slots and queue states in any order of events: every job in one place, no queue unheard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from convolab_worker.bullmq.protocol.records import FetchResult, Marker, Restrictions
from convolab_worker.bullmq.worker_side.backend import QueueContents
from convolab_worker.worker.dispatch.queue_choice import MOST_SKIPS
from convolab_worker.worker.dispatch.queue_state import Availability, FollowUp, Turn
from convolab_worker.worker.dispatch.queue_table import QueueTable
from convolab_worker.worker.dispatch.slots import Reservation, Slots
from tests.unit.worker.dispatch.tables import NO_HANDLER, START

FOREVER = float("inf")
STOPPED = {Availability.PAUSED, Availability.LIMITED, Availability.FULL}


@dataclass(eq=False)
class Piece:
    """A job, as the worker knows it."""

    queue: str
    handler: str


@dataclass(eq=False)
class Fetch:
    """A fetch under way, for a slot that has been on its queue for ``turn``."""

    queue: str
    turn: Turn
    slot: Reservation


QUEUES = ("q0", "q1", "q2")
HANDLERS = ("h0", "h1", "h2")
PICK = st.integers(min_value=0, max_value=1_000)


class TableMachine(RuleBasedStateMachine):
    """A worker's jobs in any order of fetches, answers, ends, losses, stops and passing time."""

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
        self.wait_until: dict[str, float] = {}
        self.started_at: dict[str, float] = {}
        self.slots: Slots[Piece] = Slots(
            concurrency=concurrency,
            park_limit=park_limit,
            handlers_of=handlers_of,
            limits=limits,
            intervals=intervals,
        )
        self.table = QueueTable(QUEUES, self.slots)
        self.now = self.clock = START
        self.fetches: list[Fetch] = []
        self.running: list[tuple[Piece, Turn]] = []
        self.parked: list[Piece] = []
        self.lost: list[str] = []
        self.adopted = False
        self.waits: Counter[str] = Counter()

    # what the test knows

    def has_room(self, handler: str) -> bool:
        limit = self.limits.get(handler)
        has_place = limit is None or self.running_of(handler) < limit
        return has_place and handler not in self.wait_until

    def begin(self, piece: Piece, turn: Turn) -> None:
        """A job starts; of a handler with a rate, no sooner than its rate says."""
        self.running.append((piece, turn))
        interval = self.intervals.get(piece.handler)
        if interval is not None:
            before = self.started_at.get(piece.handler, -FOREVER)
            assert self.clock >= before + interval, "a start too many"
            self.started_at[piece.handler] = self.clock
            self.wait_until[piece.handler] = self.clock + interval

    def running_of(self, handler: str) -> int:
        return sum(piece.handler == handler for piece, _ in self.running)

    def startable(self) -> list[Piece]:
        return [piece for piece in self.parked if self.has_room(piece.handler)]

    def fetchable(self) -> list[str]:
        return [
            queue
            for queue, state in self.table.states.items()
            if state.availability is Availability.READY and self.slots.is_open(queue)
        ]

    def admit(self, piece: Piece, turn: Turn, slot: Reservation) -> None:
        waiting = {parked.handler for parked in self.parked}
        fits = self.concurrency - len(self.running) - len(self.fetches) > 0
        expected = fits and self.has_room(piece.handler) and piece.handler not in waiting
        self.table.fetch_found(piece.queue)
        runs = self.slots.admit(slot, piece.handler, piece, self.clock)
        assert runs is expected
        if runs:
            self.begin(piece, turn)
        else:
            self.parked.append(piece)

    def start_fetch(self, queue: str, turn: Turn) -> None:
        self.table.fetch_started(queue)
        self.fetches.append(Fetch(queue, turn, self.slots.reserve()))
        del self.waits[queue]

    def fetch(self) -> bool:
        candidates = self.fetchable()
        queue = self.table.choice.next_queue()
        if self.slots.free <= 0 or not candidates:
            assert queue is None
            return False
        assert queue in candidates
        assert 1 <= self.table.choice.fetch_count(queue) <= self.slots.free
        self.waits = Counter({name: self.waits[name] + 1 for name in candidates})
        assert max(self.waits.values()) <= MOST_SKIPS + 2 * len(QUEUES), "a queue starves"
        self.start_fetch(queue, Turn(self.now))
        return True

    def land(self, which: int, handler: int) -> None:
        fetch = self.fetches.pop(which)
        handlers = [*self.handlers_of[fetch.queue], NO_HANDLER]
        piece = Piece(fetch.queue, handlers[handler % len(handlers)])
        self.admit(piece, fetch.turn, fetch.slot)

    # what happens

    @rule(queue=st.sampled_from(QUEUES), due_in=st.none() | st.floats(-5, 10))
    def hear(self, queue: str, due_in: float | None) -> None:
        """A marker is heard; what it makes doubtful is probed at another time."""
        due_at = None if due_in is None else self.now + due_in
        wanted = self.table.marker_heard(Marker(queue, due_at), self.now)
        if wanted is FollowUp.REPUBLISH:
            assert self.slots.free <= 0 or not self.slots.is_open(queue)

    @rule(queue=st.sampled_from(QUEUES), ready=st.booleans(), delayed=st.booleans())
    def probe(self, queue: str, ready: bool, delayed: bool) -> None:  # noqa: FBT001
        contents = QueueContents(ready=ready, delayed=delayed, active=False)
        wanted = self.table.probed(queue, contents)
        is_stopped = self.table.states[queue].availability in STOPPED
        assert (
            (queue in self.fetchable()) or not ready or is_stopped or not self.slots.is_open(queue)
        )
        if wanted is FollowUp.ASK_DUE:
            self.table.due(queue, self.now + 3)

    @rule(queue=st.sampled_from(QUEUES), handlers=st.lists(PICK, min_size=1, max_size=6))
    def see_jobs(self, queue: str, handlers: list[int]) -> None:
        """Jobs are seen in a queue, and fetched one after the other."""
        self.table.mark_ready(queue, certain=True)
        for handler in handlers:
            if self.fetch():
                self.land(len(self.fetches) - 1, handler)

    @rule(queue=st.sampled_from(QUEUES), waiting=st.integers(0, 100))
    def count(self, queue: str, waiting: int) -> None:
        self.table.counted(queue, waiting)

    @rule()
    def take(self) -> None:
        self.fetch()

    @precondition(lambda self: self.fetches)
    @rule(which=PICK, handler=PICK)
    def find_a_job(self, which: int, handler: int) -> None:
        self.land(which % len(self.fetches), handler)

    @precondition(lambda self: self.fetches)
    @rule(
        which=PICK,
        why=st.sampled_from(["nothing", "limited", "due", "paused", "full"]),
        seconds=st.floats(0.1, 10),
        ended=st.booleans(),
    )
    def find_nothing(self, which: int, why: str, seconds: float, *, ended: bool) -> None:
        fetch = self.fetches.pop(which % len(self.fetches))
        fetch.slot.end()
        result = FetchResult(
            limited_for=seconds if why == "limited" else 0.0,
            due_at=self.now + seconds if why == "due" else None,
        )
        wanted = self.table.fetch_empty(fetch.queue, result, self.now)
        if wanted is FollowUp.ASK_WHY_STOPPED:
            found = Restrictions(paused=why == "paused", concurrency=2 if why == "full" else None)
            ours = sum(piece.queue == fetch.queue for piece, _ in self.running)
            self.table.restricted(fetch.queue, found, ours=ours, now=self.now, ended=ended)

    @precondition(lambda self: self.fetches)
    @rule(which=PICK)
    def lose_the_answer(self, which: int) -> None:
        fetch = self.fetches.pop(which % len(self.fetches))
        fetch.slot.end()
        self.lost.append(fetch.queue)

    @precondition(lambda self: self.lost)
    @rule(handler=PICK)
    def adopt(self, handler: int) -> None:
        queue = self.lost.pop()
        handlers = [*self.handlers_of[queue], NO_HANDLER]
        self.adopted = True  # nobody asked whether there is room to park it
        piece = Piece(queue, handlers[handler % len(handlers)])
        self.admit(piece, Turn(self.now), self.slots.reserve())

    @precondition(lambda self: self.running)
    @rule(which=PICK)
    def end_a_job(self, which: int) -> None:
        piece, turn = self.running.pop(which % len(self.running))
        self.slots.release(piece.handler)
        self.table.job_ended(piece.queue)
        turn.jobs += 1
        assert self.slots.has_startable is bool(self.startable())
        if self.slots.has_startable or not self.table.choice.stays(piece.queue, turn, self.now):
            return
        others = [queue for queue in self.fetchable() if queue != piece.queue]
        assert not (others and turn.is_over(self.now))
        assert not any(self.table.states[other].newly_ready for other in others)
        if self.slots.free > 0:
            self.start_fetch(piece.queue, turn)

    @rule()
    def unpark(self) -> None:
        startable, free = self.startable(), self.slots.free
        piece = self.slots.unpark(self.clock)
        if not startable or free <= 0:
            assert piece is None
            return
        assert piece is startable[0]
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

    @rule(pauses=st.booleans())
    def forget(self, pauses: bool) -> None:  # noqa: FBT001
        self.table.forget(pauses=pauses)
        assert not self.table.due_times()
        assert not (pauses and self.table.paused())

    @rule(seconds=st.floats(-100, 100))
    def set_the_clock(self, seconds: float) -> None:
        """What is known moves with it; no time has passed."""
        self.now += seconds
        self.table.shift(seconds)
        self.pass_time(0)

    @rule(seconds=st.floats(-1, 20))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        opened = self.table.pass_time(self.now)
        self.clock += max(seconds, 0.0)  # is never set back
        self.slots.end_waits(self.clock)
        self.wait_until = {name: at for name, at in self.wait_until.items() if at > self.clock}
        assert self.slots.next_start() == min(self.wait_until.values(), default=None)
        for queue in opened:
            assert self.table.states[queue].availability is not Availability.EMPTY
        next_time = self.table.next_time()
        assert next_time is None or next_time > self.now

    # what is always so

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        assert self.slots.running == len(self.running)
        assert self.slots.parked == len(self.parked)
        assert self.slots.free == self.concurrency - len(self.running) - len(self.fetches)

    @invariant()
    def limits_are_kept(self) -> None:
        assert len(self.running) + len(self.fetches) <= self.concurrency
        assert all(self.running_of(handler) <= most for handler, most in self.limits.items())
        assert len(self.parked) <= self.park_limit or self.adopted

    @rule()
    def wait_for_rates(self) -> None:
        """Parked jobs run at the latest when the waits that are known are over."""
        until = self.slots.next_start()
        if until is None:
            return
        self.pass_time(until - self.clock)
        while self.startable() and self.slots.free > 0:
            self.unpark()
        blocked = [p for p in self.parked if p.handler in self.wait_until or self.slots.free <= 0]
        full = [piece for piece in self.parked if not self.has_room(piece.handler)]
        assert {*self.parked} == {*blocked, *full}

    @invariant()
    def every_queue_is_heard(self) -> None:
        """A queue is fetched from, listened to, or tried again at a time that is known."""
        if self.slots.free <= 0:
            return
        listenable = self.table.choice.listenable()
        for queue, state in self.table.states.items():
            is_timed = state.until is not None
            is_heard = queue in listenable or queue in self.fetchable() or is_timed
            assert is_heard or not self.slots.is_open(queue), f"{queue}: {state}"
            is_limited = state.availability in {Availability.LIMITED, Availability.FULL}
            assert is_timed is is_limited, f"{queue}: {state}"


TestAnyOrder = TableMachine.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
