"""The stream of server-sent events that keeps the console's page up to date.

The stream has four events. ``status`` is the worker's status snapshot, at most once a second and
only if it has changed. When a job has ended come ``recent``, the last hundred outcomes, and
``history``, the numbers of the last stretches of time, which replace those that a page has.
``reasons`` groups failures, and comes with each. All open pages share one snapshot a second, which
is read from the worker's memory and not from Redis.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from convolab_worker.server.answers import failure
from convolab_worker.server.gate.http_connection import end_with_input

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convolab_worker.server.console.redaction import Redaction
    from convolab_worker.server.worker_proxy import WorkerProxy
    from convolab_worker.worker.worker import Worker

_INTERVAL_SECONDS = 1.0
# A worker is shown as blocked when its event loop has not answered for this long.
_BLOCKED_AFTER_SECONDS = 1.5
# Proxies close streams that stay silent; a comment now and then keeps this one open.
_HEARTBEAT_SECONDS = 15.0
_MAX_STREAMS = 50
# Parts of a snapshot that have an event of their own, since they are large and change seldom.
_OWN_EVENTS = {"recent", "history", "reasons"}


class LiveEvents:
    """Streams what one worker does, from its memory, as far as it may be shown."""

    def __init__(self, worker: WorkerProxy, redaction: Redaction) -> None:
        self._worker = worker
        self._redaction = redaction
        self._closing: asyncio.Event | None = None
        self._streams = 0
        self._snapshot: dict[str, Any] = {}
        self._request: asyncio.Task[dict[str, Any]] | None = None
        self._requested_at = float("-inf")

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream changes until the client leaves or the server closes."""
        if self._streams >= _MAX_STREAMS:
            error = f"{_MAX_STREAMS} pages are open already"
            return failure(503, error, {"Retry-After": "30"})
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        end_with_input(request)
        await stream.prepare(request)
        self._streams += 1
        try:
            await self._sendchanges(stream)
        finally:
            self._streams -= 1
        return stream

    async def close(self, _app: web.Application) -> None:
        if self._closing is not None:
            self._closing.set()

    async def _sendchanges(self, stream: web.StreamResponse) -> None:
        closing = self._closing = self._closing or asyncio.Event()
        sent: dict[str, Any] = {}
        sent_at = time.monotonic()
        while not closing.is_set():
            text = "".join(changes(await self._newest(), sent))
            if not text and time.monotonic() - sent_at >= _HEARTBEAT_SECONDS:
                text = ":\n\n"
            if text:
                sent_at = time.monotonic()
                await stream.write(text.encode())
            try:
                async with asyncio.timeout(_INTERVAL_SECONDS):
                    await closing.wait()
            except TimeoutError:
                continue

    async def _newest(self) -> dict[str, Any]:
        """Return a snapshot at most a second old, or the last one if the worker does not answer."""
        if self._request is None and time.monotonic() - self._requested_at >= _INTERVAL_SECONDS / 2:
            self._requested_at = time.monotonic()
            snapshot = self._worker.call(_status_snapshot)
            self._request = asyncio.create_task(snapshot, name="convolab-status")
            self._request.add_done_callback(self._answered)
        if self._request is not None:
            await asyncio.wait({self._request}, timeout=_BLOCKED_AFTER_SECONDS)
        is_blocked = self._request is not None
        return {**self._snapshot, "state": "blocked"} if is_blocked else self._snapshot

    def _answered(self, request: asyncio.Task[dict[str, Any]]) -> None:
        self._request = None
        if not request.cancelled() and request.exception() is None:
            self._snapshot = self._redaction.live(request.result())


async def _status_snapshot(worker: Worker) -> dict[str, Any]:
    return worker.status_snapshot()


def changes(snapshot: dict[str, Any], sent: dict[str, Any]) -> Iterator[str]:
    """Yield the events that bring a page up to date, and note them in ``sent``."""
    if "ended" not in snapshot:  # the worker has not answered yet
        return
    if sent.get("ended") != snapshot["ended"]:
        sent["ended"] = snapshot["ended"]
        yield _event("recent", snapshot["recent"])
        yield _event("history", _grown(snapshot["history"], sent))
    if sent.get("failed") != snapshot["failed"]:
        sent["failed"] = snapshot["failed"]
        yield _event("reasons", snapshot["reasons"])
    status = {key: value for key, value in snapshot.items() if key not in _OWN_EVENTS}
    without_time = {**status, "now": None}
    if sent.get("status") != without_time:
        sent["status"] = without_time
        yield _event("status", status)


def _grown(history: dict[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
    """Return the history that a page lacks: from the last stretch on that it has."""
    known = sent.get("history", {})
    sent["history"] = {
        name: stretches[-1][0] if stretches else known.get(name, 0.0)
        for name, stretches in history.items()
    }
    return {
        name: [stretch for stretch in stretches if stretch[0] >= known.get(name, 0.0)]
        for name, stretches in history.items()
    }


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
