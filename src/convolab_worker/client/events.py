"""A queue's event stream, read once for all who watch its jobs."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from convolab_worker.connection.connection import Connection

_log = structlog.get_logger("convolab_worker")
_BLOCK_SECONDS = 20.0
_MARGIN_SECONDS = 5.0
_RECONNECT_SECONDS = 0.5
# Not BullMQ's: the stream could not be read for a while.
GAP = "gap"
# Not BullMQ's either: the client is closed, and no event will come.
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
        """Whether the job has ended."""
        return self.event in ("completed", "failed")


class Events:
    """Reads the event streams of watched queues on one blocked connection, while anyone watches."""

    def __init__(self, connection: Connection, waker: Connection) -> None:
        """``connection`` reads; ``waker`` ends its block when a stream is added."""
        self._connection = connection
        self._waker = waker
        self._last_ids: dict[str, str] = {}
        self._watchers: dict[tuple[str, str], list[asyncio.Queue[JobEvent]]] = defaultdict(list)
        self._reader: asyncio.Task[None] | None = None

    async def watch(self, stream: str, job_id: str) -> asyncio.Queue[JobEvent]:
        """A queue that gets each event of the job from now on; give it back to ``unwatch``."""
        if stream not in self._last_ids:
            newest = await self._waker.call(
                Purpose.STATUS, "XREVRANGE", stream, "+", "-", "COUNT", 1
            )
            self._last_ids.setdefault(stream, newest[0][0].decode() if newest else "0-0")
            if self._reader is not None and self._connection.client_id is not None:
                self._waker.call(Purpose.STATUS, "CLIENT", "UNBLOCK", self._connection.client_id)
        inbox: asyncio.Queue[JobEvent] = asyncio.Queue()
        self._watchers[stream, job_id].append(inbox)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="convolab-events")
        return inbox

    def unwatch(self, stream: str, job_id: str, inbox: asyncio.Queue[JobEvent]) -> None:
        """Watch the job no longer."""
        inboxes = self._watchers[stream, job_id]
        inboxes.remove(inbox)
        if inboxes:
            return
        del self._watchers[stream, job_id]
        if not any(watched == stream for watched, _ in self._watchers):
            self._last_ids.pop(stream, None)
        if not self._watchers and self._reader is not None:
            self._reader.cancel()
            self._reader = None
            self._connection.lose("nobody watches", ghost=False)

    async def _read(self) -> None:
        while True:
            try:
                await self._connection.open()
                await self._read_once()
            except RedisUnavailable as error:
                _log.warning("events.unavailable", error=str(error))
                await asyncio.sleep(_RECONNECT_SECONDS)
                self._tell_all(GAP)

    def _tell_all(self, event: str) -> None:
        """Tell whoever watches a job of something that is not in its stream."""
        for (_, job_id), inboxes in self._watchers.items():
            for inbox in inboxes:
                inbox.put_nowait(JobEvent(job_id, event))

    async def _read_once(self) -> None:
        last_ids = dict(self._last_ids)
        answer = await self._connection.call(
            Purpose.STATUS,
            *("XREAD", "COUNT", 1000, "BLOCK", round(_BLOCK_SECONDS * 1000)),
            *("STREAMS", *last_ids, *last_ids.values()),
            timeout=_BLOCK_SECONDS + _MARGIN_SECONDS,
        )
        for stream_name, entries in answer or ():
            stream = stream_name.decode()
            for entry_id, flat in entries:
                if stream in self._last_ids:
                    self._last_ids[stream] = entry_id.decode()
                self._deliver(stream, flat)

    def _deliver(self, stream: str, flat: list[bytes]) -> None:
        fields = {k.decode(): v for k, v in zip(flat[::2], flat[1::2], strict=True)}
        job_id = fields.get("jobId", b"").decode("utf-8", "replace")
        inboxes = self._watchers.get((stream, job_id))
        if not inboxes:
            return
        name = fields.get("event", b"").decode()
        event = JobEvent(job_id, name, _event_data(name, fields))
        for inbox in inboxes:
            inbox.put_nowait(event)

    async def close(self) -> None:
        """Stop reading, and tell those who watch."""
        self._tell_all(CLOSED)
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        await self._connection.close()


def _event_data(name: str, fields: dict[str, bytes]) -> Any:
    if name == "failed":
        return fields.get("failedReason", b"").decode("utf-8", "replace")
    text = fields.get(_JSON_FIELDS.get(name, ""))
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.decode("utf-8", "replace")
