"""Writes, removes and lists job schedulers, as Node's queues do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Unpack, overload

from convolab_worker.bullmq import schedulers
from convolab_worker.bullmq.jobs.job_id import JobId
from convolab_worker.bullmq.jobs.job_type import job_request
from convolab_worker.bullmq.protocol.keys import can_be_in_a_key
from convolab_worker.bullmq.protocol.keywords import (
    check_command_size,
    check_keyword,
    check_size,
    job_options,
)
from convolab_worker.bullmq.protocol.records import pairs
from convolab_worker.bullmq.protocol.schedules import (
    COLLISION,
    SLOTS_BUSY,
    NewSchedule,
    Schedule,
    add_schedule,
    read_schedule,
    remove_schedule,
    repeat_options,
)
from convolab_worker.bullmq.script_runner import now_ms, run_script
from convolab_worker.client.adding.enqueue import sent
from convolab_worker.client.operating.operations import Operations
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import ConfigurationError, ConvolabWorkerError, ReplyLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from convolab_worker.bullmq.jobs.job_type import JobType
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.bullmq.protocol.schedules import ScheduleOptions
    from convolab_worker.client.session import Session
    from convolab_worker.connection.connection import Connection
    from convolab_worker.handlers.job.sync_job import AsyncHandler, PlainHandler

P = TypeVar("P")
R = TypeVar("R")

_NOT_ADDED = {
    COLLISION: "a job of its next moment is there already, and can't be replaced",
    SLOTS_BUSY: "the next moments have jobs already, that can't be replaced",
}


class NextJob(NamedTuple):
    """The next job of a schedule, and the seconds until it is due."""

    id: JobId[Any]
    delay: float


class Addition(NamedTuple):
    """A schedule to be written, its queue, and the declaration that it was made from."""

    keys: QueueKeys
    schedule: NewSchedule
    job_type: JobType[Any, Any] | None
    immediately: bool


def addition(
    schedule_id: str,
    target: object,
    data: Any,
    options: Mapping[str, Any],
    keys_of: Callable[[str | None], QueueKeys],
) -> Addition:
    """Return the schedule of a name, JobType or handler, with the keywords of ScheduleOptions.

    Raises ConfigurationError for what can't be, a pattern that can't be read too, InvalidPayload
    for data that the handler would refuse, and InvalidResult for data that is not JSON.
    """
    check_keyword("schedule", "id", schedule_id)
    repeat, own = repeat_options(options)
    wanted = job_request(target, data, own)
    check_keyword("schedule", "name", wanted.name)
    keys, opts = keys_of(wanted.queue), job_options("schedule", wanted.options)
    check_size(wanted.name, wanted.data, opts)
    schedule = NewSchedule(
        id=schedule_id,
        name=wanted.name,
        data=wanted.data,
        opts=opts,
        repeat=repeat,
    )
    new = Addition(keys, schedule, wanted.job_type, bool(options.get("immediately")))
    _first_due(new, now_ms())
    return new


def _first_due(new: Addition, now: int) -> int:
    """Return when the schedule is due first, in epoch milliseconds; ``now`` for ``every``."""
    repeat = new.schedule.repeat
    try:
        due = schedulers.next_due(repeat, now, now=now, seed=new.schedule.id)
    except schedulers.UNREADABLE as error:
        msg = f"schedule({new.schedule.id!r}): {error}"
        raise ConfigurationError(msg) from error
    if due is None:
        msg = f"schedule({new.schedule.id!r}): expected a moment before its end"
        raise ConfigurationError(msg)
    return now if new.immediately else due


async def add(session: Session, new: Addition, carried: Mapping[str, Any]) -> NextJob:
    """Write the schedule, again if the reply is lost; return its next job.

    Raises ConvolabWorkerError if its next job can't be added, and RedisUnavailable.
    """

    async def send(connection: Connection, *, again: bool = False) -> NextJob:
        del again  # writing it once more changes nothing
        now = now_ms()
        call = add_schedule(new.keys, new.schedule, _first_due(new, now), now, carried)
        answer = await run_script(connection, Purpose.ENQUEUE, call)
        if isinstance(answer, int):
            reason = _NOT_ADDED.get(answer, f"BullMQ's code {answer}")
            msg = f"schedule({new.schedule.id!r}) was not written: {reason}"
            raise ConvolabWorkerError(msg)
        job_id = JobId(answer[0].decode(), queue=new.keys.queue, job_type=new.job_type)
        return NextJob(job_id, float(answer[1]) / 1000)

    return await sent(session, 1, len(new.schedule.data), send)


async def remove(session: Session, queues: Sequence[QueueKeys], schedule_id: str) -> bool:
    """See ``Schedules.unschedule``."""
    connection = await session.open()
    answers = [
        await run_script(connection, Purpose.ENQUEUE, remove_schedule(keys, schedule_id))
        for keys in queues
    ]
    return 0 in answers


async def listed(session: Session, queues: Sequence[QueueKeys]) -> list[Schedule]:
    """Return the schedules of the queues, by the time of their next job.

    One command a queue, and one a schedule, in pipelines.
    """
    connection, found = await session.open(), list[Schedule]()
    for keys in queues:
        flat = await connection.call(Purpose.STATUS, "ZRANGE", keys["repeat"], 0, -1, "WITHSCORES")
        asked = [
            connection.call(Purpose.STATUS, "HGETALL", f"{keys['repeat']}:".encode() + raw)
            for raw, _ in pairs(flat)
        ]
        for (raw, score), answer in zip(pairs(flat), asked, strict=True):
            schedule = read_schedule(keys.queue, raw, score, await answer)
            if schedule is not None:
                found.append(schedule)
    return sorted(found, key=lambda schedule: schedule.next_at)


class Schedules(Operations):
    """The methods of ``JobClient`` for job schedulers, which Node lists, changes and removes."""

    @overload
    async def schedule(
        self,
        schedule_id: str,
        job_type: JobType[P, R],
        data: P,
        /,
        **options: Unpack[ScheduleOptions],
    ) -> JobId[R]: ...

    @overload
    async def schedule(
        self,
        schedule_id: str,
        handler: AsyncHandler[P, R],
        data: P,
        /,
        **options: Unpack[ScheduleOptions],
    ) -> JobId[R]: ...

    @overload
    async def schedule(
        self,
        schedule_id: str,
        handler: PlainHandler[P, R],
        data: P,
        /,
        **options: Unpack[ScheduleOptions],
    ) -> JobId[R]: ...

    @overload
    async def schedule(
        self, schedule_id: str, name: str, data: Any = None, **options: Unpack[ScheduleOptions]
    ) -> JobId: ...

    async def schedule(
        self, schedule_id: str, name: Any, data: Any = None, **options: Unpack[ScheduleOptions]
    ) -> JobId[Any]:
        """Have a job added again and again, as Node's ``upsertJobScheduler``; return the next one.

        A schedule of that id, whoever wrote it, is replaced together with its next job, so that a
        service may call this at each start. ``name`` may be a JobType or a handler, as for
        ``enqueue``. The next job is added when a worker starts the one before it: a schedule whose
        jobs no worker takes does not pile up.

        Args:
            schedule_id: what it is known by in its queue.
            name: what its jobs are.
            data: what its jobs carry.
            **options: those of ScheduleOptions: ``every`` or ``cron``, ``tz``, ``limit``,
                ``start``, ``until``, ``immediately``, ``queue``, and the options of its jobs.

        Raises ConfigurationError for what can't be, such as a pattern that can't be read,
        InvalidPayload for data that the handler would refuse, InvalidResult if ``data`` is not
        JSON, and ConvolabWorkerError if its next job can't be added since a job of that moment is
        being run, or has ended and is kept.
        """
        new = self._schedule(schedule_id, name, data, options)
        session, keys = self._current_session(), new.keys
        with self._tracing.adding(keys.queue, new.schedule.name) as carried:
            try:
                added = await add(session, new, carried)
            except (ReplyLost, asyncio.CancelledError):  # the job may be there all the same
                self._wake(session, {None})
                raise
        self._wake(session, {added.delay})
        return added.id

    def _schedule(
        self, schedule_id: str, name: Any, data: Any, options: Mapping[str, Any]
    ) -> Addition:
        """Return the schedule of these arguments of ``schedule``."""
        new = addition(schedule_id, name, data, options, self._keys_of)
        written = new.schedule
        check_command_size(written.name, written.data, self.settings.max_command_size)
        return new

    async def unschedule(self, schedule_id: str, queue: str | None = None) -> bool:
        """Remove a schedule and its next job; return whether there was one.

        It is looked for in ``queue`` or in each of the settings' queues. A job of it that runs goes
        on, and is the last one.
        """
        queues = self._queues(queue)
        if not can_be_in_a_key(str(schedule_id)):
            return False
        return await remove(self._current_session(), queues, schedule_id)

    async def schedules(self, queue: str | None = None) -> list[Schedule]:
        """Return the schedules of ``queue``, or of the settings' queues, the next one due first."""
        return await listed(self._current_session(), self._queues(queue))
