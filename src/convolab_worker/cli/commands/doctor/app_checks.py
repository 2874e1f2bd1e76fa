"""Judges facts about the queues, their jobs' handlers and the wake server. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker.cli.commands.doctor.checks import FAILURE, OK, UNKNOWN, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from convolab_worker.bullmq.protocol.records import Restrictions
    from convolab_worker.bullmq.schedulers import ListedSchedule
    from convolab_worker.cli.commands.doctor.waiting import Refusal

_REFUSED, _FIRST_ERROR = (401, 403), 400
_MOST_TOLD = 5
_MANY_JOBS, _MUCH = 1000, 16 * 2**20  # with fewer kept jobs there is nothing to say


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The kept jobs of a queue that have ended in ``state``.

    ``bytes`` is an estimate, None where the server does not tell. ``is_bounded`` says whether jobs
    that end have older ones removed.
    """

    state: str
    jobs: int
    bytes: int | None
    is_bounded: bool

    def __str__(self) -> str:
        size = "a size that the server does not tell" if self.bytes is None else _mib(self.bytes)
        kept = "within bounds" if self.is_bounded else "for ever"
        return f"{self.jobs:,} {self.state} ({size}) kept {kept}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStream:
    """A queue's events: ``bytes`` is None where the server does not tell, ``most`` the bound."""

    entries: int
    bytes: int | None
    most: int


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def queue_version(queue: str, version: str | None) -> Finding:
    """Judge which BullMQ last wrote the queue's metadata, such as ``bullmq:6.7.0``."""
    check = f"queue {queue}"
    if version is None:
        found = "no BullMQ version is recorded: no Node program has used this queue"
        return Finding(check=check, verdict=OK, found=found)
    library, _, number = version.partition(":")
    if library != "bullmq":
        return Finding(
            check=check,
            verdict=WARNING,
            found=version,
            why="this library knows BullMQ's own scripts, not those of its Pro edition",
            advice="don't use groups, batches or observables on this queue",
        )
    if number.partition(".")[0] == "5":
        return Finding(
            check=check,
            verdict=WARNING,
            found=f"BullMQ {number}",
            why="its resume() drops jobs that newer versions have added while the queue was paused",
            advice="pause and resume it with BullMQ 6, or not while others add jobs",
        )
    return Finding(check=check, verdict=OK, found=f"BullMQ {number}")


def paused_list(queue: str, jobs: int) -> Finding | None:
    """Judge the jobs in the list that BullMQ before 6 kept for a paused queue; None without any."""
    if not jobs:
        return None
    return Finding(
        check=f"queue {queue}, paused",
        verdict=FAILURE,
        found=f"{jobs} jobs in the list of BullMQ 5's paused queues",
        why="neither BullMQ 6 nor this worker fetches jobs from that list",
        advice="resume the queue with BullMQ 5, or move the jobs to a queue whose worker has their "
        f"handlers: convolab-worker migrate --from {queue} --to …",
    )


def paused(queue: str, restrictions: Restrictions, waiting: int) -> Finding | None:
    """Judge what keeps a queue from giving jobs; None where nothing does."""
    jobs = f"{_jobs(waiting)} {'waits' if waiting == 1 else 'wait'}"
    if restrictions.paused:
        return Finding(
            check=f"queue {queue}, paused",
            verdict=WARNING,
            found=f"it is paused, and {jobs}",
            why="no worker fetches a job from it until it is resumed",
            advice=f"resume it: convolab-worker queue resume --queue {queue}",
        )
    if restrictions.concurrency == 0:
        return Finding(
            check=f"queue {queue}, paused",
            verdict=WARNING,
            found=f"its global concurrency is 0, and {jobs}",
            why="no worker fetches a job from it",
            advice="queue.setGlobalConcurrency() in Node, or removeGlobalConcurrency()",
        )
    return None


def failed(queue: str, recent: int) -> Finding | None:
    """Judge the jobs that have failed for good within the last day; None without any."""
    if not recent:
        return None
    return Finding(
        check=f"queue {queue}, failed",
        verdict=WARNING,
        found=f"{_jobs(recent)} failed for good in the last 24 hours",
        why="a job that has failed for good runs again only if somebody retries it",
        advice=f"see why: convolab-worker failed list --queue {queue}, then failed show ID; "
        "failed retry ID runs one again",
    )


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count:,} jobs"


def schedules(queue: str, listed: Sequence[ListedSchedule]) -> Finding | None:
    """Judge whether every schedule of a queue goes on; None without any."""
    if not listed:
        return None
    broken = [f"{each.id}: {each.problem}" for each in listed if each.problem is not None]
    over = [each.id for each in listed if each.over is not None]
    verdict = FAILURE if broken else WARNING if over else OK
    found = f"{len(listed)} go on"
    if broken or over:
        ended = f"ended by its own end or limit, and still listed: {', '.join(over)}"
        found = "; ".join([*broken, *([ended] if over else [])])
    return Finding(
        check=f"queue {queue}, schedules",
        verdict=verdict,
        found=found,
        why="a schedule that stands still adds no job, and nothing else says so",
        advice="set it anew, or remove it: convolab-worker schedule set, or remove",
    )


def history(queue: str, kept: Sequence[Ended]) -> Finding | None:
    """Judge whether what is kept of ended jobs grows without bound; None where nothing is kept."""
    if not kept:
        return None
    growing = [
        each
        for each in kept
        if not each.is_bounded and (each.jobs >= _MANY_JOBS or (each.bytes or 0) >= _MUCH)
    ]
    return Finding(
        check=f"queue {queue}, history",
        verdict=WARNING if growing else OK,
        found="; ".join(str(each) for each in kept),
        why="BullMQ keeps every job that has ended until somebody removes it: the server fills up",
        advice="keep_completed and keep_failed for the handlers, or CONVOLAB_KEEP_COMPLETED and "
        "CONVOLAB_KEEP_FAILED; what is there goes with convolab-worker queue clean",
    )


def events(queue: str, stream: EventStream) -> Finding | None:
    """Judge the size of a queue's event stream; None without events, or if it is unknown."""
    if not stream.entries or stream.bytes is None:
        return None
    full = stream.bytes / stream.entries * max(stream.entries, stream.most)
    found = f"{stream.entries:,} entries, {_mib(stream.bytes)}"
    if stream.entries < stream.most:
        found = f"{found}; {_mib(full)} with as many as BullMQ keeps, {stream.most:,}"
    return Finding(
        check=f"queue {queue}, events",
        verdict=WARNING if stream.bytes >= _MUCH else OK,
        found=found,
        why="each result is there a second time, and BullMQ counts the entries, not their bytes",
        advice="keep large results elsewhere and return their addresses; in Node, "
        "new Queue(name, {streams: {events: {maxLen: 1000}}}) keeps fewer, and trimEvents() "
        "removes what is there",
    )


def unhandled(queue: str, waiting: Iterable[str], known: Iterable[str]) -> Finding:
    missing = sorted({*waiting} - {*known})
    return Finding(
        check=f"queue {queue}, handlers",
        verdict=FAILURE if missing else OK,
        found=f"no handler for: {', '.join(missing)}" if missing else "one for each waiting job",
        why="a worker without a handler for a job fails it for good",
        advice="register a handler, or run another worker for that queue",
    )


def unserved(queue: str, waiting: int, names: Collection[str], *, is_woken: bool) -> Finding:
    """Judge a queue that has jobs of these names, and no connected worker.

    With ``is_woken`` its workers may be asleep.
    """
    needed = f"with handlers for: {', '.join(sorted(names))}" if names else "for this queue"
    return Finding(
        check=f"queue {queue}, workers",
        verdict=OK if is_woken else WARNING,
        found=f"{_jobs(waiting)} {'waits' if waiting == 1 else 'wait'}, and no worker is connected",
        why="either the worker is down, or it serves a queue of another name",
        advice=f"start a worker {needed}. Move the jobs only to a queue whose "
        f"worker has these handlers: convolab-worker migrate --from {queue} --to …",
    )


def not_looked_for(queues: Iterable[str]) -> Finding:
    """Tell that no queue was named, and that only these were checked."""
    return Finding(
        check="queues",
        verdict=UNKNOWN,
        found="the server has too many keys to look for queues, or refuses to let this user look: "
        f"only {', '.join(queues)} is checked. --queue names others",
    )


def too_many(checked: int, found: int) -> Finding:
    """Tell that more queues were found than are checked one by one."""
    return Finding(
        check="queues",
        verdict=UNKNOWN,
        found=f"{checked} of {found:,} queues are checked one by one. --queue names others",
    )


def unreachable(handlers: Iterable[tuple[str, str]], queues: Iterable[str]) -> Finding | None:
    """Judge handlers that are bound to other queues than the worker's; None without any.

    Each is its place in the code and its queue.
    """
    found = [f"{place} (queue {queue})" for place, queue in handlers]
    if not found:
        return None
    return Finding(
        check="handlers",
        verdict=WARNING,
        found=f"no queue of {', '.join(queues)} reaches {', '.join(found)}",
        why="their jobs wait until a worker serves that queue",
        advice="add the queue to CONVOLAB_QUEUES or --queue, or run another worker for it",
    )


def refused(queue: str, refusals: Sequence[Refusal]) -> Finding:
    """Judge the waiting jobs, a few of each name, whose data their handlers would refuse."""
    found = "their handlers take the data of those that were looked at"
    if refusals:
        told = [f"{each.name} {each.job_id}: {each.reason}" for each in refusals[:_MOST_TOLD]]
        more = len(refusals) - len(told)
        found = "; ".join([*told, f"{more} more"] if more else told)
    return Finding(
        check=f"queue {queue}, data",
        verdict=WARNING if refusals else OK,
        found=found,
        why="a job whose data does not fit fails for good, whatever attempts it has left",
        advice="let the handlers take what was enqueued (convolab-worker schema --check says what "
        "has changed), or keep the older worker until these jobs are done",
    )


def strangers(status: int | None) -> Finding:
    """Judge what the wake server answers to a caller without a token; ``status`` is its answer."""
    is_open = status is not None and status < _FIRST_ERROR
    return Finding(
        check="wake, strangers",
        verdict=WARNING if is_open else OK,
        found="anybody who reaches it may wake it" if is_open else "refused",
        why="wakes cost commands and instance time, and the console shows what runs",
        advice="set CONVOLAB_WAKE_TOKEN on both sides, unless only a network of yours reaches it",
    )


def wake(error: str | None, status: int | None) -> Finding:
    """Judge whether wakes reach the worker service; ``status`` is its answer to the token."""
    if error is not None:
        verdict, found = FAILURE, error
    elif status in _REFUSED:
        verdict, found = FAILURE, f"the token is refused ({status})"
    else:
        verdict = OK if status is not None and status < _FIRST_ERROR else FAILURE
        found = f"reached, answers {status}"
    return Finding(
        check="wake",
        verdict=verdict,
        found=found,
        why="without a wake a sleeping worker hears of jobs from its scheduler alone",
        advice="compare CONVOLAB_WAKE_URL, and the token or the audience, on both sides",
    )
