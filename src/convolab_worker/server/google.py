"""Google-signed identity tokens: signature, issuer, audience, time and e-mail checked."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import structlog

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

CERTIFICATES_URL = "https://www.googleapis.com/oauth2/v1/certs"

_ISSUERS = ("accounts.google.com", "https://accounts.google.com")
_MAX_AGE = re.compile(r"max-age=(\d+)")
_DEFAULT_AGE_SECONDS = 3600.0
# However many tokens name an unknown key, or however often Google is away: no more than this often.
_RETRY_SECONDS = 30.0
_FETCH_SECONDS = 5.0
_CLOCK_SKEW_SECONDS = 10
_MOST_BYTES = 1_000_000

_log = structlog.get_logger("convolab_worker")


class Certificates:
    """The signing certificates at ``url`` by key id, kept for as long as their answer allows."""

    def __init__(self, url: str | None = None) -> None:
        """Fetch nothing yet; from Google, unless another ``url`` is given."""
        self._url = CERTIFICATES_URL if url is None else url
        self._known: Mapping[str, str] = {}
        self._good_until = 0.0
        self._may_ask_at = 0.0
        self._fetching: asyncio.Task[None] | None = None

    async def having(self, key_id: str) -> Mapping[str, str]:
        """The certificates, fetched anew if they are old or ``key_id`` is not among them."""
        now = time.monotonic()
        is_good = key_id in self._known and now < self._good_until
        if not is_good and (self._fetching is not None or now >= self._may_ask_at):
            await self._fetch_once()
        return self._known

    async def _fetch_once(self) -> None:
        if self._fetching is None:
            self._may_ask_at = time.monotonic() + _RETRY_SECONDS
            self._fetching = asyncio.create_task(self._fetch(), name="convolab-certificates")
            self._fetching.add_done_callback(self._fetched)
        await asyncio.shield(self._fetching)

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("certificates.failed", error=repr(error))

    async def _fetch(self) -> None:
        """Ask for the certificates; old ones are kept while they can't be had."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
                session.get(self._url) as answer,
            ):
                answer.raise_for_status()
                body = await answer.content.read(_MOST_BYTES)
                age = _MAX_AGE.search(answer.headers.get("Cache-Control", ""))
            known = _certificates(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _log.warning("certificates.unavailable", url=self._url, error=repr(error))
            return
        self._known = known
        self._good_until = time.monotonic() + (float(age[1]) if age else _DEFAULT_AGE_SECONDS)


def _certificates(body: bytes) -> Mapping[str, str]:
    import json

    known = json.loads(body)
    if not isinstance(known, dict) or not all(isinstance(pem, str) for pem in known.values()):
        msg = "expected an object of certificates by key id"
        raise ValueError(msg)
    return known


class IdentityTokens:
    """Accepts identity tokens for ``audience`` of one of ``emails``."""

    def __init__(
        self, audience: str, emails: Collection[str], certificates: Certificates | None = None
    ) -> None:
        """Check what is needed. Raises ConfigurationError without the extra gcp."""
        try:
            from google.auth import jwt
        except ImportError:
            msg = (
                "CONVOLAB_WAKE_AUDIENCE is set: expected google-auth,"
                " as in pip install 'convolab_worker[gcp]'"
            )
            raise ConfigurationError(msg) from None
        self._jwt: Any = jwt
        self._audience = audience
        self._emails = frozenset(email.lower() for email in emails)
        self._certificates = Certificates() if certificates is None else certificates

    async def accepts(self, token: str) -> bool:
        """Whether Google has signed the token for our audience, and for one of the e-mails."""
        claims = await self._claims(token)
        if claims is None or claims.get("iss") not in _ISSUERS:
            return False
        email = claims.get("email")
        is_named = isinstance(email, str) and email.lower() in self._emails
        return is_named and claims.get("email_verified") is True

    async def _claims(self, token: str) -> Mapping[str, Any] | None:
        """What the token says, if its signature, times and audience are right."""
        try:
            key_id = self._jwt.decode_header(token).get("kid")
            if not isinstance(key_id, str):
                return None
            certificates = await self._certificates.having(key_id)
            if key_id not in certificates:
                return None
            claims: Mapping[str, Any] = self._jwt.decode(
                token,
                certs=certificates,
                audience=self._audience,
                clock_skew_in_seconds=_CLOCK_SKEW_SECONDS,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # GoogleAuthError of a wrong token is a ValueError; the others come of odd JSON in it.
            _log.debug("identity_token.refused", error=type(error).__name__)
            return None
        return claims
