"""The account of a torture run: what became of each job, and whether that is allowed. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.torture.diary import Run

# What is timed by different processes of one machine is compared with this tolerance.
_CLOCK_MS = 50
# A lock is renewed before half of it is over, and an attempt that meets a fault costs a quarter:
# harm that was shorter than the last quarter can't have cost anybody a lock.
_HARM_PART = 1 / 4


KILL, STOP = "kill -9 of a worker", "SIGTERM of a worker"
STOP_GROUP = "SIGTERM of a worker and all of its group"
# What a job's reason has whose result the server does not take.
TOO_LARGE = "client-query-buffer-limit"
HOLD_END = "end of a hold"


class Fate(Enum):
    """What became of a job, in words of the closing table."""

    ONCE = "finished once"
    AGAIN = "finished more than once, since its lock had run out"
    WRONG = "finished, and the events do not explain how"
    ACTIVE = "left in active"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Deed:
    """What the gremlin did, to which processes (None: to all of them), from when to when (ms)."""

    what: str
    pids: frozenset[int] | None
    began: int
    ended: int

    def harm(self, pid: int, start: int, end: int) -> int:
        """For how long, of that time, it kept the process from renewing a lock (ms)."""
        if self.pids is not None and pid not in self.pids:
            return 0
        over = end if self.is_for_good else self.ended
        return max(min(over, end) - max(self.began, start) + 2 * _CLOCK_MS, 0)

    @property
    def is_for_good(self) -> bool:
        """Whether the process ends with it."""
        return self.what in (KILL, STOP, STOP_GROUP)


@dataclass(slots=True)
class Hold:
    """One time in ``active``, by the server's own events: from when to when, and how it ended.

    ``how`` is BullMQ's event: ``waiting`` (given back, or tried again), ``delayed``,
    ``waiting-children``, ``completed``, or ``stalled`` where it was found without a lock.
    """

    began: int
    ended: int | None = None
    how: str | None = None
    runs: list[Run] = field(default_factory=list)

    @property
    def has_returned(self) -> bool:
        """Whether a handler came to its end in it."""
        return any(run.how == "returned" for run in self.runs)


@dataclass(slots=True)
class Story:
    """All that is known of one job.

    ``events`` are the server's, with their times (milliseconds since the epoch), in its order;
    of those that leave ``active`` and those that enter it. The result of an oversized one can't be
    written: it has to fail for that.
    """

    job_id: str
    failures: int = 0
    is_oversized: bool = False
    state: str = "unknown"
    attempts: int = 0
    result: str | None = None
    reason: str | None = None
    runs: list[Run] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A job's fate, and why: what took its locks from it, or what is wrong.

    ``causes`` are of the runs that came to their end in vain; ``was_rerun`` says that any was.
    """

    fate: Fate
    causes: tuple[str, ...] = ()
    was_rerun: bool = False
    fault: str | None = None


class _Wrong(Exception):
    """The records of a completed job do not fit together."""


def judge(story: Story, deeds: list[Deed], *, lock_ms: int = 3000) -> Verdict:
    """What became of a job whose locks last for ``lock_ms``."""
    if story.state == "active":
        return Verdict(Fate.ACTIVE, fault=f"{story.job_id} is in active")
    is_refused = story.is_oversized and TOO_LARGE in (story.reason or "")
    if story.state != ("failed" if is_refused else "completed"):
        return Verdict(Fate.LOST, fault=f"{story.job_id} is {story.state}: {story.reason}")
    try:
        _check_end(story)
        holds = _holds(story)
        ends = [(_cause(hold, deeds, lock_ms), hold) for hold in holds]
    except _Wrong as wrong:
        return Verdict(Fate.WRONG, fault=f"{tell(story, deeds)} -- {wrong}")
    in_vain = tuple(cause for cause, hold in ends if cause and hold.has_returned)
    return Verdict(
        Fate.AGAIN if in_vain else Fate.ONCE, in_vain, was_rerun=any(cause for cause, _ in ends)
    )


def tell(story: Story, deeds: list[Deed]) -> str:
    """What happened to the job and to its workers, in order; seconds since its first event."""
    told = [*story.events, *((run.began, f"begun at {run.pid}") for run in story.runs)]
    told += [(run.ended, f"{run.how} at {run.pid}") for run in story.runs if run.ended is not None]
    first, last = min(told, default=(0, ""))[0], max(told, default=(0, ""))[0]
    pids = {run.pid for run in story.runs}
    for deed in deeds:
        if deed.began <= last and deed.ended >= first and (not deed.pids or deed.pids & pids):
            whom = "" if not deed.pids else f" {', '.join(map(str, deed.pids))}"
            told.append((deed.began, f"[{deed.what}{whom} for {deed.ended - deed.began} ms]"))
    told.sort(key=lambda entry: entry[0])
    return f"{story.job_id}: " + "; ".join(f"{(at - first) / 1000:.3f} {what}" for at, what in told)


def _check_end(story: Story) -> None:
    end = "failed" if story.is_oversized else "completed"
    ends = sum(what == end for _, what in story.events)
    if ends != 1:
        msg = f"recorded as {end} {ends} times"
        raise _Wrong(msg)
    if not any(run.how == "returned" for run in story.runs):
        msg = "completed, and no handler has returned"
        raise _Wrong(msg)
    if story.attempts != story.failures + 1:
        msg = f"{story.attempts} attempts were used up instead of {story.failures + 1}"
        raise _Wrong(msg)
    if story.events[-1][1] != end:
        msg = f"{story.events[-1][1]} after it was {end}"
        raise _Wrong(msg)
    if story.result != (None if story.is_oversized else f'"{story.job_id}"'):
        msg = f"its result is {story.result}"
        raise _Wrong(msg)


def _holds(story: Story) -> list[Hold]:
    """The job's times in ``active``, each with the runs of handlers that belong to it."""
    holds: list[Hold] = []
    for at, what in story.events:
        last = holds[-1] if holds else None
        if what == "active":
            if last is not None and last.ended is None:
                msg = "taken while it was active"
                raise _Wrong(msg)
            holds.append(Hold(at))
        elif last is not None and (
            last.ended is None or (what, last.how) == ("stalled", "waiting")
        ):
            # A job without a lock is announced as waiting first, then as stalled.
            last.ended, last.how = at, what
    for run in story.runs:
        if not 1 <= run.start <= len(holds):
            msg = f"run at {run.pid} without having been taken"
            raise _Wrong(msg)
        holds[run.start - 1].runs.append(run)
    return holds


def _cause(hold: Hold, deeds: list[Deed], lock_ms: int) -> str:
    """What took the job from its worker before it was settled; "" if nothing did."""
    for before in hold.runs[:-1]:
        if before.how != "asked for children":
            msg = f"run twice under one lock at {before.pid}"
            raise _Wrong(msg)
    if not hold.runs:
        return _why_not_run(hold, deeds)
    run = hold.runs[-1]
    if hold.how == "stalled" and hold.ended is not None:
        return _who_took_the_lock(run, hold.began, hold.ended, deeds, lock_ms)
    expected = {
        "completed": "returned",
        "failed": "returned",
        "waiting-children": "asked for children",
        "delayed": "raised",
    }.get(hold.how or "", run.how)
    if run.how != expected or (hold.how == "waiting" and run.how == "returned"):
        msg = f"{run.how} at {run.pid}, and recorded as {hold.how}"
        raise _Wrong(msg)
    return (
        "a stop, or the end of a hold, which returned it"
        if hold.how == "waiting" and run.how == "cancelled"
        else ""
    )


def _why_not_run(hold: Hold, deeds: list[Deed]) -> str:
    """Why no handler was called; which worker had the job is not known."""
    if hold.how not in ("waiting", "stalled") or hold.ended is None:
        msg = f"taken, not run, and recorded as {hold.how}"
        raise _Wrong(msg)
    kinds = {STOP, STOP_GROUP, HOLD_END} if hold.how == "waiting" else {deed.what for deed in deeds}
    for deed in deeds:
        is_in_time = deed.began - _CLOCK_MS <= hold.ended and deed.ended + _CLOCK_MS >= hold.began
        if deed.what in kinds and is_in_time:
            return ""
    msg = f"taken and not run, then {hold.how}, for no reason"
    raise _Wrong(msg)


def _who_took_the_lock(run: Run, began: int, stalled: int, deeds: list[Deed], lock_ms: int) -> str:
    """The deed that kept the worker longest from renewing it, if all together were long enough."""
    if stalled - began < lock_ms - _CLOCK_MS:
        msg = f"{run.pid} lost its lock {stalled - began} ms after it had taken the job"
        raise _Wrong(msg)
    harm = {deed: ms for deed in deeds if (ms := deed.harm(run.pid, began, stalled)) > 0}
    if sum(harm.values()) < lock_ms * _HARM_PART:
        msg = f"the lock of {run.pid} ran out for no reason"
        raise _Wrong(msg)
    return max(harm, key=lambda deed: harm[deed]).what


@dataclass(slots=True)
class Account:
    """The verdicts of all jobs, counted.

    ``causes`` and ``again`` are of the jobs that ended more than once: what took the locks of the
    runs that ended in vain, and their stories. ``reruns`` counts those that were begun again and
    ended once.
    """

    fates: Counter[Fate] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    reruns: int = 0
    again: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, stories: Iterable[Story], deeds: list[Deed], *, lock_ms: int = 3000) -> Account:
        """Judge every job."""
        account = cls()
        for story in stories:
            verdict = judge(story, deeds, lock_ms=lock_ms)
            account.fates[verdict.fate] += 1
            if verdict.fault is not None:
                account.faults.append(verdict.fault)
            elif verdict.fate is Fate.ONCE:
                account.reruns += verdict.was_rerun
            else:
                account.causes.update(verdict.causes)
                account.again.append(f"{tell(story, deeds)} -- {', '.join(verdict.causes)}")
        return account
