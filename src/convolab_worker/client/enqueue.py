"""Makes jobs of a producer's keywords, and adds one, or many in pipelines of bounded size."""

from __future__ import annotations

import asyncio
import functools
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.job_id import JobId
from convolab_worker.bullmq.job_type import order
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.keywords import (
    OPTION_KEYWORDS,
    check_keyword,
    check_size,
    checked_id,
    job_options,
)
from convolab_worker.connection.error_replies import cannot_serve
from convolab_worker.errors import (
    ConfigurationError,
    ConvolabWorkerError,
    RedisRefused,
    RedisUnavailable,
    ReplyLost,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from convolab_worker.bullmq.job_type import JobType
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.client.session import Session
    from convolab_worker.connection.connection import Connection

T = TypeVar("T")

_KEYWORDS = ("name", "data", "queue", "job_id", *OPTION_KEYWORDS)
"""What a job of ``enqueue_many`` may have: the keywords of ``enqueue``."""

# As many as a UUID has, which would take longer to make.
_ID_BYTES = 16


class Addition(NamedTuple):
    """A job that is to be added, where, and as whose declaration says."""

    keys: QueueKeys
    job: NewJob
    job_type: JobType[Any, Any] | None

    def carrying(self, carried: Mapping[str, Any]) -> Addition:
        """Return it with further options: those that carry a trace's context on."""
        return self._replace(job=self.job.carrying(carried))

    def job_id(self, added: str) -> JobId[Any]:
        """Return the id that Redis has answered, with what is known of the job."""
        return JobId(added, queue=self.keys.queue, job_type=self.job_type)


def addition(
    target: object,
    data: Any,
    options: Mapping[str, Any],
    keys_of: Callable[[str | None], QueueKeys],
) -> Addition:
    """Return the job of a name, JobType or handler, with an id of its own where none is given.

    Raises ConfigurationError for options that can't be, InvalidPayload for data that the handler
    would refuse, and InvalidResult for data that is not JSON.
    """
    wanted = order(target, data, options)
    check_keyword("enqueue", "name", wanted.name)
    keys, own = keys_of(wanted.queue), dict(wanted.options)
    job_id = checked_id(own.pop("job_id", None))
    opts = job_options("enqueue", own)
    check_size(wanted.name, wanted.data, opts)
    job = NewJob(
        id=job_id or secrets.token_hex(_ID_BYTES), name=wanted.name, data=wanted.data, opts=opts
    )
    return Addition(keys, job, wanted.job_type)


async def additions(
    given: Iterable[Mapping[str, Any]], keys_of: Callable[[str | None], QueueKeys]
) -> list[Addition]:
    """Return the jobs of those mappings, each checked; an error names the job's place from 0."""
    made = []
    for place, keywords in enumerate(given):
        if place % producer.MOST_JOBS == producer.MOST_JOBS - 1:
            await asyncio.sleep(0)  # thousands take a while, in which other tasks must run
        try:
            made.append(_one_of_many(dict(keywords), keys_of))
        except (ConvolabWorkerError, TypeError, ValueError) as error:
            is_ours = isinstance(error, ConvolabWorkerError)
            kind = type(error) if is_ours else ConfigurationError
            msg = f"enqueue_many: job {place}: {error}"
            raise kind(msg) from None
    return made


def _one_of_many(keywords: dict[str, Any], keys_of: Callable[[str | None], QueueKeys]) -> Addition:
    unknown = [key for key in keywords if key not in _KEYWORDS]
    if unknown or "name" not in keywords:
        problem = f"unknown {unknown[0]!r}" if unknown else "no 'name'"
        msg = f"{problem}: expected a mapping with some of {', '.join(_KEYWORDS)}"
        raise ConfigurationError(msg)
    return addition(keywords.pop("name"), keywords.pop("data", None), keywords, keys_of)


async def add(session: Session, new: Addition) -> JobId[Any]:
    """Add one job, again if the reply is lost; return its id, or that of the one kept in its place.

    Waits while too much is unanswered. Raises RedisUnavailable.
    """
    send = functools.partial(producer.add, keys=new.keys, job=new.job)
    return new.job_id(await _sent(session, 1, len(new.job.data), send))


async def add_many(
    session: Session,
    jobs: list[Addition],
    *,
    on_send: Callable[[list[Addition]], None],
) -> list[JobId[Any]]:
    """Add the jobs, one pipeline after the other; return their ids, in order.

    A job is added whole or not at all; of several, those before a failure are there. ``on_send``
    is called with each pipeline before any of its jobs can be there.
    """
    ids: list[JobId[Any]] = []
    for batch in producer.pipelines(jobs, lambda new: len(new.job.data)):
        on_send(batch)
        send = functools.partial(producer.add_all, jobs=[(new.keys, new.job) for new in batch])
        added = await _sent(session, len(batch), sum(len(new.job.data) for new in batch), send)
        ids += [new.job_id(text) for new, text in zip(batch, added, strict=True)]
    return ids


async def _sent(
    session: Session, commands: int, size: int, send: Callable[[Connection], Awaitable[T]]
) -> T:
    await session.backlog.enter(commands, size)
    try:
        connection = session.connection
        if session.is_over or not connection.is_open:
            await session.open()
        try:
            return await send(connection)
        except (ReplyLost, RedisRefused) as lost:  # a job's id makes a second adding harmless
            if isinstance(lost, RedisRefused) and not cannot_serve(str(lost)):
                raise
            try:
                await session.open()
            except RedisUnavailable as error:
                if isinstance(lost, RedisRefused):
                    raise
                # What was sent first may have run all the same.
                raise ReplyLost(str(error)) from lost
            return await send(connection)
    except RedisRefused:
        raise
    except RedisUnavailable as error:
        session.backlog.refuse(str(error))  # those that wait would fail too, only later
        raise
    finally:
        session.backlog.leave(commands, size)
