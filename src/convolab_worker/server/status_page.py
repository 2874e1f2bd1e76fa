"""The status page: one file of HTML, and the stream that keeps an open page up to date.

The stream is server-sent events from memory: ``picture`` (what the worker does) at most once a
second and only where something changed, ``recent`` (the last hundred outcomes) when one more has
come. However many pages are open, a picture is made once a second, and Redis is not asked.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from aiohttp import web

from convolab_worker.errors import ConvolabWorkerError
from convolab_worker.server.middleware import answer, failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convolab_worker.server.worker_proxy import Workload

_INTERVAL_SECONDS = 1.0
# A worker whose loop does not answer for so long is shown as blocked.
_PATIENCE_SECONDS = 1.5
# Proxies end streams that say nothing; a comment says that this one lives.
_HEARTBEAT_SECONDS = 15.0
_DEPTHS_SECONDS = 10.0
_MOST_LISTENERS = 50


class StatusPage:
    """The page's answers for one worker."""

    def __init__(self, workload: Workload) -> None:
        """Read the page; nobody listens yet."""
        self._workload = workload
        self._html = files("convolab_worker.server").joinpath("status.html").read_text("utf-8")
        self._policy = _policy(self._html)
        self._closing: asyncio.Event | None = None
        self._listeners = 0
        self._asking: asyncio.Task[dict[str, Any]] | None = None
        self._picture: dict[str, Any] = {}
        self._asked_at = float("-inf")

    def page(self, status: int = 200) -> web.Response:
        """The page itself: there is no data in it, and it asks for the token where one is needed.

        So it is what a browser without a token gets with a 401, too.
        """
        headers = {"Content-Security-Policy": self._policy}
        return web.Response(
            text=self._html, status=status, content_type="text/html", headers=headers
        )

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream what changes until the client leaves, or the server closes."""
        if self._listeners >= _MOST_LISTENERS:
            error = f"{_MOST_LISTENERS} pages are open already"
            return failure(503, error, {"Retry-After": "30"})
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        self._listeners += 1
        try:
            await self._feed(stream)
        finally:
            self._listeners -= 1
        return stream

    async def depths(self, _request: web.Request) -> web.Response:
        """How many jobs each queue has, which costs commands; so only on demand."""
        try:
            async with asyncio.timeout(_DEPTHS_SECONDS):
                return answer(200, await self._workload.depths())
        except TimeoutError:
            return failure(503, "Redis did not answer in time")
        except ConvolabWorkerError as error:
            return failure(503, str(error))

    async def close(self, _app: web.Application) -> None:
        """End every stream: the server stops."""
        if self._closing is not None:
            self._closing.set()

    async def _feed(self, stream: web.StreamResponse) -> None:
        closing = self._closing = self._closing or asyncio.Event()
        seen: dict[str, Any] = {}
        said_at = time.monotonic()
        while not closing.is_set():
            text = "".join(_news(await self._newest(), seen))
            if not text and time.monotonic() - said_at >= _HEARTBEAT_SECONDS:
                text = ":\n\n"
            if text:
                said_at = time.monotonic()
                await stream.write(text.encode())
            try:
                async with asyncio.timeout(_INTERVAL_SECONDS):
                    await closing.wait()
            except TimeoutError:
                continue

    async def _newest(self) -> dict[str, Any]:
        """A picture that is at most a second old; the last one, if the worker does not answer."""
        if self._asking is None and time.monotonic() - self._asked_at >= _INTERVAL_SECONDS / 2:
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._workload.picture(), name="convolab-picture")
            self._asking.add_done_callback(self._answered)
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=_PATIENCE_SECONDS)
        is_blocked = self._asking is not None
        return {**self._picture, "state": "blocked"} if is_blocked else self._picture

    def _answered(self, asking: asyncio.Task[dict[str, Any]]) -> None:
        self._asking = None
        if not asking.cancelled() and asking.exception() is None:
            self._picture = asking.result()


def _news(picture: dict[str, Any], seen: dict[str, Any]) -> Iterator[str]:
    """The events that a listener who has ``seen`` so much has not had."""
    if "ended" not in picture:  # the worker has not answered yet
        return
    if seen.get("ended") != picture["ended"]:
        seen["ended"] = picture["ended"]
        yield _event("recent", picture["recent"])
    shown = {key: value for key, value in picture.items() if key != "recent"}
    timeless = {**shown, "now": None}
    if seen.get("picture") != timeless:
        seen["picture"] = timeless
        yield _event("picture", shown)


def _event(kind: str, data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


def _policy(html: str) -> str:
    """The content security policy that lets this page run, and nothing that was put into it."""
    hashes = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
            for body in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
