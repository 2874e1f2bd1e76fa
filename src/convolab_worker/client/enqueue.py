"""Makes jobs of a producer's keywords, and adds one, or many in pipelines of bounded size."""

from __future__ import annotations

import asyncio
import functools
import secrets
from typing import TYPE_CHECKING, Any, TypeVar

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.job_options import checked_id, job_options
from convolab_worker.connection.error_replies import cannot_serve
from convolab_worker.errors import (
    ConfigurationError,
    InvalidResult,
    RedisRefused,
    RedisUnavailable,
    ReplyLost,
)
from convolab_worker.payloads.encode import encode_data

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.client.session import Session
    from convolab_worker.connection.connection import Connection

T = TypeVar("T")

KEYWORDS = (
    "name", "data", "queue", "job_id", "delay", "priority", "attempts", "backoff",
    "deduplication_id",
)  # fmt: skip
"""What a job of ``enqueue_many`` may have: the keywords of ``enqueue``."""

# As many as a UUID has, which would take longer to make.
_ID_BYTES = 16
# A pipeline has so many jobs at most, and so many characters of data unless it is one job's.
_MOST_JOBS = 500
_MOST_DATA = 2**22


def new_job(name: str, data: Any = None, *, job_id: str | None = None, **options: Any) -> NewJob:
    """Return the job of those keywords, with an id of its own where none is given.

    Raises ConfigurationError for options that can't be, InvalidResult for data that is not JSON.
    """
    opts = job_options(name, **options)
    return NewJob(
        id=checked_id(job_id) or secrets.token_hex(_ID_BYTES),
        name=name,
        data=encode_data({} if data is None else data),
        opts=opts,
    )


async def new_jobs(
    given: Iterable[Mapping[str, Any]], keys_of: Callable[[str | None], QueueKeys]
) -> list[tuple[QueueKeys, NewJob]]:
    """Return the jobs of those mappings, each checked; an error names the job's place from 0."""
    jobs = []
    for place, keywords in enumerate(given):
        if place % _MOST_JOBS == _MOST_JOBS - 1:
            await asyncio.sleep(0)  # thousands take a while, in which other tasks must run
        try:
            jobs.append(_one_of_many(dict(keywords), keys_of))
        except (ConfigurationError, InvalidResult, TypeError, ValueError) as error:
            kind = InvalidResult if isinstance(error, InvalidResult) else ConfigurationError
            msg = f"enqueue_many: job {place}: {error}"
            raise kind(msg) from None
    return jobs


def _one_of_many(
    keywords: dict[str, Any], keys_of: Callable[[str | None], QueueKeys]
) -> tuple[QueueKeys, NewJob]:
    unknown = [key for key in keywords if key not in KEYWORDS]
    if unknown or "name" not in keywords:
        problem = f"unknown {unknown[0]!r}" if unknown else "no 'name'"
        msg = f"{problem}: expected a mapping with some of {', '.join(KEYWORDS)}"
        raise ConfigurationError(msg)
    return keys_of(keywords.pop("queue", None)), new_job(**keywords)


def add(session: Session, keys: QueueKeys, job: NewJob) -> Coroutine[Any, Any, str]:
    """Add one job, again if the reply is lost; return its id, or that of the one kept in its place.

    Waits while too much is unanswered. Raises RedisUnavailable.
    """
    send = functools.partial(producer.add, keys=keys, job=job)
    return _sent(session, 1, len(job.data), send)


async def add_many(
    session: Session,
    jobs: list[tuple[QueueKeys, NewJob]],
    *,
    on_send: Callable[[list[tuple[QueueKeys, NewJob]]], None],
) -> list[str]:
    """Add the jobs, one pipeline after the other; return their ids, in order.

    A job is added whole or not at all; of several, those before a failure are there. ``on_send``
    is called with each pipeline before any of its jobs can be there.
    """
    ids: list[str] = []
    while len(ids) < len(jobs):
        batch = pipeline(jobs, len(ids))
        on_send(batch)
        send = functools.partial(producer.add_all, jobs=batch)
        ids += await _sent(session, len(batch), sum(len(job.data) for _, job in batch), send)
    return ids


def pipeline(jobs: list[tuple[QueueKeys, NewJob]], start: int) -> list[tuple[QueueKeys, NewJob]]:
    """Return the jobs from ``start`` on that go into one pipeline: at least one."""
    size = 0
    for end in range(start, min(start + _MOST_JOBS, len(jobs))):
        size += len(jobs[end][1].data)
        if size > _MOST_DATA and end > start:
            return jobs[start:end]
    return jobs[start : start + _MOST_JOBS]


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
