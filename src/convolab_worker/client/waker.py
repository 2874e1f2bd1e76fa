"""Wakes the worker service from an API service: in the background, one wake for many jobs.

=========  ==========================================================================
state      what it is
=========  ==========================================================================
asleep     no task, at most a timer for the next delayed job
waking     a request is on its way, or the next attempt is waited for
held       the service took the request and works; its answer comes when it is done
=========  ==========================================================================

A job that is added while waking needs no wake of its own. One that is added while held makes
one more wake, after the answer: the service may have looked for the last time just before.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import structlog

from convolab_worker._urls import mask_url
from convolab_worker.client.google_tokens import IdentityTokens, IdentityUnavailable
from convolab_worker.client.wake_policy import (
    REDIRECTS,
    Answered,
    GivenUp,
    Heard,
    Unanswered,
    due_in,
    judge,
    retry_after,
)
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import ClientResponse, ClientSession

    from convolab_worker.settings import Settings

CLOSE_SECONDS = 1.0
"""How long closing waits at most for a wake that has not been heard yet."""

_GATHER_SECONDS = 0.005  # jobs that are added together share a wake
_CONNECT_SECONDS = 10.0
_LONGEST_HOLD_SECONDS = 3660.0  # Cloud Run cuts a request after an hour
_SILENCE_SECONDS = 60.0  # a service that streams its progress says something more often
_MOST_BYTES = 65_536
_STREAM = "application/x-ndjson"

_log = structlog.get_logger("convolab_worker")


class Waker:
    """Sends wakes to the settings' ``wake_url``; belongs to the loop in which it is first used.

    Nothing here raises for what the service does, or waits for it in the caller's time.
    """

    def __init__(self, settings: Settings) -> None:
        """Check the address and the tokens' settings. Raises ConfigurationError."""
        self._url = wake_address(settings)
        self._token = settings.wake_token
        audience = settings.wake_audience
        self._identity = None if audience is None else IdentityTokens(audience)
        self._asked = False
        self._heard = asyncio.Event()
        self._heard.set()
        self._hurry = asyncio.Event()
        self._hold: asyncio.Timeout | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_complained = False
        self._futile = 0

    def wake(self, delay: float | None = None) -> None:
        """Wake the service now, or when a job with that ``delay`` is due; returns at once."""
        if delay:
            self._wake_in(due_in(delay))
            return
        self._asked = True
        self._heard.clear()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="convolab-wake")

    def _wake_in(self, seconds: float) -> None:
        """Wake then; of several such times the first counts, and its answer tells the next."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._timer is not None:
            if loop.time() < self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self.wake)

    async def heard(self, timeout: float) -> bool:
        """Wait until the wakes that were asked for have been heard, at most ``timeout`` seconds.

        False if they were not: it took longer, or all attempts failed.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._heard.wait()
        return self._heard.is_set() and not self._has_complained

    async def close(self) -> None:
        """Send what was not sent, wait for that a second at most, and hang up.

        Wakes for delayed jobs are dropped.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if task is None:
            return
        self._hurry.set()  # from here on nothing pauses
        if self._asked and self._hold is not None:
            self._hold.reschedule(0)
        await self.heard(CLOSE_SECONDS)
        task.cancel()
        await asyncio.wait({task})
        self._hurry.clear()

    # the task

    async def _run(self) -> None:
        try:
            while self._asked:  # again after the session was closed, which takes a moment too
                await asyncio.sleep(_GATHER_SECONDS)
                async with await _session(self._on_sent) as session:
                    while self._asked:
                        await self._deliver(session)
        finally:
            self._heard.set()

    async def _on_sent(self, *_: object) -> None:
        """The request's head is on the wire: the service looks for jobs after this."""
        self._asked = False

    async def _deliver(self, session: ClientSession) -> None:
        """One wake: attempts until it is heard or given up."""
        attempt = 1
        while True:
            result = await self._attempt(session)
            verdict = judge(
                result,
                attempt=attempt,
                futile=self._futile,
                now=time.time(),
                random=random.random(),
            )
            if isinstance(verdict, Heard):
                return await self._settle(verdict)
            if isinstance(verdict, GivenUp):
                return self._give_up(verdict)
            attempt = verdict.attempt
            self._asked = True
            self._heard.clear()
            _log.debug("wake.again", attempt=attempt, seconds=round(verdict.after, 2))
            await self._pause(verdict.after)

    async def _settle(self, heard: Heard) -> None:
        self._futile = heard.futile
        if heard.after is not None:
            self._wake_in(heard.after)
        if heard.quiet_for:
            await self._pause(heard.quiet_for)

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until the client closes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    def _give_up(self, verdict: GivenUp) -> None:
        self._asked = False
        more = {} if verdict.hint is None else {"hint": verdict.hint}
        say = _log.debug if self._has_complained else _log.warning
        say("wake.failed", url=mask_url(self._url), reason=verdict.reason, **more)
        self._has_complained = True

    # one attempt

    async def _attempt(self, session: ClientSession) -> Answered | Unanswered:
        """Ask once, and hear the service out."""
        from aiohttp import ClientError

        began: float | None = None

        def held() -> float | None:
            return None if began is None else time.monotonic() - began

        try:
            headers = await self._headers()
            async with session.post(self._url, headers=headers, allow_redirects=False) as response:
                if response.status >= REDIRECTS:
                    asked = retry_after(response.headers.get("Retry-After"), time.time())
                    return Answered(status=response.status, retry_after=asked)
                began = time.monotonic()
                self._recover()
                body = await self._last_word(response)
                return Answered(status=response.status, body=body)
        except IdentityUnavailable as error:
            return Unanswered(reason=str(error))
        except TimeoutError:
            return Unanswered(reason="no answer in time", held=held())
        except (ClientError, OSError) as error:
            return Unanswered(reason=_text(error), held=held())

    async def _headers(self) -> dict[str, str]:
        headers = {"Accept": f"{_STREAM}, application/json;q=0.9"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._identity is not None:
            # With a token of the service's own, Google's goes where Cloud Run looks first.
            taken = self._token is not None
            name = "X-Serverless-Authorization" if taken else "Authorization"
            headers[name] = f"Bearer {await self._identity.token()}"
        return headers

    def _recover(self) -> None:
        """The service has the request."""
        if not self._asked:
            self._heard.set()
        if self._has_complained:
            self._has_complained = False
            _log.info("wake.heard_again", url=mask_url(self._url))

    async def _last_word(self, response: ClientResponse) -> Mapping[str, Any]:
        """What the end of the answer says; read to its end, however long that takes.

        While this connection is open the service has its CPU, where a platform takes it away.
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


def wake_address(settings: Settings) -> str:
    """Return the settings' ``wake_url``, the path /wake added to an address that has none.

    Raises ConfigurationError for a name or password in the address beside a token.
    """
    parts = urlsplit(settings.wake_url or "")
    if "@" in parts.netloc and (settings.wake_token or settings.wake_audience):
        msg = (
            f"CONVOLAB_WAKE_URL={mask_url(parts.geturl())!r}: expected no user in it beside "
            "CONVOLAB_WAKE_TOKEN or CONVOLAB_WAKE_AUDIENCE"
        )
        raise ConfigurationError(msg)
    path = "/wake" if parts.path in ("", "/") else parts.path
    return urlunsplit(parts._replace(path=path, fragment=""))


async def _session(on_sent: Callable[..., Awaitable[None]]) -> ClientSession:
    """A session that uses no connection twice: a service that slept has forgotten it."""
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
    """What went wrong, without an address, which may have a secret in it."""
    reason = getattr(getattr(error, "os_error", error), "strerror", None)
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
