"""Takes a REDIS_URL apart: where Redis is, how to log in there, and with which certificates."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from typing import TYPE_CHECKING

from msgspec import Struct

from convolab_worker.errors import ConfigurationError, RedisUnavailable
from convolab_worker.settings.urls import TLS_FILES, mask_url, parse_redis_url

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from convolab_worker.settings.sentinels import Sentinels

# A process seldom has more: a worker has one address, and a client has one.
_MOST_CONTEXTS = 8


class Address(Struct, frozen=True, kw_only=True):
    """A Redis server and the credentials for it; its repr shows no password.

    With ``sentinels`` the host and port are not known before one of them is asked. The server's
    certificate has to be for ``tls_name``, by default for the host.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: bool = False
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls_options: tuple[tuple[str, str], ...] = ()
    tls_name: str | None = None
    sentinels: Sentinels | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take a REDIS_URL apart. Raises ConfigurationError, which shows no password.

        It never raises for the address of Settings, which have checked it by the same rules.
        """
        try:
            return cls(**parse_redis_url(url))
        except ValueError as error:
            msg = f"REDIS_URL={mask_url(url)!r}: expected {error}"
            raise ConfigurationError(msg) from None

    def __repr__(self) -> str:
        return f"Address({self!s}, database={self.database}, tls={self.tls})"

    def __str__(self) -> str:
        """Where the server is, without credentials."""
        if self.sentinels is not None:
            return str(self.sentinels)
        return self.path or f"{self.host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, None where the address is not ``rediss://``.

        Certificates are checked unless the address says no. The same context is returned until a
        file of certificates is replaced. Raises RedisUnavailable, which names the files, for one
        that can't be loaded.
        """
        if not self.tls:
            return None
        files = {name: file for name, file in self.tls_options if name in TLS_FILES}
        try:
            versions = [_version(file) for file in (*files.values(), *_authorities(files))]
            return _context(self.tls_options, tuple(versions))
        except OSError as error:
            named = ", ".join(f"{name}={file}" for name, file in files.items())
            msg = f"REDIS_URL's certificates can't be loaded ({named}): {error.strerror or error}"
            raise RedisUnavailable(msg) from error


def _authorities(files: Mapping[str, str]) -> list[str]:
    """Return the files of the system's authorities that are used; SSL_CERT_FILE counts."""
    import ssl

    if "ssl_ca_certs" in files:
        return []
    system = ssl.get_default_verify_paths()
    return [path for path in (system.cafile, system.capath) if path]


def _version(path: str) -> tuple[int, int, int]:
    """Return what changes when a file is replaced. Raises OSError."""
    found = os.stat(path)  # noqa: PTH116 - pathlib is not worth its import here
    return found.st_ino, found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=_MOST_CONTEXTS)
def _context(
    tls_options: tuple[tuple[str, str], ...],
    _versions: tuple[tuple[int, int, int], ...],
) -> ssl.SSLContext:
    """Return the context of these options and files; all connections share it.

    To read the system's certificates takes 20 ms, in which the event loop does nothing else, and
    0.8 MB. Raises OSError for files that can't be loaded.
    """
    import ssl

    options = dict(tls_options)
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.get("ssl_check_hostname") == "false":
        context.check_hostname = False
    return context


def family_of(host: str) -> socket.AddressFamily | None:
    """Return the family of an address that is a number, None for a name."""
    number = host.partition("%")[0]  # a link-local address has its interface behind the %
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, number)
            return family
    return None
