"""What is known of a worker's queues: facts in, what to ask next out. Pure.

``QueueTable`` is the one writer of ``QueueState``; ``queue_choice`` decides what is fetched next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.worker.dispatch.queue_choice import QueueChoice
from convolab_worker.worker.dispatch.queue_state import (
    FIRST_FULL_SECONDS,
    STOPPED,
    Availability,
    FollowUp,
    QueueState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from convolab_worker.bullmq.protocol.records import FetchResult, Marker, Restrictions
    from convolab_worker.bullmq.worker_side.backend import QueueContents
    from convolab_worker.worker.dispatch.slots import Slots

# No marker tells of a place that another worker has freed. Where changes of a queue's keys are
# told, a full queue is tried when they are, but no sooner after the last time; the longest pause
# then is as long as Node's worker needs to notice.
_WATCHED = frozenset({Availability.FULL, Availability.LIMITED, Availability.BROKEN})
# How often to see whether others have left a place of a full queue, while its jobs come and go.
_LOOK_SECONDS = 0.75
# A rate limit that is over sooner is waited for, and not watched.
_SHORT_LIMIT_SECONDS = 1.0
# A queue on whose keys BullMQ's scripts fail is tried again after this, then after twice as long.
_FIRST_BROKEN_SECONDS, _LONGEST_BROKEN_SECONDS = 0.5, 120.0
_READY = Availability.READY


class QueueTable:
    """The states of a worker's queues, and the ``choice`` among them.

    ``slots`` tells which queues have room for a job. A queue whose handlers have limits (every
    queue, with ``one_by_one``) gives its jobs one after the other. ``longest_full`` bounds, in
    seconds, how long a queue at its own concurrency is left alone.
    """

    def __init__(
        self,
        queues: Sequence[str],
        slots: Slots[Any],
        *,
        one_by_one: bool = False,
        longest_full: float = 1800.0,
    ) -> None:
        self.states: Mapping[str, QueueState] = {queue: QueueState() for queue in queues}
        self.slots = slots
        limited = {queue for queue in queues if one_by_one or slots.has_limits(queue)}
        self.choice = QueueChoice(self.states, slots, limited)
        self._longest_full = longest_full
        self.fetches = 0
        self.needs_probe = False

    # facts of a fetch

    def fetch_started(self, queue: str) -> None:
        state = self.states[queue]
        self.fetches += 1
        if state.newly_ready:
            for other in self.states.values():
                other.skipped += other.availability is _READY and not other.newly_ready
        state.newly_ready = state.hinted_during_fetch = state.places_changed = False
        state.skipped, state.fetch_seq = 0, self.fetches

    def fetch_found(self, queue: str) -> FollowUp:
        """A fetch found a job: that uses a hint up."""
        state = self.states[queue]
        state.evidence = state.was_paused = False
        state.has_own_marker = True
        state.full_seconds, state.broken_seconds = FIRST_FULL_SECONDS, 0.0
        state.hits += 1
        if state.waiting is not None:
            self._count(state, state.waiting - 1)
        hinted = False
        if not state.certain:
            if state.availability is _READY:
                state.availability = Availability.EMPTY
            state.newly_ready = False
            hinted, state.hinted_during_fetch = state.hinted_during_fetch, False
        if hinted:  # by the marker of this fetch, or by another job
            return FollowUp.PROBE
        return FollowUp.ASK_DUE if state.due_unknown else FollowUp.NONE

    def fetch_empty(self, queue: str, result: FetchResult, now: float) -> FollowUp:
        """A fetch found no job.

        What was heard of the queue while the fetch was under way may be newer than its answer:
        then the queue is ready again, and nothing is concluded yet.
        """
        state = self.states[queue]
        evidence = state.evidence
        state.certain = state.evidence = state.newly_ready = False
        state.hits, state.waiting, state.broken_seconds = 0, None, 0.0
        if state.availability is _READY:
            state.availability = Availability.EMPTY
        if state.hinted_during_fetch:
            self.mark_ready(queue, certain=evidence)
            evidence = False
        if result.limited_for > 0:
            self._stop(state, Availability.LIMITED, now + result.limited_for)
            state.tried_at = now
            if result.limited_for > _SHORT_LIMIT_SECONDS and not state.is_told:
                return FollowUp.WATCH
        elif result.due_at is not None:
            if result.due_at <= now:  # a score that no fetch will ever reach stands before others
                return FollowUp.ASK_DUE
            self.due(queue, result.due_at)
        elif evidence:
            return FollowUp.ASK_WHY_STOPPED
        else:
            return FollowUp.CHECK_STALLED
        return FollowUp.NONE

    def fetch_failed(self, queue: str, now: float) -> bool:
        """A script failed on what the queue holds; whether it is the first time in a row."""
        state = self.states[queue]
        is_first = not state.broken_seconds
        state.was_paused = (
            False  # of a paused queue a script looks at nothing that it could fail on
        )
        state.broken_seconds = min(
            max(2 * state.broken_seconds, _FIRST_BROKEN_SECONDS), _LONGEST_BROKEN_SECONDS
        )
        self._stop(state, Availability.BROKEN, now + state.broken_seconds)
        return is_first

    def limited(self, queue: str, seconds: float, now: float) -> None:
        """A handler of ours has limited the queue: nothing is fetched from it for so long."""
        self._stop(self.states[queue], Availability.LIMITED, now + seconds)

    def counted(self, queue: str, waiting: int) -> None:
        """So many jobs wait; if none, further ones came later, and are counted anew."""
        self._count(self.states[queue], waiting)

    @staticmethod
    def _count(state: QueueState, waiting: int) -> None:
        state.waiting = waiting
        if waiting <= 0:
            state.hits, state.waiting = 0, None

    def job_ended(self, queue: str) -> None:
        """A job of ours has ended, which frees a place of a queue at its own concurrency."""
        state = self.states[queue]
        if state.availability is Availability.FULL:
            self._open(queue)

    def place_freed(self, queue: str) -> FollowUp:
        """A job of ours has ended, and no other one was asked for with its end.

        BullMQ sets no marker for a job that was added while its queue was at its own concurrency:
        so whether the queue has one is asked once.
        """
        has_concurrency = self.states[queue].has_concurrency
        if has_concurrency:
            self.mark_ready(queue)
        return FollowUp.ASK_LIMITS if has_concurrency is None else FollowUp.NONE

    def children_added(self, queue: str) -> None:
        """A job of ours has added children to the queue, and given its place there up.

        BullMQ sets no marker for a job that is added while its queue is at its own concurrency.
        """
        if not self.states[queue].hinted_during_fetch:
            self.mark_ready(queue)

    # facts of markers and probes

    def mark_ready(self, queue: str, *, certain: bool = False) -> None:
        """A job may be there: on a hint or, if ``certain``, since jobs were seen."""
        state = self.states[queue]
        state.hinted_during_fetch = True
        if state.availability is Availability.EMPTY:
            state.availability, state.newly_ready = Availability.READY, True
            if not certain:  # what was found before came alone, or long ago
                state.hits = 0
        if certain:
            state.certain = state.evidence = True

    def marker_heard(self, marker: Marker, now: float) -> FollowUp:
        """The marker of a queue was popped: a job is there, or due."""
        queue, due_at = marker.queue, marker.due_at
        state = self.states[queue]
        if due_at is not None and due_at > now:
            self.due(queue, due_at)
            return FollowUp.NONE
        if state.availability is Availability.PAUSED:
            state.availability = Availability.EMPTY
        if due_at is not None:
            state.due_unknown = True
        elif state.has_own_marker:
            state.has_own_marker = False
            return FollowUp.PROBE
        self.mark_ready(queue)
        state.evidence |= due_at is not None
        return FollowUp.REPUBLISH if self.choice.is_busy(queue) else FollowUp.NONE

    def probed(self, queue: str, contents: QueueContents) -> FollowUp:
        state = self.states[queue]
        if contents.ready and state.availability not in STOPPED:
            self.mark_ready(queue, certain=True)
        is_news = contents.delayed and state.due_at is None
        return FollowUp.ASK_DUE if is_news else FollowUp.NONE

    def due(self, queue: str, due_at: float | None) -> None:
        """The queue's next delayed job is due then, if there is one; the earlier time counts."""
        state = self.states[queue]
        state.due_unknown = False
        if due_at is not None and (state.due_at is None or due_at < state.due_at):
            state.due_at = due_at

    def restricted(
        self, queue: str, found: Restrictions, *, ours: int, now: float, ended: bool = False
    ) -> None:
        """Why a fetch found nothing where jobs are; ``ours`` counts active jobs of this worker.

        Where this worker's own jobs use the queue's concurrency up, the end of one of them is what
        to wait for. ``ended`` says that one of them ended while this was asked.
        """
        state = self.states[queue]
        state.has_concurrency = found.concurrency is not None
        state.tried_at, state.was_paused, state.places = now, found.paused, None
        if found.paused:
            self._stop(state, Availability.PAUSED, None)
        elif found.concurrency is not None and ended:
            self._open(queue)
        elif found.concurrency is not None and ours >= found.concurrency:
            self._stop(state, Availability.FULL, now + self._longest_full)
        elif found.concurrency is not None:
            seconds = min(state.full_seconds, self._longest_full)
            if state.is_told:
                seconds, state.places = self._longest_full, found.concurrency
                state.look_at = now + _LOOK_SECONDS if state.places_changed else None
            else:
                state.full_seconds = 2 * seconds
            self._stop(state, Availability.FULL, now + seconds)

    def limits_asked(self, queue: str, found: Restrictions) -> None:
        """Whether the queue has a concurrency of its own, asked after a job of ours has ended."""
        self.states[queue].has_concurrency = found.concurrency is not None
        self.place_freed(queue)

    def wants_watch(self, queue: str) -> bool:
        """Whether the queue is at a limit, or has one that is none, and no change of it is told."""
        state = self.states[queue]
        return not state.is_told and state.availability in _WATCHED

    def watched(self, queue: str, now: float) -> None:
        """Changes of the queue's keys are told from now on; one just before may be missed."""
        state = self.states[queue]
        state.is_told = True
        self._try_by(state, now + FIRST_FULL_SECONDS)

    def unwatched_all(self, now: float) -> None:
        """Changes are not told any more, and some may have been missed."""
        for state in self.states.values():
            if state.is_told:
                state.is_told = False
                self._try_by(state, now)

    def changed(self, queue: str, kind: str, now: float) -> None:
        """A key of the queue was changed: ``meta`` has its limits, ``active`` its places.

        Where others have all places, jobs begin and end all the time: a look at most in so many
        seconds, at one command, says whether one is free.
        """
        state = self.states[queue]
        if kind == "meta":
            state.has_concurrency = None
            if state.availability is Availability.PAUSED:
                state.until = now
            self._try_by(state, now)
        elif kind == "limiter" and state.availability is Availability.LIMITED:
            self._try_by(state, max(now, state.tried_at + _SHORT_LIMIT_SECONDS))
        elif kind == "active":
            state.places_changed = True
            if state.availability is Availability.FULL and state.places is not None:
                state.look_at = max(now, state.tried_at + _LOOK_SECONDS)

    def next_look(self) -> float | None:
        """When ``looks_due`` has a queue next."""
        return min((at for _, at in self._looks()), default=None)

    def looks_due(self, now: float) -> list[str]:
        """The full queues that may have a free place; they are taken to be looked at now."""
        due = [queue for queue, at in self._looks() if at <= now]
        for queue in due:
            self.states[queue].look_at, self.states[queue].tried_at = None, now
        return due

    def _looks(self) -> list[tuple[str, float]]:
        return [
            (queue, state.look_at)
            for queue, state in self.states.items()
            if state.look_at is not None and state.availability is Availability.FULL
        ]

    def looked(self, queue: str, active: int) -> None:
        """So many jobs of the queue are active, whoever has them."""
        state = self.states[queue]
        if state.availability is Availability.FULL and active < (state.places or 0):
            self._open(queue)

    @staticmethod
    def _try_by(state: QueueState, at: float) -> None:
        if state.until is not None:
            state.until = min(state.until, at)

    def hides_due(self, queue: str) -> bool:
        """Whether the queue is not stopped, and when its next job is due is not known."""
        state = self.states[queue]
        return state.due_unknown and state.availability not in STOPPED

    def resumed(self, queue: str) -> None:
        if self.states[queue].availability is Availability.PAUSED:
            self._open(queue)

    def forget(self, *, pauses: bool) -> None:
        """Everything is asked for anew: due times and, with ``pauses``, which queues are paused."""
        for state in self.states.values():
            state.due_at = None
            if pauses and state.availability is Availability.PAUSED:
                state.availability = Availability.EMPTY

    def unsure(self) -> None:
        """Something could not be asked: every queue is to be probed."""
        self.needs_probe = True

    def probing_all(self) -> None:
        self.needs_probe = False

    def _stop(self, state: QueueState, why: Availability, until: float | None) -> None:
        state.availability, state.until = why, until

    def _open(self, queue: str) -> None:
        state = self.states[queue]
        state.availability, state.until = Availability.EMPTY, None
        self.mark_ready(queue, certain=True)

    # time

    def pass_time(self, now: float) -> list[str]:
        """Make queues ready whose due time has come or whose stop is over; gives their names."""
        opened = []
        for queue, state in self.states.items():
            is_due = state.due_at is not None and state.due_at <= now
            is_over = state.until is not None and state.until <= now
            if is_due:
                state.due_at, state.due_unknown = None, True
            if is_over:
                self._open(queue)
            elif is_due:
                self.mark_ready(queue)
                state.evidence = True  # somebody has the job, or the queue is stopped
            if is_due or is_over:
                opened.append(queue)
        return opened

    def next_time(self) -> float | None:
        """The next moment at which ``pass_time`` makes a queue ready."""
        times = [state.due_at for state in self.states.values()]
        times += [state.until for state in self.states.values()]
        return min((time for time in times if time is not None), default=None)

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so much (back, if negative): stops last no longer for it."""
        for state in self.states.values():
            state.tried_at += seconds
            if state.until is not None:
                state.until += seconds
            if state.look_at is not None:
                state.look_at += seconds

    # what others are told

    def announcements(self) -> Iterable[tuple[str, float | None]]:
        """What to announce to other workers when this one stops: a queue, and when it is due."""
        for queue, state in self.states.items():
            if state.due_at is not None:
                yield queue, state.due_at
            if state.availability is _READY:
                yield queue, None

    def news_kinds(self, queue: str) -> list[str]:
        """The kinds of jobs whose presence in the queue would be news."""
        state = self.states[queue]
        kinds = [] if state.availability in STOPPED else ["wait", "prioritized"]
        return kinds if state.due_at is not None else [*kinds, "delayed"]

    def paused(self) -> list[str]:
        return [q for q, state in self.states.items() if state.availability is Availability.PAUSED]

    def known_pauses(self) -> set[str]:
        return {queue for queue, state in self.states.items() if state.was_paused}

    def stopped(self) -> dict[str, str]:
        """Why queues give no jobs, as it was last known; a pause is known until a job is found."""
        return {
            queue: "paused" if state.was_paused else state.availability.value
            for queue, state in self.states.items()
            if state.was_paused or state.availability in STOPPED
        }

    def due_times(self) -> dict[str, float]:
        return {q: state.due_at for q, state in self.states.items() if state.due_at is not None}
