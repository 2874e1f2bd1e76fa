"""Asks the wake server whether it takes the token, and callers without one; wakes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from convolab_worker.client.waking.google_tokens import IdentityUnavailable
from convolab_worker.client.waking.wake_request import Credentials, wake_address

if TYPE_CHECKING:
    from convolab_worker.settings import Settings

_SECONDS = 60.0  # a service at zero instances has to start first


async def reach(settings: Settings, *, with_token: bool) -> tuple[str | None, int | None]:
    """Ask the wake server for its metrics, which need the same token and start no work.

    Returns what went wrong, or the status of the answer.
    """
    from aiohttp import ClientError, ClientSession, ClientTimeout

    parts = urlsplit(wake_address(settings))
    url = urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/metrics"))
    try:
        headers = await Credentials(settings).headers() if with_token else {}
        timeout = ClientTimeout(total=_SECONDS)
        async with (
            ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers) as answer,
        ):
            return None, answer.status
    except IdentityUnavailable as error:
        return str(error), None
    except (ClientError, TimeoutError) as error:
        return f"not reached: {str(error) or type(error).__name__}", None
