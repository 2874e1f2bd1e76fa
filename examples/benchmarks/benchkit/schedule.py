"""Pure: when jobs arrive in a soak, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# One gap in four comes from the long ones, so that workers go back to their longest waits.
_SHORT_GAP_SECONDS = 1.5
_LONG_GAP_SECONDS = 20.0
_LONG_GAPS = 0.25
_BULK_JOBS = (2, 60)
_DELAY_SECONDS = (0.05, 45.0)
_DUE_TOGETHER = (1, 3)


class Arrival(StrEnum):
    """How jobs come: alone, for a later time (up to three for the same), or many in one call."""

    POISSON = "alone"
    DELAYED = "delayed"
    BULK = "bulk"


_WEIGHTS = {Arrival.POISSON: 0.5, Arrival.DELAYED: 0.35, Arrival.BULK: 0.15}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One call that adds jobs: ``at`` seconds after the start, with a delay for each job."""

    at: float
    kind: Arrival
    queue: str
    first_number: int
    delays_ms: tuple[int, ...]

    @property
    def numbers(self) -> range:
        """The numbers of its jobs, which no other event of the schedule has."""
        return range(self.first_number, self.first_number + len(self.delays_ms))


def schedule(seed: int, seconds: float, queues: Sequence[str]) -> list[Event]:
    """Draw the events of ``seconds``: random gaps, short and long, and three kinds of arrival.

    The same seed gives the same events. No job is due after the end.
    """
    draw = random.Random(seed)
    events: list[Event] = []
    jobs = 0
    for at in _moments(draw, seconds):
        kind = draw.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        delays = _delays(draw, kind, seconds - at)
        event = Event(
            at=at, kind=kind, queue=draw.choice(queues), first_number=jobs, delays_ms=delays
        )
        events.append(event)
        jobs += len(delays)
    return events


def _moments(draw: random.Random, seconds: float) -> Iterator[float]:
    at = 0.0
    while True:
        long = draw.random() < _LONG_GAPS
        at += draw.expovariate(1 / (_LONG_GAP_SECONDS if long else _SHORT_GAP_SECONDS))
        if at >= seconds:
            return
        yield at


def _delays(draw: random.Random, kind: Arrival, left: float) -> tuple[int, ...]:
    if kind is Arrival.BULK:
        return (0,) * draw.randint(*_BULK_JOBS)
    if kind is Arrival.POISSON:
        return (0,)
    # Short and long ones alike: even on a logarithmic scale.
    shortest, longest = _DELAY_SECONDS
    delay = shortest * (longest / shortest) ** draw.random()
    if delay > left:
        delay = left * draw.random()
    return (round(1000 * delay),) * draw.randint(*_DUE_TOGETHER)
