"""Who may call: the bearer of a token, or of an identity token that Google has signed."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Protocol

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from convolab_worker.settings import Settings

_SCHEME = "bearer"
# An Authorization header that is longer than any token of ours or of Google's.
_LONGEST = 8000


class Check(Protocol):
    """Says whether a token is good."""

    async def accepts(self, token: str) -> bool:
        """Whether the bearer of ``token`` may call."""


class SharedToken:
    """The one token that the callers and the server share."""

    def __init__(self, token: str) -> None:
        """Accept that one."""
        self._token = token.encode()

    async def accepts(self, token: str) -> bool:
        """Whether it is the one, compared in constant time."""
        return hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token)


class Authorization:
    """Accepts a header that one of its checks accepts; every header if there is no check."""

    def __init__(self, *checks: Check) -> None:
        """Ask them in this order."""
        self._checks = checks

    @property
    def is_open(self) -> bool:
        """Whether anybody may call."""
        return not self._checks

    async def accepts(self, header: str | None) -> bool:
        """Whether a request with this ``Authorization`` header may pass."""
        if self.is_open:
            return True
        scheme, _, token = (header or "").partition(" ")
        token = token.strip()
        if scheme.lower() != _SCHEME or not token or len(token) > _LONGEST:
            return False
        for check in self._checks:
            if await check.accepts(token):
                return True
        return False


def authorization(settings: Settings) -> Authorization:
    """Return what the settings ask for. Raises ConfigurationError if the extra gcp is missing."""
    checks: list[Check] = []
    if settings.wake_token is not None:
        checks.append(SharedToken(settings.wake_token))
    if settings.wake_audience is not None:
        if settings.wake_emails is None:
            msg = (
                f"CONVOLAB_WAKE_AUDIENCE={settings.wake_audience}: expected CONVOLAB_WAKE_EMAILS"
                " beside it, since anybody may have Google sign a token for that audience"
            )
            raise ConfigurationError(msg)
        from convolab_worker.server.google import IdentityTokens

        checks.append(IdentityTokens(settings.wake_audience, settings.wake_emails))
    return Authorization(*checks)
