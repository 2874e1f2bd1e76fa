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


class Fate(Enum):
    """What became of a job, in words of the closing table."""

    ONCE = "finished once"
    AGAIN = "finished more than once, its lock had run out"
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

    def harms(self, pid: int, start: int, end: int) -> bool:
        """Whether it can have kept the process from renewing a lock between those times."""
        concerns = self.pids is None or pid in self.pids
        return concerns and self.began <= end + _CLOCK_MS and self.ended >= start - _CLOCK_MS


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


@dataclass(slots=True)
class Story:
    """All that is known of one job.

    ``events`` are the server's, with their times (milliseconds since the epoch), in its order;
    of those that leave ``active`` and those that enter it.
    """

    job_id: str
    failures: int = 0
    state: str = "unknown"
    attempts: int = 0
    result: str | None = None
    reason: str | None = None
    runs: list[Run] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A job's fate, and why: what took its locks from it, or what is wrong."""

    fate: Fate
    causes: tuple[str, ...] = ()
    fault: str | None = None


class _Wrong(Exception):
    """The records of a completed job do not fit together."""


def judge(story: Story, deeds: list[Deed]) -> Verdict:
    """What became of a job."""
    if story.state == "active":
        return Verdict(Fate.ACTIVE, fault=f"{story.job_id} is in active")
    if story.state != "completed":
        return Verdict(Fate.LOST, fault=f"{story.job_id} is {story.state}: {story.reason}")
    try:
        _check_end(story)
        holds = _holds(story)
        causes = tuple(cause for hold in holds if (cause := _cause(hold, deeds)))
    except _Wrong as wrong:
        return Verdict(Fate.WRONG, fault=f"{tell(story, deeds)} -- {wrong}")
    ends = sum(run.how == "returned" for run in story.runs)
    return Verdict(Fate.ONCE if ends == 1 else Fate.AGAIN, causes)


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
    ends = sum(what == "completed" for _, what in story.events)
    if ends != 1:
        msg = f"recorded as completed {ends} times"
        raise _Wrong(msg)
    if not any(run.how == "returned" for run in story.runs):
        msg = "completed, and no handler has returned"
        raise _Wrong(msg)
    if story.attempts != story.failures + 1:
        msg = f"{story.attempts} attempts were used up instead of {story.failures + 1}"
        raise _Wrong(msg)
    if story.result != f'"{story.job_id}"':
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


def _cause(hold: Hold, deeds: list[Deed]) -> str:
    """What took the job from its worker before it was settled; "" if nothing did."""
    for before in hold.runs[:-1]:
        if before.how != "asked for children":
            msg = f"run twice under one lock at {before.pid}"
            raise _Wrong(msg)
    if not hold.runs:
        return ""  # its worker came to no harm that matters: the handler had not been called
    run = hold.runs[-1]
    if hold.how == "stalled" and hold.ended is not None:
        return _who_took_the_lock(run, hold.began, hold.ended, deeds)
    expected = {
        "completed": "returned",
        "waiting-children": "asked for children",
        "delayed": "raised",
    }.get(hold.how or "", run.how)
    if run.how != expected or (hold.how == "waiting" and run.how == "returned"):
        msg = f"{run.how} at {run.pid}, and recorded as {hold.how}"
        raise _Wrong(msg)
    return (
        "a SIGTERM, which gave it back" if hold.how == "waiting" and run.how == "cancelled" else ""
    )


def _who_took_the_lock(run: Run, began: int, stalled: int, deeds: list[Deed]) -> str:
    """The nearest of the deeds that can have: one to the worker itself, or the newest."""
    harm = [deed for deed in deeds if deed.harms(run.pid, began, stalled)]
    if not harm:
        msg = f"the lock of {run.pid} ran out for no reason"
        raise _Wrong(msg)
    return max(harm, key=lambda deed: (deed.pids is not None, deed.ended)).what


@dataclass(slots=True)
class Account:
    """The verdicts of all jobs, counted.

    ``causes`` and ``again`` are of the jobs that ended twice: what took their locks, and their
    stories. ``reruns`` counts those that were begun again and ended once.
    """

    fates: Counter[Fate] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    reruns: int = 0
    again: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, stories: Iterable[Story], deeds: list[Deed]) -> Account:
        """Judge every job."""
        account = cls()
        for story in stories:
            verdict = judge(story, deeds)
            account.fates[verdict.fate] += 1
            if verdict.fault is not None:
                account.faults.append(verdict.fault)
            elif verdict.fate is Fate.ONCE:
                account.reruns += bool(verdict.causes)
            else:
                account.causes.update(verdict.causes)
                account.again.append(f"{tell(story, deeds)} -- {', '.join(verdict.causes)}")
        return account
