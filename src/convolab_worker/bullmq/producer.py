"""Adds jobs to queues and counts them, as producers and dashboards of BullMQ do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.client_calls import NewJob, add_job
from convolab_worker.bullmq.script_runner import now_ms, run_pipeline, run_script
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import ConvolabWorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.connection.commands.usage import CommandCounter
    from convolab_worker.connection.connection import Connection

T = TypeVar("T")

_PARENT_MISSING, _PARENT_REPLACED = -5, -7
# The most jobs of a pipeline, and the most characters of data, unless one job has more.
MOST_JOBS = 500
_MOST_DATA = 2**22


class Added(NamedTuple):
    """What became of a job that was to be added.

    ``id`` is the job's, or that of the one which was kept instead; ``existed`` says that nothing
    was added.
    """

    id: str
    existed: bool


def pipelines(jobs: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Yields the jobs in lists, each of which goes into one pipeline.

    ``size_of`` tells how many characters of data a job has.
    """
    batch: list[T] = []
    size = 0
    for job in jobs:
        size += size_of(job)
        if batch and (len(batch) == MOST_JOBS or size > _MOST_DATA):
            yield batch
            batch, size = [], size_of(job)
        batch.append(job)
    if batch:
        yield batch


async def add(
    connection: Connection,
    keys: QueueKeys,
    job: NewJob,
    *,
    at_ms: int | None = None,
    again: bool = False,
) -> Added:
    """Adds ``job``, as of ``at_ms``, which is now by default.

    ``again`` says that an earlier try of the same time may have added it. Raises
    ConvolabWorkerError if its parent is not there, or is another than it was.
    """
    call = add_job(keys, job, now_ms() if at_ms is None else at_ms, again=again)
    answer = await run_script(connection, Purpose.ENQUEUE, call)
    return read_added(keys, job, call, answer, connection.counter)


async def add_all(
    connection: Connection,
    jobs: Sequence[tuple[QueueKeys, NewJob]],
    *,
    at_ms: int | None = None,
    again: bool = False,
) -> list[Added]:
    """Adds ``jobs`` in one pipeline, as ``add`` does each.

    Raises the first error, once every answer is there: what could be added is.
    """
    at = now_ms() if at_ms is None else at_ms
    calls = [add_job(keys, job, at, again=again) for keys, job in jobs]
    answers = await run_pipeline(connection, Purpose.ENQUEUE, calls)
    return [
        read_added(keys, job, call, answer, connection.counter)
        for (keys, job), call, answer in zip(jobs, calls, answers, strict=True)
    ]


def read_added(
    keys: QueueKeys, job: NewJob, call: Call, answer: Any, counter: CommandCounter
) -> Added:
    """Returns what the answer to ``call``, which adds ``job``, says. Raises ConvolabWorkerError.

    ``counter`` has the commands of a job that is added; one that is there already takes fewer.
    """
    answer, existed = answer if job.named else (answer, 0)
    if isinstance(answer, int):
        reason = {
            _PARENT_MISSING: f"its parent {job.parent} on {job.parent_queue} is not there",
            _PARENT_REPLACED: "a job of that id has another parent",
        }.get(answer, f"BullMQ's code {answer}")
        msg = f"job {job.id} ({job.name}) was not added to {keys.queue}: {reason}"
        raise ConvolabWorkerError(msg)
    added: str = answer.decode()
    if existed == 1 and added == job.id and call.inner is not None:
        counter.count_inner(Purpose.ENQUEUE, script_costs.FIND_JOB - call.inner)
    return Added(added, existed == 1 or added != job.id)


_COUNTED = {
    "waiting": ("LLEN", "wait"),
    "prioritized": ("ZCARD", "prioritized"),
    "delayed": ("ZCARD", "delayed"),
    "active": ("LLEN", "active"),
    "waiting-children": ("ZCARD", "waiting-children"),
    "completed": ("ZCARD", "completed"),
    "failed": ("ZCARD", "failed"),
}
COUNTED_STATES = tuple(_COUNTED)
COMMANDS_PER_QUEUE = len(_COUNTED)


async def depths(
    connection: Connection, queues: Collection[QueueKeys]
) -> dict[str, dict[str, int]]:
    """Returns the numbers of jobs by queue and state, asked for in one pipeline."""
    asked = {
        (keys.queue, state): connection.call(Purpose.STATUS, command, keys[key])
        for keys in queues
        for state, (command, key) in _COUNTED.items()
    }
    counts: dict[str, dict[str, int]] = {keys.queue: {} for keys in queues}
    for (queue, state), future in asked.items():
        counts[queue][state] = await future
    return counts
