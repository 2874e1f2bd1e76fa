"""One request that wakes the worker service, held for as long as the service holds it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from convolab_worker.client.waking.google_tokens import IdentityTokenSource, IdentityUnavailable
from convolab_worker.client.waking.wake_policy import REDIRECTS, Answered, Unanswered, retry_after
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import ClientResponse, ClientSession

    from convolab_worker.settings import Settings

_CONNECT_SECONDS = 10.0
_LONGEST_HOLD_SECONDS = 3660.0  # Cloud Run cuts a request after an hour
_SILENCE_SECONDS = 60.0  # a service that streams its progress sends something more often
_MOST_BYTES = 65_536
_STREAM = "application/x-ndjson"
_ACCEPT = f"{_STREAM}, application/json;q=0.9"


def wake_address(settings: Settings) -> str:
    """Return the settings' ``wake_url``, the path /wake added to an address that has none.

    Raises ConfigurationError for a name or password in the address as well as a token.
    """
    parts = urlsplit(settings.wake_url or "")
    if "@" in parts.netloc and (settings.wake_token or settings.wake_audience):
        msg = (
            f"CONVOLAB_WAKE_URL={mask_url(parts.geturl())!r}: expected no user in it where "
            "CONVOLAB_WAKE_TOKEN or CONVOLAB_WAKE_AUDIENCE is set"
        )
        raise ConfigurationError(msg)
    path = "/wake" if parts.path in ("", "/") else parts.path
    return urlunsplit(parts._replace(path=path, fragment=""))


class Credentials:
    """The settings' tokens, as a request carries them. Raises ConfigurationError."""

    def __init__(self, settings: Settings) -> None:
        self._token = settings.wake_token
        audience = settings.wake_audience
        self._identity = None if audience is None else IdentityTokenSource(audience)

    async def headers(self) -> dict[str, str]:
        """Return the headers that have the tokens. Raises IdentityUnavailable."""
        headers = {}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._identity is not None:
            # If the service has a token of its own, Google's goes where Cloud Run looks first.
            taken = self._token is not None
            name = "X-Serverless-Authorization" if taken else "Authorization"
            headers[name] = f"Bearer {await self._identity.token()}"
        return headers


class WakeSender:
    """Sends wakes to the address, with the settings' tokens. Raises ConfigurationError."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url
        self._credentials = Credentials(settings)
        self._hold: asyncio.Timeout | None = None

    def hang_up(self) -> None:
        """End the wait for an answer, if the service holds a request."""
        if self._hold is not None:
            self._hold.reschedule(0)

    async def send(
        self, session: ClientSession, on_taken: Callable[[], None]
    ) -> Answered | Unanswered:
        """Send one wake and read the answer to its end; call ``on_taken`` at a good status."""
        from aiohttp import ClientError

        began: float | None = None

        def held() -> float | None:
            return None if began is None else time.monotonic() - began

        try:
            headers = {"Accept": _ACCEPT, **await self._credentials.headers()}
            async with session.post(self._url, headers=headers, allow_redirects=False) as response:
                if response.status >= REDIRECTS:
                    asked = retry_after(response.headers.get("Retry-After"), time.time())
                    return Answered(status=response.status, retry_after=asked)
                began = time.monotonic()
                on_taken()
                body = await self._last_word(response)
                return Answered(status=response.status, body=body)
        except IdentityUnavailable as error:
            return Unanswered(reason=str(error))
        except TimeoutError:
            return Unanswered(reason="no answer in time", held=held())
        except (ClientError, OSError) as error:
            return Unanswered(reason=_text(error), held=held())

    async def _last_word(self, response: ClientResponse) -> Mapping[str, Any]:
        """Read the answer to its end, however long that takes, and return its last JSON object.

        Some platforms give the service its CPU only while this connection is open.
        """
        streams = response.content_type == _STREAM
        silence = _SILENCE_SECONDS if streams else _LONGEST_HOLD_SECONDS
        clock = asyncio.get_running_loop().time
        text = b""
        async with asyncio.timeout(silence) as hold:
            self._hold = hold
            try:
                while part := await response.content.readany():
                    text = (text + part)[-_MOST_BYTES:]
                    hold.reschedule(clock() + silence)
            finally:
                self._hold = None
        with suppress(ValueError, RecursionError):
            said = json.loads(text.strip().rpartition(b"\n")[2] if streams else text)
            if isinstance(said, dict):
                return said
        return {}


async def open_session(on_sent: Callable[..., Awaitable[None]]) -> ClientSession:
    """Return a session that reuses no connection: a service that slept does not know it any more.

    ``on_sent`` is called once a request's head is on the wire.
    """
    await asyncio.to_thread(import_module, "aiohttp")  # takes a tenth of a second, once
    from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, TraceConfig

    trace = TraceConfig()
    trace.on_request_headers_sent.append(on_sent)
    return ClientSession(
        connector=TCPConnector(force_close=True),
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(
            total=None, connect=_CONNECT_SECONDS, sock_read=_LONGEST_HOLD_SECONDS
        ),
        trace_configs=[trace],
    )


def _text(error: Exception) -> str:
    """Return what went wrong, without the address, which may have a secret in it."""
    reason = getattr(getattr(error, "os_error", error), "strerror", None)
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
