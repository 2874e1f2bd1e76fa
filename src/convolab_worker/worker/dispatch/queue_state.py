"""What can be known of a queue, as values. Pure.

    EMPTY    -- a marker, a probe, a due time -->     READY    a job may be there: fetch it
    READY    -- a fetch finds nothing -->             EMPTY    its marker is listened to
    any      -- a fetch or a probe tells -->          PAUSED, LIMITED, FULL, BROKEN
    PAUSED   -- its marker, a probe -->               READY
    LIMITED  -- its time is over -->                  READY
    FULL     -- its time, the end of a job of ours, a change of its keys --> READY
    BROKEN   -- its time is over -->                  READY    the scripts fail on what it holds

``QueueTable`` alone changes a ``QueueState``.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

# A slot stays on its queue for this many jobs or this long, then other ready queues have a turn.
TURN_JOBS = 32
TURN_SECONDS = 1.0
# A queue at its own concurrency is tried again after this, then after twice as long each time.
FIRST_FULL_SECONDS = 1.0


class Availability(Enum):
    """Whether jobs can be fetched from a queue."""

    EMPTY = "empty"
    READY = "ready"
    PAUSED = "paused"
    LIMITED = "limited"
    FULL = "full"
    BROKEN = "broken"


# Where no job can be had, whatever waits there.
STOPPED = frozenset(
    {Availability.PAUSED, Availability.LIMITED, Availability.FULL, Availability.BROKEN}
)


class FollowUp(Enum):
    """What to ask Redis after an event of a queue."""

    NONE = "none"
    PROBE = "probe"  # a marker was heard that may be left over, or tell of a job
    REPUBLISH = "republish"  # a job is there that this worker can't take now
    ASK_DUE = "ask due"  # when the next delayed job is due
    ASK_WHY_STOPPED = "ask why stopped"  # jobs are there, and a fetch found none
    CHECK_STALLED = "check stalled"  # an active job may have lost its worker
    ASK_LIMITS = "ask limits"  # whether the queue has a concurrency of its own
    WATCH = "watch"  # the queue is at a limit that may be changed


class Turn(Struct):
    """How long a slot has stayed on its queue."""

    started_at: float
    jobs: int = 0

    def is_over(self, now: float) -> bool:
        """Whether other queues that are ready come first now."""
        return self.jobs >= TURN_JOBS or not 0 <= now - self.started_at < TURN_SECONDS


class QueueState(Struct):
    """What is known of one queue. Times are epoch seconds."""

    availability: Availability = Availability.EMPTY
    until: float | None = None  # of LIMITED, FULL and BROKEN
    certain: bool = False  # READY until a fetch finds nothing; otherwise for one fetch, on a hint
    evidence: bool = False  # its jobs were seen, and no fetch has found one since
    hinted_during_fetch: bool = False  # became ready again since the last fetch began
    newly_ready: bool = False  # became ready, and nothing was fetched from it since
    skipped: int = 0  # fetches from newly ready queues while it was ready and waited
    due_at: float | None = None  # when its next delayed job is due
    due_unknown: bool = False  # a due time has passed, and the next one is not known yet
    fetch_seq: int = 0  # the number of the last fetch from it: the rotation
    hits: int = 0  # fetches in a row that found a job
    waiting: int | None = None  # jobs that were counted there and not fetched since
    full_seconds: float = FIRST_FULL_SECONDS  # how long FULL lasts the next time
    broken_seconds: float = 0.0  # how long BROKEN lasted the last time; 0 after a fetch
    has_own_marker: bool = False  # a fetch of ours has set the marker again
    has_concurrency: bool | None = None  # whether it has one of its own; None if not known
    is_told: bool = False  # changes of its keys are told
    places: int | None = None  # of FULL, where jobs of others have them: its own concurrency
    places_changed: bool = False  # a job of it began or ended since the last fetch from it
    look_at: float | None = None  # when to see whether a place is free
    was_paused: bool = False  # it was paused when that was last known
    tried_at: float = 0.0  # when it was found at a limit
