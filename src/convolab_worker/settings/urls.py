"""Addresses as settings have them: what they mean, and how to show them.

Most are plain, and are read here. ``judged_urls`` reads all others, and says what is wrong with
them; it is imported only for these, since its ``urllib.parse`` costs a start 3 ms and 0.7 MB.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from convolab_worker.settings.sentinels import Sentinels

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
REDIS_SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES)
DEFAULT_PORT = 6379
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_MOST_PORT = 65535
# The parts of a plain address need no decoding and no lower case, and have one meaning.
_PLAIN = re.compile(
    r"(rediss?)://(?:([\w.~-]*):([\w.~-]+)@)?([a-z0-9-]+(?:\.[a-z0-9-]+)*)(?::([1-9][0-9]{0,4}))?"
    r"(?:/([0-9]{0,9}))?",
    re.ASCII,
)

# Without a host, a password is where a port should be: redis://me:secret.
_PASSWORD_AS_PORT = r"(?s)^((?:[^:/]*://)?(?:\[[^\]]*\]|[^:/?#\[]*):)(?!//|[0-9]*(?:[/?#]|$)).+$"  # noqa: S105

# Misspelt names as well: an error about one shows the address.
_SECRET_OPTION = r"(?i)((?:pas|pw|tok|secret|auth)[^=&#?]*=)[^&#]*"  # noqa: S105 - it finds them


class RedisUrl(TypedDict):
    """What a Redis address means; ``path`` is that of a Unix socket.

    With ``sentinels`` the host and the port are the first Sentinel's.
    """

    host: str
    port: int
    path: str | None
    tls: bool
    username: str | None
    password: str | None
    database: int
    tls_options: tuple[tuple[str, str], ...]
    sentinels: Sentinels | None


def parse_redis_url(url: str) -> RedisUrl:
    """Read ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``.

    It reads them as redis-py and ioredis do. The query may hold ``db``, ``username``, ``password``
    and redis-py's ``ssl_*`` names, and those of Sentinels. Other clients' options are ignored; a
    name that no client has is refused.
    """
    if (plain := plain_redis_url(url)) is not None:
        return plain
    from convolab_worker.settings.judged_urls import redis_url

    return redis_url(url)


def plain_redis_url(url: str) -> RedisUrl | None:
    """Return what ``SCHEME://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`` means.

    None for an address that has more, has something escaped, or is wrong.
    """
    match = _PLAIN.fullmatch(url)
    if match is None:
        return None
    scheme, username, password, host, port, database = match.groups()
    if int(port or 0) > _MOST_PORT:
        return None
    return RedisUrl(
        host=host,
        port=int(port or DEFAULT_PORT),
        path=None,
        tls=scheme == "rediss",
        username=username or None,
        password=password,
        database=int(database or 0),
        tls_options=(),
        sentinels=None,
    )


def check_url(url: str, schemes: tuple[str, ...]) -> None:
    """Raise ValueError for an address that can't be, or has none of the ``schemes``."""
    if schemes == REDIS_SCHEMES:
        parse_redis_url(url)
        return
    from convolab_worker.settings.judged_urls import check_http_url

    check_http_url(url, schemes)


def starts_with(schemes: tuple[str, ...]) -> str:
    """Return what an address of one of these schemes looks like, in words."""
    *most, last = (f"{scheme}://" for scheme in schemes)
    return f"an address that starts with {', '.join(most)} or {last}"


def mask_url(url: str) -> str:
    """Return the address with whatever could be a password in it replaced by ``***``."""
    masked = re.sub(_SECRET_OPTION, r"\1***", url)
    before, at, after = masked.rpartition("@")
    if not at:
        return re.sub(_PASSWORD_AS_PORT, r"\1***", masked)
    scheme, separator, credentials = before.rpartition("://") if "://" in before else ("", "", "")
    if separator and credentials.startswith(":"):
        return f"{scheme}://:***@{after}"
    user = re.match(r"[^:/@]+(?=:)", credentials)
    return f"{scheme}{separator}{user[0] + ':' if user else ''}***@{after}"
