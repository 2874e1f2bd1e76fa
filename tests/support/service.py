"""An HTTP service on loopback that answers as a test tells it to."""

from __future__ import annotations

import asyncio
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
