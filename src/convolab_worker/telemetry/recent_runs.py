"""What a worker did lately, in memory: last jobs, counts over time, reasons of failures.

Bounded in size whatever happens: the last hundred jobs, an hour of numbers by the minute, a day by
the quarter of an hour, fifty reasons. Every time is an argument.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from typing import Any

from msgspec import Struct, structs

_MOST_RUNS = 100
_MOST_REASONS = 50
_MINUTE = 60.0
_MINUTES_KEPT = 60
# A rate is that of the last minutes: long enough for slow jobs, short enough to show a change.
_RATE_MINUTES = 5
QUARTER = 900.0
QUARTERS_KEPT = 96
# The parts in which two reasons of one fault differ: numbers, ids and quoted text.
_VARYING = (  # compiled when the first job fails
    r"""0x[0-9a-f]+|[0-9a-f]{8,}[-0-9a-f]*|\d+(?:\.\d+)?|'[^']*'|"[^"]*\""""
)


class RecentRun(Struct, frozen=True):
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


class CountsOverTime:
    """How many runs ended in each stretch of ``seconds``, by kind and outcome."""

    def __init__(self, seconds: float, kept: int) -> None:
        self._seconds = seconds
        self._kept = kept
        self._counts: dict[int, dict[str, dict[str, int]]] = {}
        self._last: dict[str, dict[str, int]] = {}
        self._begun = self._over = 0.0  # the counts of the last run's stretch

    def count(self, at: float, kind: str, outcome: str, count: int) -> None:
        """So many runs have ended at that time."""
        kinds = self._last if self._begun <= at < self._over else self._of(at)
        outcomes = kinds.setdefault(kind, {})
        outcomes[outcome] = outcomes.get(outcome, 0) + count

    def _of(self, at: float) -> dict[str, dict[str, int]]:
        """The counts of the stretch that ``at`` is in; most of the next runs are in it, too."""
        stretch = int(at // self._seconds)
        kinds = self._counts.setdefault(stretch, {})
        if len(self._counts) > self._kept:
            del self._counts[min(self._counts)]
        self._last = kinds
        self._begun, self._over = stretch * self._seconds, (stretch + 1) * self._seconds
        return kinds

    def lately(
        self, now: float, stretches: int | None = None
    ) -> list[tuple[float, dict[str, dict[str, int]]]]:
        """Return (start, outcomes by kind) of the last stretches, without those that are empty."""
        last = int(now // self._seconds)
        first = last + 1 - (stretches or self._kept)
        return [
            (
                stretch * self._seconds,
                {kind: dict(outcomes) for kind, outcomes in self._counts[stretch].items()},
            )
            for stretch in sorted(self._counts)
            if first <= stretch <= last
        ]


class FailureReason(Struct):
    """Runs of jobs of one name that failed for one reason, but for numbers and quoted text.

    ``id``, ``queue``, ``reason`` and ``at`` are those of the newest one; ``final`` of the ``count``
    runs were jobs' last attempts.
    """

    name: str
    queue: str
    id: str
    reason: str
    at: float
    count: int = 0
    final: int = 0


class RecentRuns:
    """Remembers the runs that have ended since ``now`` (epoch seconds)."""

    def __init__(self, now: float) -> None:
        self.started_at = now
        self.total = 0
        self.failed = 0
        self._runs: deque[RecentRun] = deque(maxlen=_MOST_RUNS)
        self._minutes = CountsOverTime(_MINUTE, _MINUTES_KEPT)
        self._quarters = CountsOverTime(QUARTER, QUARTERS_KEPT)
        self._reasons: dict[tuple[str, str, str], FailureReason] = {}

    def ended(self, *runs: RecentRun) -> None:
        self.total += len(runs)
        self._runs.extend(runs)
        alike = Counter([(run.at // _MINUTE * _MINUTE, run.kind, run.outcome) for run in runs])
        for (minute, kind, outcome), count in alike.items():
            self._minutes.count(minute, kind, outcome, count)
            self._quarters.count(minute, kind, outcome, count)
        for run in runs:
            if run.reason is not None:
                self._failed(run, run.reason)

    def _failed(self, run: RecentRun, reason: str) -> None:
        self.failed += 1
        key = (run.queue, run.name, pattern_of(reason))
        known = self._reasons.pop(key, None)  # the newest goes to the end
        if known is None:
            known = FailureReason(run.name, run.queue, run.id, reason, run.at)
            if len(self._reasons) == _MOST_REASONS:
                del self._reasons[next(iter(self._reasons))]
        known.id, known.reason, known.at = run.id, reason, run.at
        known.count += 1
        known.final += run.outcome == "failed"
        self._reasons[key] = known

    def recent(self) -> list[dict[str, Any]]:
        """The last hundred runs that ended, newest first."""
        return [structs.asdict(run) for run in reversed(self._runs)]

    def reasons(self) -> list[dict[str, Any]]:
        """The reasons for which runs failed, the latest first."""
        return [structs.asdict(reason) for reason in reversed(self._reasons.values())]

    def history(self, now: float) -> dict[str, list[tuple[float, dict[str, dict[str, int]]]]]:
        """The runs of the last hour by the minute, and of the last day by the quarter hour."""
        return {"minutes": self._minutes.lately(now), "quarters": self._quarters.lately(now)}

    def rates(self, now: float) -> dict[str, float]:
        """Runs that ended a minute, by kind, over the last five minutes or since the start."""
        counts: dict[str, int] = {}
        for _, kinds in self._minutes.lately(now, _RATE_MINUTES):
            for kind, outcomes in kinds.items():
                counts[kind] = counts.get(kind, 0) + sum(outcomes.values())
        first = int(now // _MINUTE) - _RATE_MINUTES + 1
        span = min(max(now - self.started_at, _MINUTE), now - first * _MINUTE) / _MINUTE
        return {kind: count / span for kind, count in counts.items()}


def pattern_of(reason: str) -> str:
    """Return what the reasons of one fault have in common."""
    return re.sub(_VARYING, "…", reason)
