"""Counts and times what a worker does, and remembers what it did lately, in memory.

Bounded in size whatever happens: the last hundred jobs, an hour of counts by the minute, a day of
commands by the quarter of an hour. Every time is an argument.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from convolab_worker._logs import Log
from convolab_worker.connection.usage import CommandCounter, DailyBudget

_MOST_RUNS = 100
_MINUTE = 60.0
_MINUTES_KEPT = 60
# A rate is that of the last minutes: long enough for slow jobs, short enough to show a change.
_RATE_MINUTES = 5
_QUARTER = 900.0
_QUARTERS_KEPT = 96


class RecentRun(NamedTuple):
    """A run of a job that has ended.

    ``at`` is epoch seconds; ``duration`` and ``waited``, from the moment it could have started,
    are seconds. ``outcome`` is ``completed``, ``failed``, ``retried`` and so on.
    """

    at: float
    id: str
    name: str
    queue: str
    kind: str
    attempt: int
    outcome: str
    duration: float
    waited: float
    reason: str | None = None


class RecentRuns:
    """Remembers what ended since ``now`` (epoch seconds), and how many commands were sent."""

    def __init__(self, now: float) -> None:
        self.started_at = now
        self.total = 0
        self._runs: deque[RecentRun] = deque(maxlen=_MOST_RUNS)
        self._minutes: deque[tuple[int, dict[str, int]]] = deque(maxlen=_MINUTES_KEPT)
        self._quarters: deque[tuple[int, int]] = deque(maxlen=_QUARTERS_KEPT + 1)

    def ended(self, run: RecentRun) -> None:
        self.total += 1
        self._runs.append(run)
        minute = int(run.at // _MINUTE)
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, {}))
        counts = self._minutes[-1][1]
        counts[run.kind] = counts.get(run.kind, 0) + 1

    def counted(self, now: float, billable: int) -> None:
        quarter = int(now // _QUARTER)
        if self._quarters and self._quarters[-1][0] == quarter:
            self._quarters[-1] = (quarter, billable)
        else:
            if not self._quarters:
                self._quarters.append((quarter - 1, 0))
            self._quarters.append((quarter, billable))

    def recent(self) -> list[dict[str, Any]]:
        """The last hundred runs that ended, newest first."""
        return [run._asdict() for run in reversed(self._runs)]

    def rates(self, now: float) -> dict[str, float]:
        """Runs that ended a minute, by kind, over the last five minutes or since the start."""
        first = int(now // _MINUTE) - _RATE_MINUTES + 1
        counts: dict[str, int] = {}
        for minute, by_kind in self._minutes:
            if minute >= first:
                for kind, count in by_kind.items():
                    counts[kind] = counts.get(kind, 0) + count
        span = min(max(now - self.started_at, _MINUTE), now - first * _MINUTE) / _MINUTE
        return {kind: count / span for kind, count in counts.items()}

    def curve(self, now: float) -> list[tuple[float, int]]:
        """Commands by the quarter of an hour over the last day, as (its start, commands)."""
        first = int(now // _QUARTER) - _QUARTERS_KEPT + 1
        return [
            (quarter * _QUARTER, total - before)
            for (_, before), (quarter, total) in pairwise(self._quarters)
            if quarter >= first
        ]


_log = Log()

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Upper bounds of the histograms' buckets, in seconds; one more bucket takes the rest."""


class Histogram:
    """How often a time fell into each bucket, with their count, sum and longest."""

    __slots__ = ("_buckets", "count", "longest", "total")

    def __init__(self) -> None:
        self._buckets = [0] * (len(BUCKETS) + 1)
        self.count = 0
        self.total = 0.0
        self.longest = 0.0

    def observe(self, seconds: float) -> None:
        """Count one time; a negative one, from clocks that disagree, counts as zero."""
        seconds = max(seconds, 0.0)
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def snapshot(self) -> dict[str, Any]:
        """Return count, sum and longest, and how many were at most each bound."""
        bounds = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
        return {
            "count": self.count,
            "sum": self.total,
            "max": self.longest,
            "buckets": dict(zip(bounds, accumulate(self._buckets), strict=True)),
        }

    def at_most(self, part: float) -> float | None:
        """The bound that this part (0 to 1) of the times did not pass; None without any."""
        if not self.count:
            return None
        wanted, seen = part * self.count, 0
        for bound, count in zip(BUCKETS, self._buckets, strict=False):
            seen += count
            if seen >= wanted:
                return min(float(bound), self.longest)
        return self.longest


class Metrics:
    """What a worker did since it started at ``started_at`` (epoch seconds), by kind of job.

    Takes every time as an argument; call it from one thread.
    """

    __slots__ = ("_durations", "_jobs", "_waits", "outcomes", "recent_runs")

    def __init__(self, started_at: float = 0.0) -> None:
        self.recent_runs = RecentRuns(started_at)
        self.outcomes: Counter[str] = Counter()
        self._jobs: dict[str, dict[str, int]] = {}
        self._durations: dict[str, Histogram] = {}
        self._waits: dict[str, Histogram] = {}

    def job_ended(self, run: RecentRun) -> None:
        """Count one run of a job."""
        kind, outcome = run.kind, run.outcome
        outcomes = self._jobs.get(kind)
        if outcomes is None:
            outcomes = self._jobs[kind] = {}
            self._durations[kind], self._waits[kind] = Histogram(), Histogram()
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self.outcomes[outcome] += 1
        self._durations[kind].observe(run.duration)
        self._waits[kind].observe(run.waited)
        self.recent_runs.ended(run)

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything, ready for JSON: ``jobs``, ``duration`` and ``waited``."""
        return {
            "jobs": {kind: dict(outcomes) for kind, outcomes in self._jobs.items()},
            "duration": {kind: times.snapshot() for kind, times in self._durations.items()},
            "waited": {kind: times.snapshot() for kind, times in self._waits.items()},
        }

    def kinds(self) -> dict[str, dict[str, Any]]:
        """By kind: its ``outcomes``, and what half and 95 % of its runs took no longer than."""
        return {
            kind: {
                "outcomes": dict(outcomes),
                "median": self._durations[kind].at_most(0.5),
                "p95": self._durations[kind].at_most(0.95),
            }
            for kind, outcomes in self._jobs.items()
        }


class CommandUsage:
    """A worker's commands, of all its ``counters``, held against a ``budget`` for the day.

    ``now`` is the worker's start, in epoch seconds.
    """

    def __init__(
        self, *counters: CommandCounter, budget: int | None, recent_runs: RecentRuns, now: float
    ) -> None:
        self._counters = counters
        self._recent_runs = recent_runs
        self._before_today = CommandCounter()
        self.daily = DailyBudget(budget, now)

    @property
    def total(self) -> CommandCounter:
        return sum(self._counters, CommandCounter())

    @property
    def today(self) -> CommandCounter:
        return self.total - self._before_today

    @property
    def billable(self) -> int:
        """How many commands a provider bills since the start."""
        return sum(counter.billable for counter in self._counters)

    def check(self, now: float) -> None:
        """Log the day's commands at its end, and once before if the budget will not suffice."""
        billable = self.billable
        self._recent_runs.counted(now, billable)
        report = self.daily.check(now, billable)
        if report is None:
            return
        counts = {"used": report.used, "projected": report.projected, "budget": report.budget}
        if report.is_over:
            _log.warning("commands.over_budget", **counts)
        else:
            by_purpose = self.today.snapshot()
            self._before_today = self.total
            _log.info("commands.day", **counts, by_purpose=by_purpose)
