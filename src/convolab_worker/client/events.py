"""Reads the event streams of queues, once for all watchers of their jobs."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.bullmq.protocol.records import json_or_text, pairs, readable
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from convolab_worker.connection.connection import Connection

_log = Log()
_BLOCK_SECONDS = 20.0
_MARGIN_SECONDS = 5.0
_FIRST_RECONNECT_SECONDS, _LONGEST_RECONNECT_SECONDS = 0.25, 1.0
_FIRST_INTERRUPT_SECONDS, _LONGEST_INTERRUPT_SECONDS = 0.005, 0.5
# Events of our own, which BullMQ does not have. GAP: a stream could not be read for a while.
GAP = "gap"
# The client is closed, and no event will come.
CLOSED = "closed"
_JSON_FIELDS = {"completed": "returnvalue", "progress": "data"}


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event of a job, as Node's QueueEvents would give it.

    ``data`` is the result for ``completed``, the reason for ``failed``, the value for
    ``progress``, and None otherwise.
    """

    job_id: str
    event: str
    data: Any = None

    @property
    def is_final(self) -> bool:
        return self.event in ("completed", "failed")


class Events:
    """Reads the streams of watched queues on one blocked connection, while anyone watches.

    ``connection`` reads; ``commands`` sends what can't wait behind a blocked read.
    """

    def __init__(self, connection: Connection, commands: Connection) -> None:
        self._connection = connection
        self._commands = commands
        self._last_ids: dict[str, str] = {}
        self._being_read: frozenset[str] | None = None  # the streams of the read under way
        self._watchers: dict[tuple[str, str], list[asyncio.Queue[JobEvent]]] = defaultdict(list)
        self._reader: asyncio.Task[None] | None = None
        self._interrupter: asyncio.Task[None] | None = None
        self._is_restarting = False
        self._is_closed = False

    async def watch(self, stream: str, job_id: str) -> asyncio.Queue[JobEvent]:
        """Return a queue that gets each event of the job from now on, once ``listen`` is called.

        End it with ``unwatch``. Raises RedisUnavailable.
        """
        self._refuse_if_closed()
        if stream not in self._last_ids:
            newest = await self._commands.call(
                Purpose.STATUS, "XREVRANGE", stream, "+", "-", "COUNT", 1
            )
            self._refuse_if_closed()
            self._last_ids.setdefault(stream, newest[0][0].decode() if newest else "0-0")
        inbox: asyncio.Queue[JobEvent] = asyncio.Queue()
        self._watchers[stream, job_id].append(inbox)
        return inbox

    def listen(self) -> None:
        if self._is_closed:
            return
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="convolab-events")
        elif self._lacks_stream() and (self._interrupter is None or self._interrupter.done()):
            self._interrupter = asyncio.create_task(
                self._interrupt(), name="convolab-events-interrupt"
            )

    def unwatch(self, stream: str, job_id: str, inbox: asyncio.Queue[JobEvent]) -> None:
        inboxes = self._watchers[stream, job_id]
        inboxes.remove(inbox)
        if inboxes:
            return
        del self._watchers[stream, job_id]
        if not any(watched == stream for watched, _ in self._watchers):
            self._last_ids.pop(stream, None)
        if not self._watchers and self._reader is not None:
            self._reader.cancel()
            self._reader = self._being_read = None
            self._connection.abort("nobody watches", stale=False)

    async def close(self) -> None:
        """Stop reading; whoever watches gets the event ``CLOSED``."""
        self._is_closed = True
        self._tell_all(CLOSED)
        tasks = [task for task in (self._reader, self._interrupter) if task is not None]
        self._reader = self._interrupter = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            msg = "the client was closed"
            raise RedisUnavailable(msg)

    def _tell_all(self, event: str) -> None:
        """Give every watcher an event that is not in its stream."""
        for (_, job_id), inboxes in self._watchers.items():
            for inbox in inboxes:
                inbox.put_nowait(JobEvent(job_id, event))

    # the reader

    async def _read(self) -> None:
        failures = 0
        while True:
            try:
                await self._connection.open()
                await self._read_once()
                failures = 0
                continue
            except RedisUnavailable as error:
                if self._is_restarting:
                    self._is_restarting, self._being_read = False, None
                    continue
                if not failures:
                    _log.warning("events.unavailable", error=str(error))
            except Exception:  # noqa: BLE001 - watchers would wait for a reader that has died
                _log.exception("events.failed")
            failures += 1
            self._being_read = None
            pause = _FIRST_RECONNECT_SECONDS * 2 ** min(failures - 1, 10)
            await asyncio.sleep(min(pause, _LONGEST_RECONNECT_SECONDS))
            self._tell_all(GAP)

    async def _read_once(self) -> None:
        last_ids = dict(self._last_ids)
        self._being_read = frozenset(last_ids)
        answer = await self._connection.call(
            Purpose.STATUS,
            *("XREAD", "COUNT", 1000, "BLOCK", round(_BLOCK_SECONDS * 1000)),
            *("STREAMS", *last_ids, *last_ids.values()),
            timeout=_BLOCK_SECONDS + _MARGIN_SECONDS,
        )
        self._being_read = None
        for stream_name, entries in answer or ():
            stream = stream_name.decode()
            if self._last_ids.get(stream) == last_ids[stream]:  # not watched anew in the meantime
                self._last_ids[stream] = entries[-1][0].decode()
            for _, flat in entries:
                self._deliver(stream, flat)

    def _deliver(self, stream: str, flat: list[bytes]) -> None:
        # Other programs may have written an entry: whatever its bytes are, the entries after it
        # count.
        fields = {readable(name): value for name, value in pairs(flat)}
        job_id = readable(fields.get("jobId"))
        inboxes = self._watchers.get((stream, job_id))
        if not inboxes:
            return
        name = readable(fields.get("event"))
        event = JobEvent(job_id, name, _event_data(name, fields))
        for inbox in inboxes:
            inbox.put_nowait(event)

    # a stream that is added while the reader is blocked

    def _lacks_stream(self) -> bool:
        return self._being_read is not None and not self._last_ids.keys() <= self._being_read

    async def _interrupt(self) -> None:
        """End a blocked read that leaves out a stream; the next one reads it too.

        It asks again and again, since a read that is on its way to the server can't be ended yet.
        """
        pause = _FIRST_INTERRUPT_SECONDS
        while self._lacks_stream() and self._connection.client_id is not None:
            try:
                await self._commands.call(
                    Purpose.STATUS, "CLIENT", "UNBLOCK", self._connection.client_id
                )
            except RedisRefused:
                break
            except RedisUnavailable as error:
                _log.debug("events.not_interrupted", error=str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_INTERRUPT_SECONDS)
        if self._lacks_stream():  # the server can't end it: begin anew on another connection
            self._is_restarting = True
            self._connection.abort("a stream was added", stale=False)


def _event_data(name: str, fields: dict[str, bytes]) -> Any:
    if name == "failed":
        return readable(fields.get("failedReason"))
    raw = fields.get(_JSON_FIELDS.get(name, ""))
    return None if raw is None else json_or_text(readable(raw))
