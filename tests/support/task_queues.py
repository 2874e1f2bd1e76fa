"""Cloud Tasks and QStash on loopback, as their documentation says they behave.

Both keep a request until its time, deliver it, and again, until the answer is 2xx; both consider
``Retry-After``; both take a name, so that a second request of that name adds nothing.

- https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks/create:
  a name is taken while its task exists and for an hour afterwards: 409, ALREADY_EXISTS.
- https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#HttpRequest
- https://upstash.com/docs/qstash/features/{delay,deduplication,retry,security}: a duplicate is
  answered with 202; the default delay of retry n is e to the 2.5 n seconds.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from aiohttp.test_utils import TestServer
from yarl import URL

PUBLISHING_TOKEN = "qstash-token"
ACCESS_TOKEN = "ya29.access"


def qstash_signature(
    key: str,
    url: str,
    body: bytes = b"",
    *,
    header: Any = None,
    claims: Mapping[str, Any] | None = None,
) -> str:
    """A signature that is right but for the header and claims given; None leaves a claim out."""
    now = int(time.time())
    right = {
        "iss": "Upstash",
        "sub": url,
        "exp": now + 300,
        "nbf": now,
        "iat": now,
        "jti": "jwt_67kxXD6UBAk7DqU6hzuHMDdXFXfP",
        "body": base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode(),
    }
    kept = {name: value for name, value in {**right, **(claims or {})}.items() if value is not None}
    parts = [{"alg": "HS256", "typ": "JWT"} if header is None else header, kept]
    signed = b".".join(_encoded(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + _encoded(hmac.digest(key.encode(), signed, "sha256"))).decode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@dataclass(slots=True, kw_only=True)
class Message:
    """A request that is kept until ``at`` (epoch seconds), and what became of its deliveries."""

    url: str
    at: float
    body: bytes = b""
    name: str | None = None
    statuses: list[int] = field(default_factory=list)
    """The answers; 0 where none came."""


class TaskQueue(ABC):
    """Keeps messages and delivers them; ``async with``.

    ``second`` is how long a second of its own takes, for a clock that runs fast.
    """

    def __init__(self, *, second: float = 1.0, retries: int = 100) -> None:
        self._second = second
        self._retries = retries
        self._names: set[str] = set()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self._session: ClientSession
        self.messages: list[Message] = []
        self.duplicates = 0
        self.address = ""

    async def __aenter__(self) -> Self:
        """Listen for who wants to be called."""
        app = web.Application()
        self._add_routes(app)
        server = TestServer(app, host="127.0.0.1")
        await self._stack.enter_async_context(server)
        self._session = await self._stack.enter_async_context(
            ClientSession(timeout=ClientTimeout(total=None))
        )
        self.address = str(server.make_url("")).rstrip("/")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give up what was not delivered."""
        for delivery in self._deliveries:
            delivery.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        await self._stack.aclose()

    def add(self, message: Message) -> bool:
        """Keep a message until its time; False if one of its name was there before."""
        if message.name is not None and message.name in self._names:
            self.duplicates += 1
            return False
        if message.name is not None:
            self._names.add(message.name)
        self.messages.append(message)
        delivery = asyncio.create_task(self._deliver(message))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)
        return True

    async def delivered(self) -> None:
        """Wait until nothing is kept any more."""
        while self._deliveries:
            await asyncio.wait(self._deliveries)

    async def _deliver(self, message: Message) -> None:
        await asyncio.sleep(max(message.at - time.time(), 0.0))
        for retried in range(self._retries + 1):
            headers = self._headers(message, retried)
            after = self._backoff(retried + 1)
            try:
                async with self._session.post(
                    message.url, data=message.body, headers=headers
                ) as answer:
                    await answer.read()
            except ClientError:
                message.statuses.append(0)
            else:
                message.statuses.append(answer.status)
                if 200 <= answer.status < 300:
                    return
                after = float(answer.headers.get("Retry-After", after))
            await asyncio.sleep(after * self._second)

    @abstractmethod
    def _add_routes(self, app: web.Application) -> None: ...

    @abstractmethod
    def _headers(self, message: Message, retried: int) -> dict[str, str]: ...

    @abstractmethod
    def _backoff(self, retry: int) -> float: ...


class QStash(TaskQueue):
    """``POST /v2/publish/URL``; deliveries are signed with ``key``, for ``signs_for`` if given."""

    def __init__(
        self, key: str, *, signs_for: str | None = None, second: float = 1.0, retries: int = 100
    ) -> None:
        super().__init__(second=second, retries=retries)
        self.key = key
        self._signs_for = signs_for

    def _add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v2/publish/{url:.+}", self._publish)

    async def _publish(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {PUBLISHING_TOKEN}":
            return web.json_response({"error": "invalid token"}, status=401)
        message = Message(
            url=request.raw_path.removeprefix("/v2/publish/"),
            at=float(request.headers.get("Upstash-Not-Before", "0")),
            body=await request.read(),
            name=request.headers.get("Upstash-Deduplication-Id"),
        )
        is_new = self.add(message)
        return web.json_response({"messageId": "msg_1"}, status=201 if is_new else 202)

    def _headers(self, message: Message, retried: int) -> dict[str, str]:
        url = message.url if self._signs_for is None else self._signs_for
        signature = qstash_signature(self.key, url, message.body)
        return {"Upstash-Signature": signature, "Upstash-Retried": str(retried)}

    def _backoff(self, retry: int) -> float:
        return min(86_400.0, math.exp(2.5 * retry))


class CloudTasks(TaskQueue):
    """``POST /v2/projects/P/locations/L/queues/Q/tasks``; deliveries carry the task's headers."""

    def _add_routes(self, app: web.Application) -> None:
        app.router.add_post(
            "/v2/{queue:projects/[^/]+/locations/[^/]+/queues/[^/]+}/tasks", self._create
        )

    async def _create(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {ACCESS_TOKEN}":
            return _google_error(401, "UNAUTHENTICATED")
        task = (await request.json())["task"]
        name, queue = task.get("name"), request.match_info["queue"]
        if name is not None and not name.startswith(f"{queue}/tasks/"):
            return _google_error(400, "INVALID_ARGUMENT")
        when = task.get("scheduleTime")
        if URL(task["httpRequest"]["oidcToken"]["audience"]).path != "/":  # as Cloud Run would
            return _google_error(401, "UNAUTHENTICATED")
        message = Message(
            url=task["httpRequest"]["url"],
            at=0.0 if when is None else datetime.fromisoformat(when).timestamp(),
            body=base64.b64decode(task["httpRequest"].get("body", "")),
            name=name,
        )
        if not self.add(message):
            return _google_error(409, "ALREADY_EXISTS")
        return web.json_response(task)

    def _headers(self, message: Message, retried: int) -> dict[str, str]:
        name = (message.name or "").rpartition("/")[2]
        return {"X-CloudTasks-TaskName": name, "X-CloudTasks-TaskRetryCount": str(retried)}

    def _backoff(self, retry: int) -> float:
        """The queue's default: 0.1 s, doubled sixteen times, an hour at most."""
        return min(0.1 * 2.0 ** min(retry - 1, 16), 3600.0)


def _google_error(code: int, status: str) -> web.Response:
    return web.json_response({"error": {"code": code, "status": status}}, status=code)
