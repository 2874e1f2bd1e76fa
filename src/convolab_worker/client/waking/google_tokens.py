"""Fetches Google's identity tokens for one audience, in a thread, and keeps each while it is fresh.

They come from the metadata server of Cloud Run, Compute Engine or GKE, or from the key file that
``GOOGLE_APPLICATION_CREDENTIALS`` names.
"""

from __future__ import annotations

import time
from datetime import UTC
from functools import partial
from importlib.util import find_spec
from typing import Any

from convolab_worker._threads import in_thread
from convolab_worker.errors import ConfigurationError

_FRESH_SECONDS = 300.0  # a token is replaced this long before its end


class IdentityUnavailable(Exception):
    """No token can be fetched now; it is not raised to applications."""


class IdentityTokenSource:
    """Tokens for ``audience``. Raises ConfigurationError without the extra ``gcp``."""

    def __init__(self, audience: str) -> None:
        if find_spec("google") is None or find_spec("google.auth") is None:
            msg = (
                f"CONVOLAB_WAKE_AUDIENCE={audience!r} asks for Google's identity tokens: "
                "expected pip install 'convolab_worker[gcp]'"
            )
            raise ConfigurationError(msg)
        self._audience = audience
        self._token = ""
        self._good_until = 0.0

    async def token(self) -> str:
        """Return a token that is valid for some minutes more. Raises IdentityUnavailable."""
        if time.time() >= self._good_until:
            self._token, self._good_until = await self._fetched()
        return self._token

    async def _fetched(self) -> tuple[str, float]:
        try:
            # A metadata server that hangs must not keep the process from ending.
            fetched: tuple[str, float] = await in_thread(
                partial(_fetch, self._audience), "google-identity"
            )
        except Exception as error:  # google-auth raises errors of many kinds
            msg = f"no Google identity token: {type(error).__name__}"
            raise IdentityUnavailable(msg) from error
        return fetched


def _fetch(audience: str) -> tuple[str, float]:
    """Return a new token, and until when it is used (epoch seconds)."""
    from google.auth.transport.requests import Request
    from google.oauth2.id_token import fetch_id_token_credentials

    request = Request()
    credentials: Any = fetch_id_token_credentials(audience, request=request)  # type: ignore[no-untyped-call]
    credentials.refresh(request)
    expires_at = credentials.expiry.replace(tzinfo=UTC).timestamp()
    return str(credentials.token), expires_at - _FRESH_SECONDS
