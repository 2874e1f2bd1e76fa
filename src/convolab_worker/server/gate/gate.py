"""What each request passes before its route: rate, origin, token and body are checked.

No route needs a check of its own: all requests, also those for no route, go through
``Gate.handle``. ``Gate.malformed`` answers what is not valid HTTP, and so never becomes a request.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, web

from convolab_worker._logs import Log
from convolab_worker.server.answers import HEADERS, closing, failure
from convolab_worker.server.gate.connections import Activity
from convolab_worker.server.gate.http_connection import MAX_BODY_BYTES, HttpConnection
from convolab_worker.server.gate.limits import RateLimit, client_address
from convolab_worker.server.gate.origins import foreign_header, is_loopback
from convolab_worker.server.gate.signatures import HEADER, SignedBody
from convolab_worker.server.gate.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler

    from convolab_worker.server.gate.auth import Authorization
    from convolab_worker.server.gate.signatures import SignatureVerifier

_BODY_SECONDS = 10.0
# Routes are known by their names: an application may be mounted under any path of another.
_PROBES = frozenset({"health", "healthz", "ready", "readyz"})
_OPEN = _PROBES | {"openapi"}  # they say nothing about jobs
# Probes of one client beyond this rate (requests/s) are answered late, and never refused: a refused
# probe restarts the worker. A 429 is answered late, too, or clients that ignore it would ask all
# the faster.
_FEWEST_PROBES = 20.0
_LATE_SECONDS = 0.25
_CROWDED_RETRY_SECONDS = 5
_OPEN_EXPECTED = "CONVOLAB_WAKE_TOKEN, or an application around the server that asks who it is"

CALLER: ContextVar[str] = ContextVar("convolab_caller")
"""Who has sent the request: what ``Authorization.caller`` says, or ``qstash``."""

_log = Log()


class Gate:
    """Checks origin, rate, token and body of each request, and counts the answers.

    Each client may send ``rate`` requests a second. A browser without a valid token gets the
    ``locked_page``, which asks for one. ``checks_names``: without a token, a server on loopback
    answers only under names of loopback.
    """

    def __init__(
        self,
        authorization: Authorization,
        *,
        rate: float,
        behind_front_end: bool,
        checks_names: bool,
        locked_page: Callable[[int], web.Response],
    ) -> None:
        self._authorization = authorization
        self._rate_limit = RateLimit(rate)
        self._probe_limit = RateLimit(max(rate, _FEWEST_PROBES))
        self._behind_front_end = behind_front_end
        self._checks_names = checks_names
        self.traffic = Traffic()
        self._locked_page = locked_page
        self._has_told_open = False

    @property
    def is_open(self) -> bool:
        """Whether anybody may pass: no token, identity or signature is asked for."""
        return self._authorization.is_open

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer the request; every error becomes an answer in JSON."""
        try:
            refusal = await self._refusal(request)
            if refusal is None:
                return await handler(request)
            # What is left of the body could not be told from a next request.
            return refusal if request.content.is_eof() else closing(refusal)
        except web.HTTPRequestEntityTooLarge:
            return closing(
                failure(413, f"the body is too large: expected {MAX_BODY_BYTES} bytes at most")
            )
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            return failure(error.status, _error_text(request, error), kept)
        except ConnectionError:  # the client is gone
            raise
        except Exception:  # noqa: BLE001 - a bug of ours is logged, and answered
            _log.exception("request.failed", path=request.path)
            return _internal_error()

    def malformed(self, peer: str, reason: str, status: int = 400) -> web.Response:
        """Return the answer to what is not valid HTTP; it closes the connection.

        Neither the answer nor the log quotes what was sent: there may be a secret next to a wrong
        byte.
        """
        self.traffic.note("server.malformed", peer=peer, reason=reason)
        client = client_address(peer, (), behind_front_end=False)
        wait = self._rate_limit.admit(client, time.monotonic())
        refusal = failure(status, "the request is not valid HTTP") if not wait else _limited(wait)
        self.traffic.answers["malformed", refusal.status] += 1
        return closing(refusal)

    def failed(self) -> web.Response:
        """Return the answer to a request that failed outside of the gate, by a bug of ours."""
        self.traffic.answers["other", 500] += 1
        return closing(_internal_error())

    async def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request that may not pass, or None."""
        refusal = await self._held_off(request)
        if refusal is None:
            refusal = self._foreign(request)
        if refusal is None:
            refusal = await self._unauthorized(request)
        return await _read_body(request) if refusal is None else refusal

    async def _held_off(self, request: web.Request) -> web.Response | None:
        """Delay a client that asks too often; return the answer if it may not pass, or None."""
        is_probe = request.match_info.route.name in _PROBES
        connection = HttpConnection.of(request)
        if connection is not None and connection.probes_only:
            retry = {"Retry-After": str(_CROWDED_RETRY_SECONDS)}
            return None if is_probe else failure(503, "too many connections are open", retry)
        limit = self._probe_limit if is_probe else self._rate_limit
        wait = limit.admit(self._client(request), time.monotonic())
        if not wait:
            return None
        if connection is not None:
            connection.now_does(Activity.SLOWED)
        await asyncio.sleep(_LATE_SECONDS)
        if connection is not None:
            connection.now_does(Activity.SERVING)
        return None if is_probe else _limited(wait)

    def _foreign(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request that another site's page has sent, or None."""
        if not self.is_open:
            return None
        is_local = self._checks_names and _is_local(request)
        is_link = request.method == "GET" and request.match_info.route.name == "index"
        if is_link and not is_local:  # any site may link to the page, which has no data
            return None
        header = foreign_header(request.headers, is_local=is_local)
        if header is None:
            if self._checks_names and not is_local:
                self._tell_open(request)
            return None
        self.traffic.note("server.foreign", header=header)
        expected = "no web page of another site; or set CONVOLAB_WAKE_TOKEN"
        if header == "Host":
            expected = "localhost or a loopback address; or set CONVOLAB_WAKE_TOKEN"
        return closing(failure(403, f"{header}: expected {expected}"))

    def _tell_open(self, request: web.Request) -> None:
        """Warn once that anybody is let in from elsewhere: this server asks for no token.

        An application around it that asks who it is has let the request pass for its credentials.
        """
        route = request.match_info.route.name
        has_credentials = "Authorization" in request.headers or "Cookie" in request.headers
        if self._has_told_open or has_credentials or route is None or route in _OPEN:
            return
        self._has_told_open = True
        _log.warning("server.open", route=route, expected=_OPEN_EXPECTED)

    async def _unauthorized(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request without the token that its route asks for, or None."""
        route = request.match_info.route.name
        if route in _OPEN or request.match_info.http_exception is not None:
            return None
        caller = await self._authorization.caller(request.headers.get("Authorization"))
        if caller is not None:
            CALLER.set(caller)
            return None
        if route == "wake" and HEADER in request.headers and self._authorization.signature:
            return await self._badly_signed(request, self._authorization.signature)
        if route == "index" and "text/html" in request.headers.get("Accept", ""):
            refusal = self._locked_page(401)
        else:
            refusal = failure(401, "expected a valid token, as in Authorization: Bearer …")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    async def _badly_signed(
        self, request: web.Request, verifier: SignatureVerifier
    ) -> web.Response | None:
        """Return the answer to a wake whose signature is wrong, or None.

        The body is read only when everything else is right.
        """
        tokens, query = request.headers.getall(HEADER), request.rel_url.raw_query_string
        judged = verifier.judge(tokens, query, time.time())
        if isinstance(judged, SignedBody):
            if (unread := await _read_body(request)) is not None:
                return unread
            problem = judged.problem(await request.read())
        else:
            problem = judged
        if problem is None:
            CALLER.set("qstash")
            return None
        self.traffic.note("server.signature_refused", reason=problem.value)
        return failure(401, f"{HEADER}: {problem.value}")

    def _client(self, request: web.Request) -> str:
        return client_address(
            request.remote or "",
            request.headers.getall("X-Forwarded-For", []),
            behind_front_end=self._behind_front_end,
        )

    async def answering(self, request: web.Request, response: web.StreamResponse) -> None:
        """Count an answer, streams too, as its head goes out; add the headers that all have."""
        self.traffic.answers[request.match_info.route.name or "other", response.status] += 1
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers["Server"] = HEADERS["Server"]  # aiohttp has set its own by now


def _is_local(request: web.Request) -> bool:
    transport = request.transport
    address = None if transport is None else transport.get_extra_info("sockname")
    if not isinstance(address, tuple):  # a unix socket: no browser reaches it
        return False
    host = str(address[0])
    return is_loopback(f"[{host}]" if ":" in host else host)


def _limited(wait: float) -> web.Response:
    headers = {"Retry-After": str(math.ceil(wait))}
    return failure(429, f"too many requests: expected one in {wait:.2g} s", headers)


def _internal_error() -> web.Response:
    return failure(500, "internal error: see the worker's log")


async def _read_body(request: web.Request) -> web.Response | None:
    """Read the body; return the answer to one that is too large, too slow or broken."""
    connection = HttpConnection.of(request)
    expected = [] if connection is None else [text.lower() for text in connection.expected]
    if expected not in ([], ["100-continue"]):
        return closing(failure(417, "expected no Expect header but 100-continue"))
    if not request.can_read_body:
        return None
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, request.content_length or 0)
    if expected and request.version == HttpVersion11 and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            await request.read()
    except TimeoutError:
        return closing(failure(408, f"the body did not come within {_BODY_SECONDS:g} s"))
    except web.RequestPayloadError:
        return closing(failure(400, "the body does not match its headers"))
    return None


def _error_text(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound):
        return f"{request.path[:80]}: no such route"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method[:20]}: expected {', '.join(sorted(error.allowed_methods))}"
    return error.text or error.reason
