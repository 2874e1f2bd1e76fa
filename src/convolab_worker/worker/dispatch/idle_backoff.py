"""How long to wait next when there is nothing to do: pure, from what happened and explicit time.

A wait costs two commands whatever its length (the block, and the sweep at its end), and a job that
arrives ends it at once; so waits grow while nothing happens. They are finite because a marker can
be lost: popped by a process that died before it took the job.
"""

from __future__ import annotations

from msgspec import Struct

# From idle_min to idle_max in few steps: 5 s becomes 30 min in the fourth wait or the fifth, so
# that the way there costs less than ten commands after a lone job.
GROWTH = 8.0
# Growth is drawn from GROWTH +/- this part of it, so that several workers don't march in step;
# the longest wait carries none, so that a day has no more of them than it must.
JITTER = 0.25
# What is due already does not let a read block for 0 s, which for Redis means for ever.
_SHORTEST_BLOCK_SECONDS = 0.001


class Bounds(Struct, frozen=True, kw_only=True):
    """The shortest and longest wait, in seconds."""

    shortest: float
    longest: float


def next_wait(previous: float | None, *, bounds: Bounds, random: float) -> float:
    """The next wait in seconds, were nothing known to be due.

    ``previous`` is what this function gave the last time, or None after work was seen; ``random``
    is from 0 to 1.
    """
    if previous is None:
        return bounds.shortest
    factor = GROWTH * (1 - JITTER + 2 * JITTER * random)
    return min(max(previous * factor, bounds.shortest), bounds.longest)


def cut(wait: float, *, until_due: float | None) -> float:
    """How long to block, in seconds: ``wait``, or less if something is due before it is over.

    ``until_due`` is the time to that moment (a delayed job's due time), None without one.
    """
    if until_due is None:
        return wait
    return min(wait, max(until_due, _SHORTEST_BLOCK_SECONDS))


def revalidation(remaining: float, *, bounds: Bounds) -> float:
    """After how long to look again whether a job was added that is due before the known one.

    Such a job's marker may be lost like any other. Halving the ``remaining`` time (seconds) keeps
    the price of a job that is a day away under ten commands.
    """
    return max(remaining / 2, bounds.longest)
