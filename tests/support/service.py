"""An HTTP service on loopback that answers as a test tells it to."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PATIENCE_SECONDS = 20.0


@dataclass
class Service:
    """What was asked of the service, and how it answers; the last answer holds for all later."""

    answers: list[Answer]
    url: str = ""
    requests: list[web.Request] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer the next request."""
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        async with self.arrived:
            self.arrived.notify_all()
        return await answer(request)

    async def asked(self, times: int) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(_PATIENCE_SECONDS), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests) >= times)


@asynccontextmanager
async def service(*answers: Answer) -> AsyncIterator[Service]:
    """Run a service that gives these answers in order."""
    scripted = Service(list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    async with TestServer(
        app, host="127.0.0.1", handler_cancellation=True, shutdown_timeout=0.1
    ) as server:
        scripted.url = str(server.make_url("/wake"))
        yield scripted


def says(
    body: dict[str, Any] | None = None, *, status: int = 200, headers: dict[str, str] | None = None
) -> Answer:
    """The answer with that JSON, at once."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(body or {}, status=status, headers=headers)

    return answer


class Held:
    """An answer that is held until it is let go, streamed where that was asked for."""

    def __init__(self, *, streams: bool, **body: Any) -> None:
        self._streams = streams
        self._body = {"status": "drained", "processed": 1, "remaining": 0, **body}
        self._free = asyncio.Event()
        self.hung_up = asyncio.Event()

    def let_go(self) -> None:
        """Give the answer."""
        self._free.set()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        lines = web.StreamResponse()
        if self._streams:
            assert "application/x-ndjson" in request.headers["Accept"]
            lines.content_type = "application/x-ndjson"
            await lines.prepare(request)
            await lines.write(b'{"status": "working"}\n')
        try:
            await self._free.wait()
        except asyncio.CancelledError:  # the service ends what nobody listens to
            self.hung_up.set()
            raise
        if not self._streams:
            return web.json_response(self._body)
        await lines.write(json.dumps(self._body).encode() + b"\n")
        return lines


# Google's metadata server

AUDIENCE = "https://worker.example.com"


def identity_token(lifetime: float) -> str:
    """A token as Google's metadata server makes them, but for its signature."""
    now = time.time()
    parts = (
        {"alg": "RS256", "typ": "JWT", "kid": "1"},
        {"aud": AUDIENCE, "iat": int(now), "exp": int(now + lifetime), "sub": "1"},
    )
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return b".".join([*encoded, b"c2ln"]).decode()


def metadata(token: str) -> Answer:
    """Answers as the metadata server does."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.headers["Metadata-Flavor"] == "Google"
        headers = {"Metadata-Flavor": "Google"}
        if request.path.endswith("/identity"):
            assert request.query["audience"] == AUDIENCE
            return web.Response(text=token, headers=headers)
        return web.json_response({"email": "api@example.com"}, headers=headers)

    return answer
