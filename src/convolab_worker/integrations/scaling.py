"""Tells a scaler, such as KEDA's metrics-api or CREMA, how many jobs need a worker.

It belongs in the API's process: a worker that was scaled to zero can't answer.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from convolab_worker.client.operating.demand import Demand
from convolab_worker.errors import ConfigurationError, RedisUnavailable
from convolab_worker.server.gate.auth import Authorization

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from convolab_worker.client.client import JobClient

    Message = MutableMapping[str, Any]
    AsgiApp = Callable[
        [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
        Awaitable[None],
    ]


def scale_app(client: JobClient, *, cache: float = 10.0, token: str | None = None) -> AsgiApp:
    """Return an ASGI application that answers GET with the demand of the client's queues, as JSON.

    Mount it into FastAPI or Starlette: ``app.mount("/scale", scale_app(client))``. An answer is
    kept for ``cache`` seconds, however many ask. With ``token`` it needs ``Authorization: Bearer``.
    Without Redis it answers 503, on which a scaler leaves things as they are.
    """
    if not 0 <= cache < float("inf"):
        msg = f"scale_app(cache={cache!r}): expected seconds, 0 or more"
        raise ConfigurationError(msg)
    kept = _Kept(client, cache)

    async def app(
        scope: Message,
        _receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        status, body = await _answer(scope, kept, token)
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    return app


async def _answer(scope: Message, kept: _Kept, token: str | None) -> tuple[int, dict[str, Any]]:
    if scope["method"] not in ("GET", "HEAD"):
        return 405, {"error": "expected GET"}
    if token is not None:
        given = dict(scope["headers"]).get(b"authorization", b"").decode("utf-8", "surrogateescape")
        if not Authorization(token, None, None).is_shared_token(given):
            return 401, {"error": "expected the token as a bearer token"}
    try:
        demand = await kept.demand()
    except RedisUnavailable as error:
        return 503, {"error": str(error)}
    return 200, {
        "ready": demand.ready, "due": demand.due, "active": demand.active, "total": demand.total
    }  # fmt: skip


class _Kept:
    """The last demand; requests that come while it is fetched wait for the same answer."""

    def __init__(self, client: JobClient, seconds: float) -> None:
        self._client = client
        self._seconds = seconds
        self._fetched = Demand()
        self._fetched_at = float("-inf")
        self._turn = asyncio.Lock()

    async def demand(self) -> Demand:
        async with self._turn:
            if time.monotonic() - self._fetched_at >= self._seconds:
                self._fetched = await self._client.demand()
                self._fetched_at = time.monotonic()
            return self._fetched
