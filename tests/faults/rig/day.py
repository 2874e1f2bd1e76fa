"""A day's jobs on a clock that runs fast: quiet nights, a morning and an evening rush, bursts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

RECIPE = "RIG_RECIPE"
"""The variable with the module of docs/platforms.md by which the worker asks for calls."""
QUEUES = ("audio-generation", "dialogue-generation", "image-generation", "course-generation")
_HOURS = (1, 1, 1, 1, 1, 2, 4, 8, 12, 10, 8, 8, 10, 8, 6, 6, 8, 10, 14, 16, 12, 8, 4, 2)
_BURST_SHARE, _LARGEST_BURST = 0.3, 6
_DELAYED_SHARE, _FAILING_SHARE = 0.1, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day in ``seconds``: everything that takes time in it is as much shorter.

    ``scheduler_every`` is the scheduler's five minutes and ``idle`` the quarter of an hour after
    which a frozen instance is ended; ``lost`` is the share of the APIs' wakes that get lost.
    """

    seconds: float
    jobs: int
    seed: int
    scheduler_every: float
    idle: float
    lost: float = 0.2

    @classmethod
    def of(cls, seconds: float, jobs: int, seed: int) -> Day:
        """A day to scale."""
        second = seconds / 86_400
        return cls(
            seconds=seconds,
            jobs=jobs,
            seed=seed,
            scheduler_every=300 * second,
            idle=900 * second,
        )

    @property
    def scale(self) -> float:
        """How many seconds of the day go by in one."""
        return 86_400 / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A job, and when it is added; ``opts`` are BullMQ's."""

    at: float
    job_id: str
    queue: str
    data: dict[str, Any]
    opts: dict[str, Any]

    def as_node(self) -> dict[str, Any]:
        """The same for the Node producer."""
        opts = {**self.opts, "jobId": self.job_id}
        return {"at": self.at, "queue": self.queue, "name": "work", "data": self.data, "opts": opts}


def planned(day: Day, rng: random.Random, prefix: str) -> list[Planned]:
    """A day's jobs in the order of their times, their ids beginning with ``prefix``."""
    times: list[float] = []
    while len(times) < day.jobs:
        hour = rng.choices(range(24), weights=_HOURS)[0]
        at = (hour + rng.random()) / 24 * day.seconds
        burst = rng.randint(2, _LARGEST_BURST) if rng.random() < _BURST_SHARE else 1
        times.extend([at] * burst)
    return [_job(f"{prefix}{n}", at, day, rng) for n, at in enumerate(sorted(times[: day.jobs]))]


def _job(job_id: str, at: float, day: Day, rng: random.Random) -> Planned:
    """A job that runs for some seconds to a minute of the day; some are late, some fail first."""
    minute = 60 / day.scale
    data: dict[str, Any] = {"seconds": round(rng.uniform(0.05, 1.0) * minute, 4)}
    opts: dict[str, Any] = {}
    chance = rng.random()
    if chance < _DELAYED_SHARE:
        opts["delay"] = round(rng.uniform(1, 30) * minute * 1000)
    elif chance < _DELAYED_SHARE + _FAILING_SHARE:
        data["failures"] = 1
        opts["attempts"] = 3
        opts["backoff"] = {"type": "fixed", "delay": max(round(minute * 1000), 1)}
    return Planned(at=at, job_id=job_id, queue=rng.choice(QUEUES), data=data, opts=opts)
