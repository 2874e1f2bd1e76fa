"""One connection: aiohttp's, with limits, and our own answers where aiohttp refuses."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from convolab_worker._logs import Log
from convolab_worker.server.answers import in_bytes
from convolab_worker.server.gate.connections import Activity

if TYPE_CHECKING:
    from convolab_worker.server.gate.gate import Gate
    from convolab_worker.server.gate.listener import Listener

# Routes read nothing from a body.
MAX_BODY_BYTES = 64 * 1024
# Bytes of the request line, and of one header with its name.
_MAX_LINE_BYTES = 8190
# The most bytes that a connection may send before its answer: heads, body and its framing.
MAX_REQUEST_BYTES = 2 * MAX_BODY_BYTES
_MAX_HEADERS = 100
# How long an answer may stay unread.
_UNREAD_SECONDS = 30.0
# aiohttp closes idle connections too; the listener does it earlier.
_AIOHTTP_IDLE_SECONDS = 3600.0
# After the client has closed its side: how long after an answer the next one must begin.
_NEXT_ANSWER_SECONDS = 0.02

_log = Log()
# aiohttp's own messages quote what clients send.
_silent = logging.getLogger("convolab_worker.http")
_silent.disabled = True


class HttpConnection(web.RequestHandler):
    """A client's connection, which tells its ``listener`` what it does.

    A client that closes its side of the connection has given up if its route's answer may take long
    (``end_with_input``). All other clients are answered first.
    """

    def __init__(
        self, server: web.Server, listener: Listener, gate: Gate, peer: str, *, probes_only: bool
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # it may be None, says the code
            auto_decompress=False,
            keepalive_timeout=_AIOHTTP_IDLE_SECONDS,
            lingering_time=0.0,
            logger=_silent,
            max_field_size=_MAX_LINE_BYTES,
            max_headers=_MAX_HEADERS,
            max_line_size=_MAX_LINE_BYTES,
        )
        self._listener = listener
        self._gate = gate
        self._request: web.BaseRequest | None = None
        self._received = 0
        self._input_closed = False
        self._is_dropped = False
        # aiohttp forgets its transport when it closes it, although there may be more to send.
        self._socket: asyncio.Transport | None = None
        self._unread_since: float | None = None
        self.peer = peer
        self.probes_only = probes_only
        self.expected: list[str] = []  # the Expect headers of the request
        self._ends_with_input = False

    @staticmethod
    def of(request: web.BaseRequest) -> HttpConnection | None:
        """Return the request's connection, or None on a server of the application's own."""
        protocol = request.protocol
        return protocol if isinstance(protocol, HttpConnection) else None

    def takes_up(self, request: web.BaseRequest, expected: list[str]) -> None:
        """Note that a request, with these Expect headers, is handled from now on."""
        self._request = request
        self.expected = expected
        self._ends_with_input = False
        self.now_does(Activity.SERVING)
        if self._input_closed:
            self._give_up_body(request)

    def now_does(self, activity: Activity) -> None:
        """Tell the listener what the connection does now."""
        self._listener.moved(self, activity)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if self.probes_only:
            resp.force_close()
        try:
            return await super().finish_response(request, resp, start_time)
        except HttpProcessingError as error:
            # Before aiohttp 3.14, what follows a request to upgrade is parsed before it is
            # answered.
            self._request = None
            self._refuse(400, type(error).__name__)
            raise ConnectionError(type(error).__name__) from error
        finally:
            self._request = None
            self._received = 0
            self.now_does(Activity.IDLE)
            if self._input_closed:
                self._close_unless_busy_soon()

    def drop(self) -> None:
        """Close the connection at once, whatever was to be sent."""
        self._is_dropped = True
        self.force_close()
        if self._socket is not None:
            self._socket.abort()

    def end_with_input(self) -> None:
        """Close the connection, and so end this request, once the client has closed its side."""
        self._ends_with_input = True
        if self._input_closed:
            self.force_close()

    def is_unread(self, now: float) -> bool:
        """Return whether the client has not read its answer for long; call this regularly."""
        if self._socket is None or not self._socket.get_write_buffer_size():
            self._unread_since = None
            return False
        self._unread_since = self._unread_since or now
        return now - self._unread_since >= _UNREAD_SECONDS

    # what the transport and aiohttp call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._socket = self.transport
        if self._is_dropped:  # before the connection was made
            self.drop()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MAX_REQUEST_BYTES:
            self._overrun()
            return
        if data and self._request is None:
            self.now_does(Activity.READING)
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - whatever the parser makes of these bytes
            self._refuse(400, type(error).__name__)

    def eof_received(self) -> bool:  # type: ignore[override] # as asyncio has it
        """Return whether the connection stays open, for the answer to what was sent."""
        if self._ends_with_input:
            return False
        self._input_closed = True
        if self._request is not None:
            self._give_up_body(self._request)
        self._close_unless_busy_soon()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.lost(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        """Answer what could not be parsed, and what failed outside of the gate."""
        if request.writer.output_size > 0:
            msg = "the answer has begun already"
            raise ConnectionError(msg)
        reason = type(exc).__name__
        if status < 500:  # noqa: PLR2004
            return self._gate.malformed(self.peer, reason)
        _log.error("request.failed", error=reason, where=_where(exc))
        return self._gate.failed()

    def log_exception(self, *_: Any, exc_info: BaseException | None = None, **__: Any) -> None:
        _log.error("request.failed", error=type(exc_info).__name__, where=_where(exc_info))

    def _overrun(self) -> None:
        """More was sent than any request has: refuse it, and read no more."""
        request = self._request
        if request is not None and not request.content.is_eof():
            if self.transport is not None:
                self.transport.pause_reading()
            if request.content.exception() is None:
                too_large = web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, self._received)
                request.content.set_exception(too_large)
        else:
            self._refuse(413, "TooLarge")

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what did not become a request, and close."""
        if self._request is None and self.transport is not None:
            self.transport.write(in_bytes(self._gate.malformed(self.peer, reason, status)))
            self.force_close()
        else:  # another answer is under way
            self._listener.drop(self, "overrun")

    @staticmethod
    def _give_up_body(request: web.BaseRequest) -> None:
        """The rest of the body will not come."""
        if not request.content.is_eof() and request.content.exception() is None:
            request.content.set_exception(web.RequestPayloadError("the client closed its side"))

    def _close_unless_busy_soon(self) -> None:
        self._loop.call_later(_NEXT_ANSWER_SECONDS, self._close_unless_busy)

    def _close_unless_busy(self) -> None:
        if self._request is None:
            self.force_close()


def end_with_input(request: web.BaseRequest) -> None:
    """Let the answer to this request end when its client closes its side of the connection."""
    connection = HttpConnection.of(request)
    if connection is not None:
        connection.end_with_input()


def _where(error: BaseException | None) -> list[str]:
    """Return where an error was raised, without its text, which may have a header's value."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-3:]]
