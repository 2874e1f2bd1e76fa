"""What operators do to jobs: remove, promote and retry them, one by one or in pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from convolab_worker.bullmq.protocol import client_calls
from convolab_worker.bullmq.protocol.keys import QueueKeys, queue_and_id
from convolab_worker.bullmq.protocol.records import is_lifo, text
from convolab_worker.bullmq.script_runner import now_ms, run_script
from convolab_worker.client.job_status import JobStatus, Seen, seen
from convolab_worker.client.lookup import find_job, of_record
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import JobNotFound, WrongState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.client.session import Session
    from convolab_worker.connection.connection import Connection

    QueuesOf = Callable[[str], Sequence[QueueKeys]]  # where a job of that id may be

Jobs = str | JobStatus | Iterable[str | JobStatus] | AsyncIterable[str | JobStatus]
"""One job, or several: each by its id, or as ``JobClient.jobs`` gives it."""

Kind = Literal["remove", "promote", "retry"]
BATCH = 500
DONE = "done"
_LOCKED = "a worker has it, or one of its children"
_SCHEDULED = "a job scheduler has it next"
_GONE = "it is gone"
_ANSWERS = {1: DONE, 0: _LOCKED, -1: _GONE, -8: _SCHEDULED}
UNSTARTED = ("waiting", "prioritized", "delayed", "waiting-children")
"""The states of jobs that no worker has."""
_MOVED = -3  # the job is not where it was seen any more
_ENDED = ("failed", "completed")
UNPLACED = "unknown"  # BullMQ's state of a job that is in no list
STATES: dict[Kind, tuple[str, ...]] = {
    "remove": (*_ENDED, *UNSTARTED, UNPLACED),
    "promote": ("delayed",),
    "retry": _ENDED,
}
"""The states of jobs to which each action can be done."""


@dataclass(frozen=True, slots=True)
class Action:
    """What is to be done to jobs of queues under ``prefix``."""

    kind: Kind
    prefix: str
    reset_attempts: bool = False
    forget_steps: bool = False
    with_children: bool = False

    def call(self, job: Seen) -> Call:
        """Return the call that acts on the job if it still is in the state it was seen in."""
        keys = QueueKeys(self.prefix, job.queue)
        if self.kind == "promote":
            return client_calls.promote_job(keys, job.id)
        if job.state == UNPLACED:
            return client_calls.remove_job(keys, job.id)
        if self.kind == "remove":
            return client_calls.remove_job_in(keys, job.id, job.state)
        return client_calls.retry_job(
            keys,
            job.id,
            job.state,
            lifo=job.lifo,
            reset_attempts=self.reset_attempts,
            forget_steps=self.forget_steps,
            wait_from=now_ms() if self.with_children else None,
        )

    async def run(self, connection: Connection, jobs: Sequence[Seen]) -> list[str]:
        """Act on the jobs in one pipeline; return for each ``done``, or why it was not done."""
        return await asyncio.gather(*[self._run_one(connection, job) for job in jobs])

    async def _run_one(self, connection: Connection, job: Seen) -> str:
        if job.state not in STATES[self.kind]:
            return f"it is {job.state}"
        if self.with_children:
            await self._retry_failed_children(connection, QueueKeys(self.prefix, job.queue), job)
        answer = await run_script(connection, Purpose.STATUS, self.call(job))
        if answer == (0 if self.kind == "promote" else 1):
            return DONE
        return _ANSWERS.get(answer, f"it is not {job.state} any more")

    async def _retry_failed_children(
        self, connection: Connection, keys: QueueKeys, job: Seen
    ) -> None:
        """Retry the job's failed children, their own before them; forget those that are gone."""
        key = keys.job(job.id)
        failed, ignored = f"{key}:unsuccessful", f"{key}:failed"
        found = [
            connection.call(Purpose.STATUS, "ZRANGE", failed, 0, -1),
            connection.call(Purpose.STATUS, "HKEYS", ignored),
        ]
        children = dict.fromkeys([raw for answer in found for raw in await answer])
        for child in map(text, children):
            queue, child_id = queue_and_id(self.prefix, child)
            opts = await of_record(connection.call(Purpose.STATUS, "HGET", child, "opts"), None)
            place = Seen(queue, child_id, "failed", "", "", 0.0, lifo=is_lifo(opts))
            if await self._run_one(connection, place) == _GONE:
                await connection.call(Purpose.STATUS, "ZREM", failed, child)
                await connection.call(Purpose.STATUS, "HDEL", ignored, child)

    async def run_on_one(self, session: Session, job: Seen) -> None:
        """Act on one job. Raises WrongState, or JobNotFound if it is gone in the meantime."""
        outcome = (await self.run(await session.open(), [job]))[0]
        if outcome == _GONE:
            msg = f"job {job.id!r} on {job.queue} is gone"
            raise JobNotFound(msg)
        if outcome != DONE:
            msg = f"{self.kind} job {job.id!r} on {job.queue}: {outcome}"
            raise WrongState(msg)


async def act(session: Session, queues_of: QueuesOf, jobs: Jobs, action: Action) -> int:
    """Act on one job, or on several in pipelines; return on how many.

    Raises JobNotFound or WrongState for one job. Of several, those that are gone, or are not in a
    fitting state (any more), are passed over.
    """
    if isinstance(jobs, str):
        _, jobs = await find_job(session, queues_of(jobs), jobs)
    if isinstance(jobs, JobStatus):
        await action.run_on_one(session, seen(jobs))
        return 1
    done, batch = 0, list[str | JobStatus]()
    async for job in _each(jobs):
        batch.append(job)
        if len(batch) == BATCH:
            done += await _act_on_batch(session, queues_of, batch, action)
            batch = []
    return done + await _act_on_batch(session, queues_of, batch, action)


async def _each(
    jobs: Iterable[str | JobStatus] | AsyncIterable[str | JobStatus],
) -> AsyncIterator[str | JobStatus]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield job
        return
    for job in jobs:
        yield job


async def _act_on_batch(
    session: Session, queues_of: QueuesOf, batch: Sequence[str | JobStatus], action: Action
) -> int:
    places = await asyncio.gather(*[_place(session, queues_of, job) for job in batch])
    there = [place for place in places if place is not None]
    outcomes = await action.run(await session.open(), there)
    return outcomes.count(DONE)


async def _place(session: Session, queues_of: QueuesOf, job: str | JobStatus) -> Seen | None:
    if isinstance(job, JobStatus):
        return seen(job)
    try:
        _, status = await find_job(session, queues_of(job), job)
    except JobNotFound:
        return None
    return seen(status)


async def remove_unstarted(connection: Connection, keys: QueueKeys, job: JobStatus) -> str | None:
    """Remove a job that has not started, and return ``removed``.

    Returns None if it has started, or is gone, in the meantime. Raises WrongState if it can't be
    removed: one of its children runs, or a job scheduler would lose its next run.
    """
    call = client_calls.remove_job_in(keys, job.id, job.state)
    answer = await run_script(connection, Purpose.STATUS, call)
    if answer == 1:
        return "removed"
    if answer == _MOVED or (answer == 0 and job.state != "waiting-children"):
        return None
    why = "one of its children runs" if answer == 0 else f"{_SCHEDULED}: remove the scheduler"
    msg = f"job {job.id!r} on {keys.queue} can't be removed: {why}"
    raise WrongState(msg)
