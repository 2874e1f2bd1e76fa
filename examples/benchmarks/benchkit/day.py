"""Pure: what a whole day costs, from what was counted in some minutes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker.worker.dispatch.idle_backoff import Bounds, next_wait

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """The waits of an idle worker that were seen from start to end, and what they cost."""

    whole: int
    client_sent: float
    """Commands sent for one wait, its block included."""
    billable: float
    first_block: float
    last_block: float
    """When the first and the last block began, in seconds of the measurement."""


def from_rate(commands: int, seconds: float, *, scale: float = 1.0) -> float:
    """Commands a day for a worker that costs the same at all times.

    With ``scale`` the measurement ran that many times faster than the day does.
    """
    return commands * DAY_SECONDS / (seconds * scale)


def waits_of(
    blocks: Sequence[float], client_sent: Sequence[float], billable: Sequence[float]
) -> Waits | None:
    """Count the commands from the first block to the last, which is as many whole waits.

    ``blocks`` are the moments at which a block began, the others those of every command sent
    and on the bill. None when not one wait was seen whole.
    """
    if len(blocks) < 2:
        return None
    first, last = blocks[0], blocks[-1]
    whole = len(blocks) - 1
    return Waits(
        whole=whole,
        client_sent=sum(first <= at < last for at in client_sent) / whole,
        billable=sum(first <= at < last for at in billable) / whole,
        first_block=first,
        last_block=last,
    )


def steady_day(per_wait: float, *, bounds: Bounds) -> float:
    """Commands a day when every wait is the longest, as in a worker that has long been idle."""
    return DAY_SECONDS / bounds.longest * per_wait


def ramp(commands_a_day: float) -> list[tuple[float, float]]:
    """Give a curve of the day for a worker that costs the same at all times, by the minute."""
    minutes = int(DAY_SECONDS // 60)
    return [(60.0 * n, commands_a_day * n / minutes) for n in range(1, minutes + 1)]


def staircase(
    moments: Sequence[float], sizes: Sequence[float] | None = None
) -> list[tuple[float, float]]:
    """Give a curve of the day that rises at each moment (s) by its size, or by one."""
    points: list[tuple[float, float]] = []
    total = 0.0
    for at, size in zip(moments, sizes or [1.0] * len(moments), strict=True):
        points += [(at, total), (at, total + size)]
        total += size
    return [*points, (DAY_SECONDS, total)]


def rest_of_day(since: float, previous: float | None, *, bounds: Bounds) -> list[float]:
    """When the waits after the last measured one end, in seconds of the day.

    ``since`` is the second at which a wait of ``previous`` seconds ended; the growth is the
    worker's own rule with its randomness in the middle.
    """
    ends: list[float] = []
    now = since
    while True:
        previous = next_wait(previous, bounds=bounds, random=0.5)
        now += previous
        if now >= DAY_SECONDS:
            return ends
        ends.append(now)
