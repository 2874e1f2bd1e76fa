"""Fetches Google's identity tokens for one audience, in a thread, and keeps each while it is fresh.

They come from the metadata server of Cloud Run, Compute Engine or GKE, or from the key file that
``GOOGLE_APPLICATION_CREDENTIALS`` names.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from datetime import UTC
from importlib.util import find_spec
from typing import Any

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
        loop = asyncio.get_running_loop()
        fetched: asyncio.Future[tuple[str, float]] = loop.create_future()

        def tell(token: tuple[str, float] | None, error: Exception | None) -> None:
            if fetched.done():
                return
            if token is not None:
                fetched.set_result(token)
            else:
                msg = f"no Google identity token: {type(error).__name__}"
                fetched.set_exception(IdentityUnavailable(msg))

        def work() -> None:
            token, error = None, None
            try:
                token = _fetch(self._audience)
            except Exception as fault:  # noqa: BLE001 - google-auth raises errors of many kinds
                error = fault
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(tell, token, error)

        # A daemon, and not a pool's thread: a metadata server that hangs must not keep the process
        # from ending.
        threading.Thread(target=work, name="google-identity", daemon=True).start()
        return await fetched


def _fetch(audience: str) -> tuple[str, float]:
    """Return a new token, and until when it is used (epoch seconds)."""
    from google.auth.transport.requests import Request
    from google.oauth2.id_token import fetch_id_token_credentials

    request = Request()
    credentials: Any = fetch_id_token_credentials(audience, request=request)  # type: ignore[no-untyped-call]
    credentials.refresh(request)
    expires_at = credentials.expiry.replace(tzinfo=UTC).timestamp()
    return str(credentials.token), expires_at - _FRESH_SECONDS
