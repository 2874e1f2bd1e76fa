"""Where Redis is: a REDIS_URL taken apart, once, before the first connection."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl
    from urllib.parse import SplitResult

_SCHEMES = ("redis", "rediss", "unix")
_TLS_OPTIONS = (
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
)
_DEFAULT_PORT = 6379
_MOST_DIGITS = 9
_ENCODE = "a password's own / ? # @ [ ] are to be percent-encoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A Redis server and the credentials for it; its repr shows no password."""

    host: str = "localhost"
    port: int = _DEFAULT_PORT
    path: str | None = None
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls_options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``redis://``, ``rediss://`` or ``unix://`` as redis-py and ioredis read them.

        The query may hold ``db`` and redis-py's ``ssl_*`` names. Raises ConfigurationError, with
        the password left out of its message.
        """
        parts, port = _split(url)
        query = dict(parse_qsl(parts.query))
        is_unix = parts.scheme == "unix"
        in_path = "" if is_unix else parts.path.strip("/")
        return cls(
            host=parts.hostname or "localhost",
            port=_DEFAULT_PORT if port is None else port,
            path=unquote(parts.path) if is_unix else None,
            tls=parts.scheme == "rediss",
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else query.get("password"),
            database=_database(query.get("db") or in_path or "0"),
            tls_options=tuple((k, v) for k, v in query.items() if k in _TLS_OPTIONS),
        )

    def __str__(self) -> str:
        """Where the server is, without credentials."""
        return self.path or f"{self.host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context for ``rediss://``; certificates are checked unless the URL says no."""
        if not self.tls:
            return None
        import ssl

        options = dict(self.tls_options)
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_cert_reqs", "required") == "none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif options.get("ssl_check_hostname", "true").lower() == "false":
            context.check_hostname = False
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        return context


class Route:
    """Where the server is now: in a cluster the node that has the keys, elsewhere the ``address``.

    Shared by the connections of one worker, so that one of them finds the node for all.
    """

    def __init__(self, address: Address) -> None:
        """Begin at the address."""
        self._first = address
        self.address = address

    def follow(self, where: str) -> None:
        """Go to ``HOST:PORT``, as a node names another one; no host means the same one."""
        host, _, port = where.rpartition(":")
        if port.isdecimal():
            self.address = replace(
                self.address, host=host.strip("[]") or self.address.host, port=int(port), path=None
            )

    def fall_back(self) -> None:
        """Begin anew: the node can't be reached, and another one may have its keys by now."""
        self.address = self._first


def _split(url: str) -> tuple[SplitResult, int | None]:
    """The parts of ``url``, and its port; no message of what is wrong with it repeats them."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        got = f"{scheme}://" if scheme.isalnum() else "an address without a scheme"
        msg = f"REDIS_URL: expected redis://, rediss:// or unix://, got {got}"
        raise ConfigurationError(msg)
    bad_host = f"REDIS_URL: expected HOST:PORT with a port from 1 to 65535; {_ENCODE}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(bad_host) from None
    if port == 0:
        raise ConfigurationError(bad_host)
    if parts.scheme == "unix":
        if parts.hostname or parts.path in ("", "/"):
            msg = "REDIS_URL: expected the absolute path of a socket, as in unix:///run/redis.sock"
            raise ConfigurationError(msg)
    elif "@" in f"{parts.path}{parts.query}{parts.fragment}":
        msg = f"REDIS_URL: expected no @ after the host; {_ENCODE}"
        raise ConfigurationError(msg)
    return parts, port


def _database(text: str) -> int:
    if not (text.isdecimal() and len(text) <= _MOST_DIGITS):
        msg = f"REDIS_URL: expected a database number, as in redis://host:6379/0; {_ENCODE}"
        raise ConfigurationError(msg)
    return int(text)
