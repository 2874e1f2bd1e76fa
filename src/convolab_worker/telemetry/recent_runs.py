"""What a worker did lately, for whoever looks at it. Pure: every time is an argument.

Bounded in size whatever happens: the last hundred jobs, an hour of counts by the minute, a day of
commands by the quarter of an hour.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Any, NamedTuple

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
        """Take in a run that has ended."""
        self.total += 1
        self._runs.append(run)
        minute = int(run.at // _MINUTE)
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, {}))
        counts = self._minutes[-1][1]
        counts[run.kind] = counts.get(run.kind, 0) + 1

    def counted(self, now: float, billable: int) -> None:
        """Take in how many commands have been sent since the start."""
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
