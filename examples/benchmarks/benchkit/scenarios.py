"""The idle workers that stand side by side, and how their days are measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from examples.benchmarks.benchkit.process import BULLMQ_NODE, BULLMQ_PYTHON, OURS, Contender

if TYPE_CHECKING:
    from collections.abc import Mapping

IDLE_MIN = 5.0
IDLE_MAX = 1800.0
_TUNED_SECONDS = 300.0
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


class Day(StrEnum):
    """How a day is made from what was counted."""

    RATE = "rate × a day"
    """The worker costs the same at all times: the minutes stand for all others."""

    WAITS = "waits × their cost"
    """Waits grow to the longest: what one costs, times how many a day has."""

    SCALED = "a whole day, faster"
    """Every time of the worker was divided by one factor, so that the minutes are a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One idle worker; ``options`` are its own, ``delay_ms`` is of a job added at the start."""

    key: str
    label: str
    contender: Contender
    day: Day
    queues: int = 1
    concurrency: int = 1
    options: Mapping[str, object] = field(default_factory=dict)
    paused: bool = False
    delay_ms: int = 0
    latency: bool = False
    """Whether jobs are added at the end to measure how fast they are picked up."""

    curve: bool = False
    """Whether the picture shows it."""

    @property
    def queue_names(self) -> list[str]:
        """The names of its queues."""
        return [f"idle-{number}" for number in range(1, self.queues + 1)]


def all_scenarios(scale: float) -> list[Scenario]:
    """Every scenario; ``scale`` is how many times faster than a day the measurement runs."""
    return [*_bullmq(), *_bullmq_tuned(scale), *_ours(), *_ours_scaled(scale)]


_NODE = Scenario(key="node", label="bullmq Node", contender=BULLMQ_NODE, day=Day.RATE)
_PYTHON = Scenario(
    key="python", label="bullmq Python, mended", contender=BULLMQ_PYTHON, day=Day.RATE
)
_OURS = Scenario(key="ours", label="this worker", contender=OURS, day=Day.WAITS)


def _bullmq() -> list[Scenario]:
    return [
        replace(_NODE, latency=True, curve=True),
        replace(
            _NODE,
            key="node-50",
            label=f"{_NODE.label}, concurrency 50",
            concurrency=50,
            latency=True,
        ),
        replace(
            _NODE,
            key="node-4",
            label=f"{_NODE.label}, 4 queues",
            queues=4,
            latency=True,
            curve=True,
        ),
        replace(
            _NODE, key="node-delayed", label=f"{_NODE.label}, a job in a day", delay_ms=_DAY_MS
        ),
        replace(_NODE, key="node-paused", label=f"{_NODE.label}, paused", paused=True),
        replace(_PYTHON, latency=True, curve=True),
        replace(
            _PYTHON,
            key="python-10",
            label=f"{_PYTHON.label}, concurrency 10",
            concurrency=10,
            latency=True,
        ),
        replace(
            _PYTHON,
            key="python-as-it-comes",
            label="bullmq Python, as it comes",
            options={"as_it_comes": True},
            latency=True,
        ),
    ]


def _bullmq_tuned(scale: float) -> list[Scenario]:
    options = {
        "drainDelay": _TUNED_SECONDS / scale,
        # Whole milliseconds: with a fraction its script fails, and the check is left out.
        "stalledInterval": round(_TUNED_SECONDS * 1000 / scale),
    }
    tuned = replace(
        _NODE,
        key="node-tuned",
        label="bullmq Node, tuned (300 s)",
        day=Day.SCALED,
        options=options,
        curve=True,
    )
    return [tuned, replace(tuned, key="node-tuned-4", label=f"{tuned.label}, 4 queues", queues=4)]


def _ours() -> list[Scenario]:
    return [
        replace(_OURS, latency=True),
        replace(
            _OURS,
            key="ours-50",
            label=f"{_OURS.label}, concurrency 50",
            concurrency=50,
            latency=True,
        ),
        replace(_OURS, key="ours-4", label=f"{_OURS.label}, 4 queues", queues=4, latency=True),
        replace(
            _OURS, key="ours-delayed", label=f"{_OURS.label}, a job in a day", delay_ms=_DAY_MS
        ),
        replace(_OURS, key="ours-paused", label=f"{_OURS.label}, paused", paused=True),
        replace(
            _OURS,
            key="ours-longest",
            label=f"{_OURS.label}, in a 30 min wait",
            options={"idle_min": IDLE_MAX, "idle_max": IDLE_MAX},
            latency=True,
        ),
    ]


def _ours_scaled(scale: float) -> list[Scenario]:
    whole = replace(
        _OURS,
        key="ours-day",
        label=f"{_OURS.label}, whole day",
        day=Day.SCALED,
        options={
            # 10 ms is the least that the setting takes: it matters to the first waits alone.
            "idle_min": max(IDLE_MIN / scale, 0.01),
            "idle_max": IDLE_MAX / scale,
        },
    )
    return [
        replace(whole, curve=True),
        replace(whole, key="ours-day-50", label=f"{whole.label}, concurrency 50", concurrency=50),
        replace(whole, key="ours-day-4", label=f"{whole.label}, 4 queues", queues=4, curve=True),
        replace(
            whole,
            key="ours-day-hour",
            label=f"{whole.label}, a job in an hour",
            delay_ms=round(_HOUR_MS / scale),
        ),
        replace(
            whole,
            key="ours-day-day",
            label=f"{whole.label}, a job in a day",
            # Just after the day's end, so that the job's own run is not in the count.
            delay_ms=round(1.05 * _DAY_MS / scale),
        ),
        replace(whole, key="ours-day-paused", label=f"{whole.label}, paused", paused=True),
    ]
