"""JobClient: what an API service needs: enqueue, watch, status, result."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from convolab_worker.bullmq import job_lock
from convolab_worker.bullmq.counts import depths
from convolab_worker.bullmq.protocol.calls import state_of
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.client import enqueue
from convolab_worker.client.events import CLOSED, GAP, Events, JobEvent
from convolab_worker.connection.address import Address, Route
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.usage import CommandCounter, Purpose
from convolab_worker.errors import (
    ConfigurationError,
    JobFailed,
    JobNotFound,
    JobNotRunning,
    RedisUnavailable,
)
from convolab_worker.settings import Settings
from convolab_worker.telemetry.tracing import tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from types import TracebackType

    from convolab_worker.client.waker import Waker

# An event may be trimmed from its stream before it is read: then the job itself is looked at.
_LOOK_AGAIN_SECONDS = 15.0
# How a cancelled job ends, by the event or the state that shows it.
_ENDS = {
    "completed": "completed",
    "failed": "failed",
    "waiting": "returned",
    "prioritized": "returned",
    "delayed": "returned",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job as it is now. ``timestamp``, ``processed_on`` and ``finished_on`` are epoch seconds."""

    id: str
    queue: str
    name: str
    state: str
    data: Any
    progress: Any
    result: Any
    failed_reason: str | None
    attempts_made: int
    timestamp: float | None
    processed_on: float | None
    finished_on: float | None


class JobClient:
    """Adds jobs to the settings' queues and tells what became of them.

    Connects when it is first used; close it, or use it with ``async with``. Every method raises
    RedisUnavailable when Redis can't be reached.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        """Check the options; nothing is connected. Raises ConfigurationError."""
        if settings is None:
            settings = Settings.from_env(**overrides)
        elif overrides:
            settings = settings.replace(**overrides)
        self.settings = settings
        self.counter = CommandCounter()
        self._known_queues = {queue: self._keys(queue) for queue in settings.queues}
        route = Route(Address.parse(settings.redis_url))
        self._connection = Connection(route, timeout=settings.command_timeout, counter=self.counter)
        self._events = Events(
            Connection(route, timeout=settings.command_timeout, counter=self.counter),
            self._connection,
        )
        self._tracing = tracing(settings)
        self._waker = None if settings.wake_url is None else _waker(settings)

    async def enqueue(
        self,
        name: str,
        data: Any = None,
        *,
        queue: str | None = None,
        job_id: str | None = None,
        delay: float | None = None,
        priority: int | None = None,
        attempts: int | None = None,
        backoff: float | Mapping[str, Any] | None = None,
        deduplication_id: str | None = None,
    ) -> str:
        """Add a job and return its id at once; the worker service is waked in the background.

        ``queue`` is the settings' first by default. ``delay`` and ``backoff`` (fixed) are seconds;
        ``backoff`` may also be BullMQ's own object, in milliseconds. ``job_id`` makes adding
        idempotent: a job of that id that is there already is not added again; without it the job
        gets one that no queue has. Raises ConfigurationError for options that can't be, and
        InvalidResult if ``data`` is not JSON.
        """
        job = enqueue.new_job(
            name,
            data,
            job_id=job_id,
            delay=delay,
            priority=priority,
            attempts=attempts,
            backoff=backoff,
            deduplication_id=deduplication_id,
        )
        keys = self._keys_of(queue)
        with self._tracing.adding(keys.queue, name) as carried:
            added = await enqueue.add(self._connection, keys, job.carrying(carried))
        if self._waker is not None:
            self._waker.wake(delay)
        return added

    async def enqueue_many(
        self, jobs: Iterable[Mapping[str, Any]], *, queue: str | None = None
    ) -> list[str]:
        """Add jobs, many in a round trip, and return their ids in the same order.

        Each job is a mapping of ``enqueue``'s keywords, ``name`` at least; ``queue`` is for those
        that name none. All are checked before the first is sent. Each job is added whole, but the
        list is no transaction: where RedisUnavailable is raised, the first ones may be there, and
        the same call again adds the rest if each job has a ``job_id``.
        """
        additions = await enqueue.new_jobs(jobs, lambda name: self._keys_of(name or queue))
        carried = self._tracing.carried()
        additions = [(keys, job.carrying(carried)) for keys, job in additions]
        ids = await enqueue.add_many(self._connection, additions)
        if self._waker is not None:
            for delay in {job.opts.get("delay", 0) for _, job in additions}:
                self._waker.wake(delay / 1000)
        return ids

    async def wake_heard(self, timeout: float) -> bool:
        """Wait until the service has heard the wakes of the jobs added, or ``timeout`` seconds.

        For programs that end after adding jobs. False if it was not heard; True also if there is
        nothing to wake.
        """
        return self._waker is None or await self._waker.heard(timeout)

    async def status(self, job_id: str, queue: str | None = None) -> JobStatus:
        """The job as it is now, from ``queue`` or whichever of the settings' queues has it.

        Raises JobNotFound.
        """
        await self._connection.open()
        for name in [queue] if queue else self.settings.queues:
            found = await self._status_on(self._keys(name), job_id)
            if found is not None:
                return found
        where = queue or ", ".join(self.settings.queues)
        msg = f"no job {job_id!r} on {where}: never added, or removed when it ended"
        raise JobNotFound(msg)

    async def _status_on(self, keys: QueueKeys, job_id: str) -> JobStatus | None:
        job_key = keys.job(job_id)
        # The state comes first: a job that ends in between then has at least its end's fields.
        state = await run_script(self._connection, Purpose.STATUS, state_of(keys, job_id))
        flat = await self._connection.call(Purpose.STATUS, "HGETALL", job_key)
        if not flat:
            return None
        text = [part.decode("utf-8", "replace") for part in flat]
        fields = dict(zip(text[::2], text[1::2], strict=True))
        return JobStatus(
            id=job_id,
            queue=keys.queue,
            name=fields.get("name", ""),
            state=state.decode(),
            data=_json(fields.get("data")),
            progress=_json(fields.get("progress")),
            result=_json(fields.get("returnvalue")),
            failed_reason=fields.get("failedReason"),
            attempts_made=int(fields.get("atm", "0")),
            timestamp=_seconds(fields.get("timestamp")),
            processed_on=_seconds(fields.get("processedOn")),
            finished_on=_seconds(fields.get("finishedOn")),
        )

    async def result(
        self, job_id: str, timeout: float | None = None, queue: str | None = None
    ) -> Any:
        """Wait until the job has ended, and give its result.

        Raises JobFailed with its reason, JobNotFound, or TimeoutError after ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            async for event in self.watch(job_id, queue):
                if event.event == "completed":
                    return event.data
                if event.event == "failed":
                    raise JobFailed(job_id, event.data)
        raise JobNotFound(job_id)  # pragma: no cover - watch ends with a final event

    async def watch(self, job_id: str, queue: str | None = None) -> AsyncIterator[JobEvent]:
        """Each event of the job from now on, up to its end; the end even if it is past.

        Raises JobNotFound.
        """
        status = await self.status(job_id, queue)
        stream = self._keys(status.queue)["events"]
        inbox = await self._events.watch(stream, job_id)
        try:
            end = await self._end_of(job_id, status)
            while end is None:
                event = await _next_event(inbox)
                if event is None:  # nothing was heard for long, or the stream could not be read
                    end = await self._end_of(job_id, status, must_be=True)
                elif event.event == CLOSED:
                    msg = f"the client was closed while job {job_id!r} was watched"
                    raise RedisUnavailable(msg)
                elif event.event == "removed":
                    msg = f"job {job_id!r} was removed from {status.queue}"
                    raise JobNotFound(msg)
                elif event.is_final:
                    end = event
                else:
                    yield event
            yield end
        finally:
            self._events.unwatch(stream, job_id, inbox)

    async def _end_of(
        self, job_id: str, before: JobStatus, *, must_be: bool = False
    ) -> JobEvent | None:
        """The event that a job has ended with, if it has.

        A job that is gone may have been removed when it ended, its last event still to come;
        unless it ``must_be`` there or that event have been heard: then it raises JobNotFound.
        """
        try:
            now = await self.status(job_id, before.queue)
        except JobNotFound:
            if must_be:
                raise
            return None
        if now.state == "completed":
            return JobEvent(job_id, "completed", now.result)
        return (
            JobEvent(job_id, "failed", now.failed_reason or "") if now.state == "failed" else None
        )

    async def cancel(
        self,
        job_id: str,
        *,
        reason: str | None = "cancelled",
        queue: str | None = None,
        timeout: float | None = None,
        wait: bool = True,
    ) -> str:
        """Cancel a job that runs, in whichever process; wait for its end, and say what it is.

        Its ``cancelled`` is set and its handler cancelled. It then fails for good with ``reason``
        or, if that is None, goes back to the head of its queue with its attempt not used up. A
        worker with a free slot hears of it at once, one without by its next renewal of the lock,
        half of the lock's duration later at most. Gives ``failed`` or ``returned``; ``completed``
        for a handler that returned all the same; ``asked`` at once if ``wait`` is False. Raises
        JobNotRunning if no worker of this library has it, JobNotFound, and TimeoutError after
        ``timeout`` seconds (the request stays).
        """
        if reason is not None and not reason.strip():
            msg = f"reason={reason!r}: expected some text, or None to return the job"
            raise ConfigurationError(msg)
        status = await self.status(job_id, queue)
        keys = self._keys(status.queue)
        inbox = await self._events.watch(keys["events"], job_id)
        try:
            answer = await job_lock.ask(self._connection, keys, job_id, reason)
            if answer != job_lock.ASKED:
                raise JobNotRunning(_not_running(answer, await self.status(job_id, status.queue)))
            if not wait:
                return answer
            async with asyncio.timeout(timeout):
                return await self._cancelled(job_id, status.queue, inbox)
        finally:
            self._events.unwatch(keys["events"], job_id, inbox)

    async def _cancelled(self, job_id: str, queue: str, inbox: asyncio.Queue[JobEvent]) -> str:
        """How a job ended that was asked to: by its events, or by a look where one was missed."""
        while True:
            event = await _next_event(inbox)
            state = (await self.status(job_id, queue)).state if event is None else event.event
            if state in _ENDS:
                return _ENDS[state]

    async def counts(self) -> dict[str, dict[str, int]]:
        """How many jobs each of the settings' queues has in each state."""
        await self._connection.open()
        return await depths(self._connection, [self._keys(queue) for queue in self.settings.queues])

    def _keys_of(self, queue: str | None) -> QueueKeys:
        """The keys of the queue that a job goes to."""
        name = self.settings.queues[0] if queue is None else queue
        keys = self._known_queues.get(name)
        if keys is None:
            self.settings.replace(queues=(name,))  # which raises for a name that can't be
            keys = self._known_queues[name] = self._keys(name)
        return keys

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self.settings.prefix, queue)

    async def close(self) -> None:
        """Send a wake that was not sent, for a second at most, and close the connections."""
        if self._waker is not None:
            await self._waker.close()
        await self._events.close()
        await self._connection.close()

    async def __aenter__(self) -> Self:
        """Connect. Raises RedisUnavailable."""
        await self._connection.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.close()


def _waker(settings: Settings) -> Waker:
    from convolab_worker.client.waker import Waker  # not without an address to wake

    return Waker(settings)


def _not_running(answer: str, status: JobStatus) -> str:
    where = f"job {status.id!r} on {status.queue}"
    if answer == job_lock.FOREIGN:
        return f"{where} is run by a worker that is not of this library"
    if status.state == "active":
        return f"{where} has lost its worker: it runs again soon, on another one"
    return f"{where} is {status.state}: only a job that is running can be cancelled"


async def _next_event(inbox: asyncio.Queue[JobEvent]) -> JobEvent | None:
    """The next event of a job; None if its stream had a gap, or said nothing for long."""
    try:
        async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
            event = await inbox.get()
    except TimeoutError:
        return None
    return None if event.event == GAP else event


def _json(text: str | None) -> Any:
    if text is None:
        return None
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def _seconds(milliseconds: str | None) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000
