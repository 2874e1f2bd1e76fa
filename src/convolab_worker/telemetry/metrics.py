"""Counts and times what a worker does, in memory; every time is an argument.

Runs that have ended are counted many at a time, or once somebody asks. In a row they take a third
of the time that each takes between two jobs, and the next job starts sooner.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.connection.commands.usage import CommandCounter, DailyBudget
from convolab_worker.telemetry.recent_runs import QUARTER, QUARTERS_KEPT, RecentRun, RecentRuns

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = Log()

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Upper bounds of the histograms' buckets, in seconds; one more bucket takes the rest."""
_MOST_UNCOUNTED = 100
_bucket_of = partial(bisect_left, BUCKETS)


class Histogram:
    """How often a time fell into each bucket, with their count, sum and longest."""

    __slots__ = ("_buckets", "count", "longest", "total")

    def __init__(self) -> None:
        self._buckets = [0] * (len(BUCKETS) + 1)
        self.count = 0
        self.total = 0.0
        self.longest = 0.0

    def observe(self, *times: float) -> None:
        """Count times in seconds; a negative one, from clocks that disagree, counts as zero."""
        if min(times) < 0:
            times = tuple(max(seconds, 0.0) for seconds in times)
        for bucket, count in Counter(map(_bucket_of, times)).items():
            self._buckets[bucket] += count
        self.total += sum(times)
        self.count += len(times)
        self.longest = max(self.longest, *times)

    def snapshot(self) -> dict[str, Any]:
        """Return count, sum and longest, and for each bound how many times were no longer."""
        bounds = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
        return {
            "count": self.count,
            "sum": self.total,
            "max": self.longest,
            "buckets": dict(zip(bounds, accumulate(self._buckets), strict=True)),
        }

    def at_most(self, part: float) -> float | None:
        """The bound that this part (0 to 1) of the times did not pass; None without times."""
        if not self.count:
            return None
        wanted, seen = part * self.count, 0
        for bound, count in zip(BUCKETS, self._buckets, strict=False):
            seen += count
            if seen >= wanted:
                return min(float(bound), self.longest)
        return self.longest

    def percentiles(self) -> dict[str, float | None]:
        """The bounds that half, 95 % and 99 % of the times did not pass, and the longest time."""
        longest = self.longest if self.count else None
        at_most = self.at_most
        return {"median": at_most(0.5), "p95": at_most(0.95), "p99": at_most(0.99), "max": longest}


class _Kind:
    """What became of the jobs of one kind, and how long they took and waited."""

    __slots__ = ("durations", "outcomes", "waits")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.durations = Histogram()
        self.waits = Histogram()

    def count(self, runs: Sequence[RecentRun]) -> None:
        self.outcomes.update([run.outcome for run in runs])
        self.durations.observe(*[run.duration for run in runs])
        self.waits.observe(*[run.waited for run in runs])


class Metrics:
    """What a worker did since it started at ``started_at`` (epoch seconds), by kind of job.

    Takes every time as an argument. One thread tells what has ended; any may ask.
    """

    __slots__ = ("_kinds", "_lock", "_recent_runs", "_uncounted")

    def __init__(self, started_at: float = 0.0) -> None:
        self._recent_runs = RecentRuns(started_at)
        self._kinds: dict[str, _Kind] = {}
        self._uncounted: deque[RecentRun] = deque()
        # Of the counts, which whoever asks brings up to date: perhaps a signal, while they are.
        self._lock = threading.RLock()

    def job_ended(self, run: RecentRun) -> None:
        """Take note of one run of a job."""
        self._uncounted.append(run)
        if len(self._uncounted) >= _MOST_UNCOUNTED:
            self._count()

    def _count(self) -> None:
        with self._lock:
            runs = [self._uncounted.popleft() for _ in range(len(self._uncounted))]
            by_kind: dict[str, list[RecentRun]] = {}
            for run in runs:
                by_kind.setdefault(run.kind, []).append(run)
            for name, ended in by_kind.items():
                if name not in self._kinds:
                    self._kinds[name] = _Kind()
                self._kinds[name].count(ended)
            self._recent_runs.ended(*runs)

    @property
    def recent_runs(self) -> RecentRuns:
        """Those that have ended so far."""
        self._count()
        return self._recent_runs

    @property
    def outcomes(self) -> Counter[str]:
        """A copy: how many runs had each outcome, whatever their kind."""
        outcomes: Counter[str] = Counter()
        with self._lock:
            self._count()
            for kind in self._kinds.values():
                outcomes.update(kind.outcomes)
        return outcomes

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything, ready for JSON: ``jobs``, ``duration`` and ``waited``."""
        with self._lock:
            self._count()
            kinds = self._kinds.items()
            return {
                "jobs": {name: dict(kind.outcomes) for name, kind in kinds},
                "duration": {name: kind.durations.snapshot() for name, kind in kinds},
                "waited": {name: kind.waits.snapshot() for name, kind in kinds},
            }

    def kinds(self) -> dict[str, dict[str, Any]]:
        """By kind: its ``outcomes``, and the percentiles of how long jobs took and waited."""
        with self._lock:
            self._count()
            return {
                name: {
                    "outcomes": dict(kind.outcomes),
                    "took": kind.durations.percentiles(),
                    "waited": kind.waits.percentiles(),
                }
                for name, kind in self._kinds.items()
            }


class CommandUsage:
    """A worker's commands, of all its ``counters``, held against a ``budget`` for the day.

    ``now`` is the worker's start, in epoch seconds.
    """

    def __init__(self, *counters: CommandCounter, budget: int | None, now: float) -> None:
        self._counters = counters
        self._before_today = CommandCounter()
        # The counts at the first look of each quarter of an hour.
        self._quarters = deque([(int(now // QUARTER), CommandCounter())], QUARTERS_KEPT + 1)
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
        if self._quarters[-1][0] != (quarter := int(now // QUARTER)):
            self._quarters.append((quarter, self.total))
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

    def curve(self, now: float) -> list[tuple[float, dict[str, int]]]:
        """Billable commands of the last day as (start of a quarter of an hour, by purpose).

        Commands between two checks count for the quarter of the first one.
        """
        first = int(now // QUARTER) - QUARTERS_KEPT + 1
        counted = [*self._quarters, (0, self.total)]
        return [
            (quarter * QUARTER, {name: counts["billable"] for name, counts in spent.items()})
            for (quarter, before), (_, after) in pairwise(counted)
            if quarter >= first and (spent := (after - before).snapshot())
        ]
