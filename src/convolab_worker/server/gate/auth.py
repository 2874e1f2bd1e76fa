"""Decides who may call: holders of the shared token, or of what Google or QStash has signed."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from convolab_worker.server.gate.signatures import SignatureVerifier
    from convolab_worker.settings import Settings

CERTIFICATES_URL = "https://www.googleapis.com/oauth2/v1/certs"

_SCHEME = "bearer"
# More characters than any shared token, or token of Google's, has.
_MAX_TOKEN_LENGTH = 8000
_ISSUERS = ("accounts.google.com", "https://accounts.google.com")
_CLOCK_SKEW_SECONDS = 10
_MAX_AGE = re.compile(r"max-age=(\d+)")
_DEFAULT_MAX_AGE_SECONDS = 3600.0
# Certificates are not fetched more often than this, whatever keys tokens name, and however often a
# fetch fails.
_RETRY_SECONDS = 30.0
_FETCH_TIMEOUT_SECONDS = 5.0
_MAX_CERTIFICATES_BYTES = 1_000_000

_log = Log()


class Authorization:
    """Accepts a request with the shared ``token``, or with one that ``identity`` accepts.

    The gate asks ``signature`` about wakes, whose body it has to read. Without all three, anybody
    may call.
    """

    def __init__(
        self,
        token: str | None,
        identity: IdentityTokenVerifier | None,
        signature: SignatureVerifier | None,
    ) -> None:
        self._token = None if token is None else token.encode()
        self._identity = identity
        self.signature = signature
        self.is_open = token is None and identity is None and signature is None

    async def caller(self, header: str | None) -> str | None:
        """Return who sends a request with this ``Authorization`` header; None if it may not pass.

        That is ``token``, the e-mail address of an identity token, or ``anybody``.
        """
        if self.is_open:
            return "anybody"
        if self.is_shared_token(header):
            return "token"
        token = _bearer_token(header)
        return None if self._identity is None or not token else await self._identity.caller(token)

    def is_shared_token(self, header: str | None) -> bool:
        """Whether an ``Authorization`` header has the shared token."""
        given = _bearer_token(header).encode("utf-8", "surrogateescape")
        if self._token is None or not given:
            return False
        return hmac.compare_digest(given, self._token)


def _bearer_token(header: str | None) -> str:
    """The token of an ``Authorization`` header; the empty text if it has none."""
    scheme, _, token = (header or "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == _SCHEME and len(token) <= _MAX_TOKEN_LENGTH else ""


def authorization(settings: Settings) -> Authorization:
    """Return the authorization that the settings ask for.

    Raises ConfigurationError if it lacks a setting, or the extra ``gcp``.
    """
    identity = _identity_verifier(settings)
    return Authorization(settings.wake_token, identity, _signature_verifier(settings))


def _identity_verifier(settings: Settings) -> IdentityTokenVerifier | None:
    audience, emails = settings.wake_audience, settings.wake_emails
    if audience is None:
        return None
    if emails is None:
        msg = (
            f"CONVOLAB_WAKE_AUDIENCE={audience}: expected CONVOLAB_WAKE_EMAILS as"
            " well, since Google signs a token for that audience for anybody who asks"
        )
        raise ConfigurationError(msg)
    return IdentityTokenVerifier(audience, emails)


def _signature_verifier(settings: Settings) -> SignatureVerifier | None:
    keys = [settings.wake_signing_key, settings.wake_next_signing_key]
    current = keys[0]
    if current is None and keys[1] is not None:
        msg = "CONVOLAB_WAKE_NEXT_SIGNING_KEY is set: expected CONVOLAB_WAKE_SIGNING_KEY as well"
        raise ConfigurationError(msg)
    if current is None:
        return None
    if settings.wake_url is None:
        msg = (
            "CONVOLAB_WAKE_SIGNING_KEY is set: expected CONVOLAB_WAKE_URL as well, the address that"
            " QStash calls, since it signs for every address of its account"
        )
        raise ConfigurationError(msg)
    from convolab_worker.client.waking.wake_request import wake_address
    from convolab_worker.server.gate.signatures import SignatureVerifier

    return SignatureVerifier(wake_address(settings), [key for key in keys if key is not None])


class Certificates:
    """Google's signing certificates by key id, kept for as long as the response's max-age says."""

    def __init__(self, url: str | None = None) -> None:
        self._url = CERTIFICATES_URL if url is None else url
        self._by_key_id: Mapping[str, str] = {}
        self._fresh_until = 0.0
        self._retry_at = 0.0
        self._fetching: asyncio.Task[None] | None = None

    async def containing(self, key_id: str) -> Mapping[str, str]:
        """Return all certificates, fetched again first if they are old or ``key_id`` is missing.

        A failed fetch leaves the old ones in place, so ``key_id`` may be missing still.
        """
        now = time.monotonic()
        is_fresh = key_id in self._by_key_id and now < self._fresh_until
        if not is_fresh and (self._fetching is not None or now >= self._retry_at):
            await self._fetch_once()
        return self._by_key_id

    async def _fetch_once(self) -> None:
        """Fetch them; requests at the same time share a fetch, and none of them cancels it."""
        if self._fetching is None:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._fetching = asyncio.create_task(self._fetch(), name="convolab-certificates")
            self._fetching.add_done_callback(self._fetched)
        await asyncio.shield(self._fetching)

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("certificates.failed", error=repr(error))

    async def _fetch(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_FETCH_TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
                session.get(self._url) as response,
            ):
                response.raise_for_status()
                body = await response.content.read(_MAX_CERTIFICATES_BYTES)
                max_age = _MAX_AGE.search(response.headers.get("Cache-Control", ""))
            certificates = _parsed(body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _log.warning("certificates.unavailable", url=self._url, error=repr(error))
            return
        seconds = float(max_age[1]) if max_age else _DEFAULT_MAX_AGE_SECONDS
        self._by_key_id, self._fresh_until = certificates, time.monotonic() + seconds


def _parsed(body: bytes) -> Mapping[str, str]:
    certificates = json.loads(body)
    if not isinstance(certificates, dict) or not all(
        isinstance(pem, str) for pem in certificates.values()
    ):
        msg = "expected a JSON object of certificates by key id"
        raise ValueError(msg)
    return certificates


class IdentityTokenVerifier:
    """Accepts identity tokens that Google signed for ``audience`` and one of the ``emails``.

    Raises ConfigurationError without the extra ``gcp``.
    """

    def __init__(
        self, audience: str, emails: Collection[str], certificates: Certificates | None = None
    ) -> None:
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

    async def caller(self, token: str) -> str | None:
        """Return the e-mail address of a token whose signature, issuer, audience and times fit.

        None if one of these does not fit, or the address is not one of the ``emails``.
        """
        try:
            claims = await self._claims(token)
        except Exception as error:  # noqa: BLE001 - whatever a token is made of, it is refused
            # Google's library raises a ValueError for a wrong token. For odd JSON it raises nearly
            # anything: a TypeError, or a RecursionError for a thousand brackets.
            _log.debug("identity_token.refused", error=type(error).__name__)
            return None
        if not isinstance(claims, dict) or claims.get("iss") not in _ISSUERS:
            return None
        email = claims.get("email")
        if not isinstance(email, str) or email.lower() not in self._emails:
            return None
        return email if claims.get("email_verified") is True else None

    async def _claims(self, token: str) -> Mapping[str, Any] | None:
        """Return the token's claims if its signature, times and audience are right."""
        key_id = self._jwt.decode_header(token).get("kid")
        if not isinstance(key_id, str):
            return None
        certificates = await self._certificates.containing(key_id)
        if key_id not in certificates:
            return None
        claims: Mapping[str, Any] = self._jwt.decode(
            token,
            certs=certificates,
            audience=self._audience,
            clock_skew_in_seconds=_CLOCK_SKEW_SECONDS,
        )
        return claims
