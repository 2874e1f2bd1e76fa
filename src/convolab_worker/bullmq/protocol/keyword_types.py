"""What producers and handlers may write of jobs: the types of their keywords."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from msgspec import Struct

from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.units import is_seconds, is_written


class Exponential(Struct, frozen=True):
    """Waits ``delay`` seconds before the second attempt, and twice as long before each further one.

    No wait is longer than ``longest`` seconds; Node's workers don't know that bound. ``jitter``
    from 0 to 1 is the part of a wait that chance decides: with 0.5 a wait of 8 seconds takes 4 to
    8, so that jobs that failed together are not tried again together. Raises ConfigurationError.
    """

    delay: float
    longest: float | None = None
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _check_backoff(self)
        if self.longest is not None and not (
            is_seconds(self.longest) and self.longest >= self.delay
        ):
            msg = f"{self!r}: longest: expected seconds, no fewer than the delay"
            raise ConfigurationError(msg)


class Fixed(Struct, frozen=True):
    """Waits ``delay`` seconds before each further attempt.

    ``jitter`` from 0 to 1 is the part of the wait that chance decides: with 0.2, 5 seconds take 4
    to 5. Raises ConfigurationError.
    """

    delay: float
    jitter: float = 0.2

    def __post_init__(self) -> None:
        _check_backoff(self)


class Deduplication(Struct, frozen=True):
    """Keeps a job from being added while another one of the same ``id`` is there.

    Without more, until that job has ended. ``ttl`` is for how many seconds after its adding,
    whether it has ended or not; ``extend`` starts them anew with each job that is kept away.
    ``replace`` puts the new job in the place of one that is still delayed. ``keep_last_if_active``
    keeps the newest data that comes while the job runs, and adds a job of it when that has ended;
    BullMQ has no ``ttl`` then. Raises ConfigurationError.
    """

    id: str
    ttl: float | None = None
    extend: bool = False
    replace: bool = False
    keep_last_if_active: bool = False

    def __post_init__(self) -> None:
        is_time = self.ttl is None or (is_seconds(self.ttl) and self.ttl > 0)
        problem = (
            "expected an id, which is text"
            if not is_written(self.id)
            else "ttl: expected seconds above 0"
            if not is_time
            else "extend is for a ttl: expected one"
            if self.extend and self.ttl is None
            else "expected ttl or keep_last_if_active, since BullMQ has no ttl for that"
            if self.keep_last_if_active and self.ttl is not None
            else None
        )
        if problem is not None:
            msg = f"{self!r}: {problem}"
            raise ConfigurationError(msg)


Backoff = Exponential | Fixed | float | str | Mapping[str, Any]
"""How long a failed job waits before its next attempt.

A number is exactly so many seconds, text the name of a strategy, and a mapping BullMQ's own object,
in milliseconds.
"""
Keep = int | str
"""How much of a queue's history is kept when a job ends, that job included.

``1000`` is so many jobs, ``"1h"`` or ``"7d"`` those that have ended within that time, ``"1000/1d"``
both; ``"none"`` keeps no job, and ``"all"`` is every one.
"""


class JobPolicy(TypedDict, total=False):
    """What a handler says for jobs whose own options say nothing, and a producer for one job.

    ``attempts`` is how often a job may run; ``backoff`` is how long it waits in between (see
    Backoff). ``keep_completed`` and ``keep_failed`` are how many jobs remain in Redis once they
    have ended so (see Keep): BullMQ's removeOnComplete and removeOnFail.
    """

    attempts: int | None
    backoff: Backoff | None
    keep_completed: Keep | None
    keep_failed: Keep | None


class ScheduledJobOptions(JobPolicy, total=False):
    """What a producer may say of the jobs of a schedule, in addition to JobPolicy.

    ``priority`` is from 1, which goes first, to 2097151; jobs without one, or with 0, go before all
    of these. ``lifo`` puts the job at the head of its queue. ``keep_logs`` is how many rows of the
    job's log remain, ``stack_trace_limit`` how many stack traces, and ``size_limit`` how many
    bytes its data may have as JSON.
    """

    priority: int | None
    lifo: bool | None
    keep_logs: int | None
    stack_trace_limit: int | None
    size_limit: int | None


class JobOptions(ScheduledJobOptions, total=False):
    """What a producer may say of one job; None is as good as nothing.

    ``attempts``, ``backoff``, ``keep_completed`` and ``keep_failed`` are those of JobPolicy;
    ``priority``, ``lifo``, ``keep_logs``, ``stack_trace_limit`` and ``size_limit`` those of
    ScheduledJobOptions. ``delay`` is the seconds before the job may start. ``deduplication`` is an
    id, or a Deduplication: no job is added while one with that id is there.
    """

    delay: float | None
    deduplication: str | Deduplication | None


class EnqueueOptions(JobOptions, total=False):
    """The keywords of ``enqueue`` besides what is added and its data.

    ``queue`` is the client's first by default, or that of a JobType. ``job_id`` makes adding
    idempotent: a job of that id that is there already is not added again; without it the job gets
    one that no queue has. ``on_commit=True`` adds it when the surrounding transaction of Django or
    SQLAlchemy commits, and not at all if that rolls back; it may be a session of SQLAlchemy, too.
    """

    queue: str | None
    job_id: str | None
    on_commit: Any


def _check_backoff(backoff: Exponential | Fixed) -> None:
    jitter = backoff.jitter
    if not is_seconds(backoff.delay):
        msg = f"{backoff!r}: delay: expected seconds, 0 or more"
        raise ConfigurationError(msg)
    if not (is_seconds(jitter) and jitter <= 1):
        msg = f"{backoff!r}: jitter: expected 0 to 1"
        raise ConfigurationError(msg)
