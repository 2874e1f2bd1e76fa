"""What every request passes: the limits, the token, and what every answer carries."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from convolab_worker.server.limits import RateLimit, client_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from aiohttp.typedefs import Handler

    from convolab_worker.server.auth import Authorization

# Nothing in a wake's body is of interest.
LARGEST_BODY = 64 * 1024
# How long a body may take.
_BODY_SECONDS = 10.0
# Routes by name, since an application may stand under any path of another.
_PROBES = frozenset({"health", "healthz", "ready", "readyz"})
_OPEN = _PROBES | {"openapi"}  # these tell nothing of the jobs
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_log = structlog.get_logger("convolab_worker")


def answer(status: int, value: Any, headers: dict[str, str] | None = None) -> web.Response:
    """Make an answer in JSON."""
    return web.Response(
        status=status, text=json.dumps(value), content_type="application/json", headers=headers
    )


def failure(status: int, error: str, headers: dict[str, str] | None = None) -> web.Response:
    """Make an answer that says what went wrong."""
    return answer(status, {"error": error}, headers)


class Gate:
    """Lets requests through to their routes; counts what was answered in ``answers``."""

    def __init__(
        self,
        allowed: Authorization,
        *,
        rate: float,
        behind_front_end: bool,
        answers: Counter[tuple[str, int]],
        locked_page: Callable[[int], web.Response],
    ) -> None:
        """Let ``rate`` requests a second through from each client, if ``allowed``.

        A browser that may not pass gets the ``locked_page``, which asks for the token.
        """
        self._locked_page = locked_page
        self._allowed = allowed
        self._limit = RateLimit(rate)
        self._behind_front_end = behind_front_end
        self._answers = answers

    @web.middleware
    async def pass_through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer the request, whatever happens, in JSON."""
        response = await self._answered(request, handler)
        self._answers[request.match_info.route.name or "other", response.status] += 1
        return response

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            refusal = await self._refusal(request)
            return await handler(request) if refusal is None else refusal
        except web.HTTPRequestEntityTooLarge:
            return _last(
                failure(413, f"the body is too large: expected {LARGEST_BODY} bytes at most")
            )
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            return failure(error.status, _told(request, error), kept)
        except ConnectionError:  # nobody is there to be answered
            raise
        except Exception:  # noqa: BLE001 - a bug of ours is an answer, and a line in the log
            _log.exception("request.failed", path=request.path)
            return failure(500, "this should not happen: the worker's log says what did")

    async def _refusal(self, request: web.Request) -> web.Response | None:
        """The answer to a request that may not pass; None if it may."""
        route = request.match_info.route.name
        wait = (
            0.0 if route in _PROBES else self._limit.admit(self._client(request), time.monotonic())
        )
        if wait > 0:
            headers = {"Retry-After": str(math.ceil(wait))}
            return failure(429, f"too many requests: expected one in {wait:.2g} s", headers)
        is_known = request.match_info.http_exception is None
        header = request.headers.get("Authorization")
        if is_known and route not in _OPEN and not await self._allowed.accepts(header):
            return self._locked(request)
        if request.can_read_body:
            return await _read(request)
        return None

    def _locked(self, request: web.Request) -> web.Response:
        if request.match_info.route.name == "index" and _is_browser(request):
            refusal = self._locked_page(401)
        else:
            refusal = failure(401, "expected a valid token, as in Authorization: Bearer …")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    def _client(self, request: web.Request) -> str:
        forwarded_for = request.headers.get("X-Forwarded-For")
        return client_of(
            request.remote or "", forwarded_for, behind_front_end=self._behind_front_end
        )

    async def sign(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Add what every answer carries; a route's own word stands."""
        response.headers["Server"] = "convolab-worker"
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)


def _is_browser(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "")


async def _read(request: web.Request) -> web.Response | None:
    """Read the body, which is to be small and to come in time."""
    if (request.content_length or 0) > LARGEST_BODY:
        raise web.HTTPRequestEntityTooLarge(LARGEST_BODY, request.content_length or 0)
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            await request.read()
    except TimeoutError:
        return _last(failure(408, f"the body did not come within {_BODY_SECONDS:g} s"))
    except web.RequestPayloadError:
        return _last(failure(400, "the body is not as its headers say"))
    return None


def _last(response: web.Response) -> web.Response:
    """Close the connection after it: the rest of the body is not read."""
    response.force_close()
    return response


def _told(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound):
        return f"{request.path[:80]}: no such route"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method[:20]}: expected {', '.join(sorted(error.allowed_methods))}"
    return error.text or error.reason
