"""Makes jobs of a producer's keywords, and adds one, or many in pipelines of bounded size."""

from __future__ import annotations

import asyncio
import functools
import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.jobs.job_id import JobId
from convolab_worker.bullmq.jobs.job_type import job_request
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.keywords import (
    OPTION_KEYWORDS,
    check_keyword,
    check_size,
    checked_id,
    job_options,
)
from convolab_worker.bullmq.script_runner import now_ms
from convolab_worker.client.lookup import state_now
from convolab_worker.connection.commands.error_replies import cannot_serve
from convolab_worker.errors import (
    ConfigurationError,
    ConvolabWorkerError,
    RedisRefused,
    RedisUnavailable,
    ReplyLost,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from convolab_worker.bullmq.jobs.job_type import JobType
    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.client.session import Session

T = TypeVar("T")


def quickest_random_bytes() -> Callable[[int], bytes]:
    """Return what gives random bytes of the operating system, best without a change of threads.

    os.urandom gives the interpreter lock away, which among busy threads takes far longer than the
    bytes do. os.getrandom keeps it; it is Linux's, and a sandbox may forbid it.
    """
    try:
        os.getrandom(1)
    except (AttributeError, OSError):
        return os.urandom
    return os.getrandom


_random_bytes = quickest_random_bytes()

_KEYWORDS = ("name", "data", "queue", "job_id", *OPTION_KEYWORDS)
"""What a job of ``enqueue_many`` may have: the keywords of ``enqueue``."""

# As many as a UUID has, which would take longer to make.
_ID_BYTES = 16
# Data of so many bytes that were lost with the connection is sent again on another one.
LARGE = 64 * 1024


class Addition(NamedTuple):
    """A job that is to be added, where, and as whose declaration says."""

    keys: QueueKeys
    job: NewJob
    job_type: JobType[Any, Any] | None

    def carrying(self, carried: Mapping[str, Any]) -> Addition:
        """Return it with further options: those that carry a trace's context on."""
        return self._replace(job=self.job.carrying(carried))

    @property
    def delay(self) -> float | None:
        """In how many seconds the job is due; None for at once."""
        return self.job.opts.get("delay", 0) / 1000 or None

    def job_id_to_be(self) -> JobId[Any]:
        """Return the id that the job will have, if none is kept instead."""
        return JobId(self.job.id, queue=self.keys.queue, job_type=self.job_type)

    def job_id(self, added: producer.Added) -> JobId[Any]:
        """Return the id that Redis has answered, with what is known of the job."""
        return JobId(added.id, queue=self.keys.queue, job_type=self.job_type, existed=added.existed)


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
    wanted = job_request(target, data, options)
    if not wanted.name or not wanted.name.isascii():
        check_keyword("enqueue", "name", wanted.name)
    keys, own = keys_of(wanted.queue), dict(wanted.options)
    job_id = own.pop("job_id", None)
    if job_id is not None:
        job_id = checked_id(job_id)
    opts = job_options("enqueue", own) if own else {}
    if "sizeLimit" in opts:
        check_size(wanted.name, wanted.data, opts)
    job = NewJob(
        id=job_id or _random_bytes(_ID_BYTES).hex(),
        name=wanted.name,
        data=wanted.data,
        opts=opts,
        named=job_id is not None,
    )
    return Addition(keys, job, wanted.job_type)


async def additions(
    given: Iterable[Mapping[str, Any]],
    addition_of: Callable[[object, Any, Mapping[str, Any]], Addition],
) -> list[Addition]:
    """Return the jobs of those mappings, each checked; an error names the job's place from 0.

    ``addition_of`` makes one of a name, its data and its options.
    """
    made = []
    for place, keywords in enumerate(given):
        if place % producer.MOST_JOBS == producer.MOST_JOBS - 1:
            await asyncio.sleep(0)  # thousands take a while, in which other tasks must run
        try:
            made.append(_one_of_many(dict(keywords), addition_of))
        except (ConvolabWorkerError, TypeError, ValueError) as error:
            is_ours = isinstance(error, ConvolabWorkerError)
            kind = type(error) if is_ours else ConfigurationError
            msg = f"enqueue_many: job {place}: {error}"
            raise kind(msg) from None
    return made


def _one_of_many(
    keywords: dict[str, Any], addition_of: Callable[[object, Any, Mapping[str, Any]], Addition]
) -> Addition:
    unknown = [key for key in keywords if key not in _KEYWORDS]
    if unknown or "name" not in keywords:
        problem = f"unknown {unknown[0]!r}" if unknown else "no 'name'"
        msg = f"{problem}: expected a mapping with some of {', '.join(_KEYWORDS)}"
        raise ConfigurationError(msg)
    return addition_of(keywords.pop("name"), keywords.pop("data", None), keywords)


async def add(
    session: Session, new: Addition, *, at_ms: int | None = None, again: bool = False
) -> JobId[Any]:
    """Add one job, again if the reply is lost; return its id, or that of the one kept in its place.

    ``again`` says that it may have been added before, as of the time ``at_ms``. Waits while too
    much is unanswered. Raises RedisUnavailable.
    """
    at = now_ms() if at_ms is None else at_ms
    send = functools.partial(producer.add, keys=new.keys, job=new.job, at_ms=at, again=again)
    size = len(new.job.data)
    job_id = new.job_id(await sent(session, 1, size, send, (new.job.name, size)))
    if job_id.existed:
        await read_state(session, new, job_id)
    return job_id


async def read_state(session: Session, new: Addition, job_id: JobId[Any]) -> None:
    """Let the id of a job that was there have its state."""
    job_id.state = await state_now(await session.open(), new.keys, job_id)


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
        pairs = [(new.keys, new.job) for new in batch]
        send = functools.partial(producer.add_all, jobs=pairs, at_ms=now_ms())
        largest = max((new.job for new in batch), key=lambda job: len(job.data))
        size = sum(len(new.job.data) for new in batch)
        added = await sent(session, len(batch), size, send, (largest.name, len(largest.data)))
        ids += [new.job_id(text) for new, text in zip(batch, added, strict=True)]
    return ids


async def sent(
    session: Session,
    commands: int,
    size: int,
    send: Callable[..., Awaitable[T]],
    largest: tuple[str, int] = ("", 0),
) -> T:
    """Send commands that may be executed twice, and once more if a reply is lost.

    ``send`` is given the connection, and the second time ``again=True``. ``largest`` names the
    largest job among them, and its bytes.
    """
    await session.backlog.enter(commands, size)
    try:
        connection = session.connection
        if session.is_over or not connection.is_open:
            await session.open()
        try:
            return await send(connection)
        except (ReplyLost, RedisRefused) as lost:  # a job's id makes a second adding harmless
            return await _sent_again(session, send, lost, largest)
    except RedisRefused:
        raise
    except RedisUnavailable as error:
        if not session.connection.is_open:
            session.backlog.refuse(str(error))  # those that wait would fail too, only later
        raise
    finally:
        session.backlog.leave(commands, size)


async def _sent_again(
    session: Session,
    send: Callable[..., Awaitable[T]],
    lost: ReplyLost | RedisRefused,
    largest: tuple[str, int],
) -> T:
    """Send what was lost with the connection, or refused by a server that can't serve any more.

    Something large goes on a connection of its own: it may be what the server closes them for.
    """
    if isinstance(lost, RedisRefused) and not cannot_serve(str(lost)):
        raise lost
    try:
        await session.open()
    except RedisUnavailable as error:
        if isinstance(lost, RedisRefused):
            raise
        # What was sent first may have run all the same.
        raise ReplyLost(str(error)) from lost
    name, size = largest
    if size < LARGE:
        return await send(session.connection, again=True)
    try:
        async with session.alone() as connection:
            return await send(connection, again=True)
    except ReplyLost as again:
        msg = (
            f"{again}, twice, after the data of {name} was sent, {size} bytes: does the server, or "
            "a proxy, limit how large a command may be (client-query-buffer-limit)?"
        )
        raise ReplyLost(msg) from again
