"""Queue tables for tests, and what a worker's fetches and jobs tell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from convolab_worker.bullmq.protocol.records import FetchResult, Restrictions
from convolab_worker.worker.dispatch.queue_state import FollowUp
from convolab_worker.worker.dispatch.queue_table import QueueTable
from convolab_worker.worker.dispatch.slots import Slots

NO_HANDLER = "(no handler)"
START = 1_000_000.0


def make_slots(
    *queues: str,
    concurrency: int = 4,
    park_limit: int = 100,
    handlers_of: Mapping[str, Sequence[str]] | None = None,
    limits: Mapping[str, int] | None = None,
    intervals: Mapping[str, float] | None = None,
) -> Slots[str]:
    """Slots of a worker on ``queues``, whose jobs all need the handler ``h`` unless told."""
    return Slots(
        concurrency=concurrency,
        park_limit=park_limit,
        handlers_of=handlers_of or dict.fromkeys(queues or ("a", "b"), ("h",)),
        limits=limits or {},
        intervals=intervals,
    )


def make_table(
    *queues: str,
    slots: Slots[str] | None = None,
    concurrency: int = 4,
    ready: Sequence[str] = (),
    one_by_one: bool = False,
    longest_full: float = 1800.0,
) -> QueueTable:
    """The table of a worker on ``queues``; jobs were seen in those that are ``ready``."""
    names = queues or ("a", "b")
    table = QueueTable(
        names,
        slots or make_slots(*names, concurrency=concurrency),
        one_by_one=one_by_one,
        longest_full=longest_full,
    )
    for queue in ready:
        table.mark_ready(queue, certain=True)
    return table


def admit_one(slots: Slots[str], handler: str = "h", job: str = "job") -> bool:
    """Admit a job that was just fetched: whether it runs."""
    return slots.admit(slots.reserve(), handler, job, START)


def nothing() -> None:
    """What happens during most fetches."""


def fetch_one(
    table: QueueTable,
    queue: str,
    handler: str = "h",
    job: str = "job",
    *,
    meanwhile: Callable[[], None] = nothing,
) -> FollowUp:
    """Fetch a job from ``queue`` and admit it; what the table wants to know then."""
    table.fetch_started(queue)
    meanwhile()
    wanted = table.fetch_found(queue)
    admit_one(table.slots, handler, job)
    return wanted


def fetch_none(
    table: QueueTable,
    queue: str,
    now: float = START,
    *,
    due_at: float | None = None,
    limited_for: float = 0.0,
    meanwhile: Callable[[], None] = nothing,
) -> FollowUp:
    """Fetch from ``queue`` in vain; what the table wants to know then."""
    table.fetch_started(queue)
    meanwhile()
    return table.fetch_empty(queue, FetchResult(due_at=due_at, limited_for=limited_for), now)


def end_one(table: QueueTable, queue: str, handler: str = "h") -> None:
    """End a job of ``queue`` that ran."""
    table.slots.release(handler)
    table.job_ended(queue)


def pause(table: QueueTable, queue: str) -> None:
    """Let the table learn that the queue, where jobs were seen, is paused."""
    table.mark_ready(queue, certain=True)
    assert fetch_none(table, queue) is FollowUp.ASK_WHY_STOPPED
    table.restricted(queue, Restrictions(paused=True, concurrency=None), ours=0, now=START)


def fill_up(table: QueueTable, queue: str, *, most: int = 2, ours: int = 0) -> None:
    """Let the table learn that ``most`` jobs, the queue's own concurrency, are active."""
    table.mark_ready(queue, certain=True)
    assert fetch_none(table, queue) is FollowUp.ASK_WHY_STOPPED
    table.restricted(queue, Restrictions(paused=False, concurrency=most), ours=ours, now=START)
