"""What happens to every request before its route, and to every answer after it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from convolab_worker._logs import Log

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from aiohttp.typedefs import Handler

    from convolab_worker.server.auth import Authorization

# Routes read nothing from a body.
MAX_BODY_BYTES = 64 * 1024

_BODY_SECONDS = 10.0
# Routes by their names: an application may be mounted under any path of another.
_PROBES = frozenset({"health", "healthz", "ready", "readyz"})
_OPEN = _PROBES | {"openapi"}  # they say nothing about jobs
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# The rate limit forgets the client that was quiet for longest when there are more than this many.
_MAX_CLIENTS = 10_000
# A client that was quiet may send so many seconds' worth of requests at once.
_BURST_SECONDS = 2.0

_log = Log()


def answer(status: int, value: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, text=json.dumps(value), content_type="application/json", headers=headers
    )


def failure(status: int, error: str, headers: dict[str, str] | None = None) -> web.Response:
    return answer(status, {"error": error}, headers)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimit:
    """Allows each client ``rate`` requests a second, and a burst of twice as many after a pause.

    Pure: a token bucket for each client, and the time is an argument.
    """

    def __init__(self, rate: float, *, max_clients: int = _MAX_CLIENTS) -> None:
        self._rate = rate
        self._burst = max(rate * _BURST_SECONDS, 1.0)
        self._max_clients = max_clients
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, client: str, now: float) -> float:
        """Return 0 if the client may send a request ``now``, else the seconds until it may."""
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(self._burst, now)
            if len(self._buckets) > self._max_clients:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        elapsed = max(now - bucket.filled_at, 0.0)
        bucket.tokens = min(bucket.tokens + elapsed * self._rate, self._burst)
        bucket.filled_at = now
        if bucket.tokens >= 1.0:
            bucket.tokens -= 1.0
            return 0.0
        return (1.0 - bucket.tokens) / self._rate


def client_address(peer: str, forwarded_for: str | None, *, behind_front_end: bool) -> str:
    """Return the address that a request counts for.

    Cloud Run's front end appends the address that it saw to X-Forwarded-For; the client itself may
    have written what stands before it. Elsewhere anybody may have written the whole header.
    """
    if behind_front_end and forwarded_for:
        return forwarded_for.rpartition(",")[2].strip() or peer
    return peer


class Gate:
    """Checks rate limit, token and body of each request, and counts the ``answers``.

    Each client may send ``rate`` requests a second. A browser without a valid token gets the
    ``locked_page``, which asks for one.
    """

    def __init__(
        self,
        authorization: Authorization,
        *,
        rate: float,
        behind_front_end: bool,
        answers: Counter[tuple[str, int]],
        locked_page: Callable[[int], web.Response],
    ) -> None:
        self._authorization = authorization
        self._rate_limit = RateLimit(rate)
        self._behind_front_end = behind_front_end
        self._answers = answers
        self._locked_page = locked_page

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer the request; every error becomes an answer in JSON."""
        response = await self._answer(request, handler)
        self._answers[request.match_info.route.name or "other", response.status] += 1
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            refusal = await self._refusal(request)
            return await handler(request) if refusal is None else refusal
        except web.HTTPRequestEntityTooLarge:
            return _closing(
                failure(413, f"the body is too large: expected {MAX_BODY_BYTES} bytes at most")
            )
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            return failure(error.status, _error_text(request, error), kept)
        except ConnectionError:  # the client is gone
            raise
        except Exception:  # noqa: BLE001 - a bug of ours is logged, and answered
            _log.exception("request.failed", path=request.path)
            return failure(500, "internal error: see the worker's log")

    async def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request that may not pass, or None."""
        route = request.match_info.route.name
        if route not in _PROBES:
            wait = self._rate_limit.admit(self._client(request), time.monotonic())
            if wait > 0:
                headers = {"Retry-After": str(math.ceil(wait))}
                return failure(429, f"too many requests: expected one in {wait:.2g} s", headers)
        is_known = request.match_info.http_exception is None
        header = request.headers.get("Authorization")
        if is_known and route not in _OPEN and not await self._authorization.accepts(header):
            return self._unauthorized(request)
        return await _read_body(request) if request.can_read_body else None

    def _unauthorized(self, request: web.Request) -> web.Response:
        is_browser = "text/html" in request.headers.get("Accept", "")
        if request.match_info.route.name == "index" and is_browser:
            refusal = self._locked_page(401)
        else:
            refusal = failure(401, "expected a valid token, as in Authorization: Bearer …")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    def _client(self, request: web.Request) -> str:
        forwarded_for = request.headers.get("X-Forwarded-For")
        return client_address(
            request.remote or "", forwarded_for, behind_front_end=self._behind_front_end
        )

    async def add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "convolab-worker"
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)


async def _read_body(request: web.Request) -> web.Response | None:
    """Read the body; return the answer to one that is too large, too slow or broken."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, request.content_length or 0)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            await request.read()
    except TimeoutError:
        return _closing(failure(408, f"the body did not come within {_BODY_SECONDS:g} s"))
    except web.RequestPayloadError:
        return _closing(failure(400, "the body does not match its headers"))
    return None


def _closing(response: web.Response) -> web.Response:
    """Have the connection closed after this answer: the rest of the body is not read."""
    response.force_close()
    return response


def _error_text(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound):
        return f"{request.path[:80]}: no such route"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method[:20]}: expected {', '.join(sorted(error.allowed_methods))}"
    return error.text or error.reason
