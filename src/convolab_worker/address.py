"""Where Redis is: a REDIS_URL taken apart, once, before the first connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

_SCHEMES = ("redis", "rediss", "unix")
_TLS_OPTIONS = (
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
)
_DEFAULT_PORT = 6379


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
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            msg = (
                f"REDIS_URL: expected redis://, rediss:// or unix://, got {parts.scheme or '?'}://"
            )
            raise ConfigurationError(msg)
        query = dict(parse_qsl(parts.query))
        try:
            port = parts.port or _DEFAULT_PORT
        except ValueError:
            msg = f"REDIS_URL: the port is not a number from 1 to 65535 (host {parts.hostname!r})"
            raise ConfigurationError(msg) from None
        is_unix = parts.scheme == "unix"
        in_path = "" if is_unix else parts.path.strip("/")
        return cls(
            host=parts.hostname or "localhost",
            port=port,
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


def _database(text: str) -> int:
    if not text.isdecimal():
        msg = f"REDIS_URL: expected a database number, got {text!r}"
        raise ConfigurationError(msg)
    return int(text)
