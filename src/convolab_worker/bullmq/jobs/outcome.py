"""The outcomes of a run as values. The worker makes them in one place, and writes them in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convolab_worker.bullmq.jobs.child_jobs import ChildJob


class Completed(Struct, frozen=True):
    """The handler returned; ``value`` is its result as JSON text."""

    value: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed.

    ``retry_in`` is the wait before the next attempt in seconds (0: at once), or None where there
    is no next attempt. ``stack`` is the traceback that is kept with the job, if there is one;
    ``error`` is what was raised, for those who call a handler without a worker.
    """

    reason: str
    stack: str | None = None
    retry_in: float | None = None
    error: BaseException | None = field(default=None, compare=False, repr=False)


class Postponed(Struct, frozen=True):
    """The handler asked for another run in ``delay`` seconds; no attempt is used up."""

    delay: float


class Limited(Struct, frozen=True):
    """The handler asked that no job of the queue starts for ``delay`` seconds; no attempt is used.

    The job goes back to the head of its queue.
    """

    delay: float


class AwaitsChildren(Struct, frozen=True):
    """The handler asked for ``children`` and waits for them; it is run again when they are done.

    ``carried`` are job options that the children get in addition to their own: a trace's context.
    """

    children: tuple[ChildJob, ...]
    carried: Mapping[str, Any] = {}


class Returned(Struct, frozen=True):
    """The worker stops: the job goes back to the head of its queue, no attempt used up."""


class Lost(Struct, frozen=True):
    """The lock is gone: another worker may have the job, so nothing is written."""

    reason: str


Outcome = Completed | Failed | Postponed | Limited | AwaitsChildren | Returned | Lost
