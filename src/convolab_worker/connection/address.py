"""Where Redis is: a REDIS_URL taken apart, and the node of a cluster that has the keys."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from convolab_worker._urls import mask_url, parse_redis_url
from convolab_worker.errors import ConfigurationError, RedisUnavailable

if TYPE_CHECKING:
    import ssl

    from convolab_worker.connection.unanswered import Unanswered
    from convolab_worker.errors import RedisRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A Redis server and the credentials for it; its repr shows no password."""

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls_options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take a REDIS_URL apart. Raises ConfigurationError, which shows no password.

        Settings have checked theirs by the same rules: theirs never raises here.
        """
        try:
            return cls(**parse_redis_url(url))
        except ValueError as error:
            msg = f"REDIS_URL={mask_url(url)!r}: expected {error}"
            raise ConfigurationError(msg) from None

    def __str__(self) -> str:
        """Where the server is, without credentials."""
        return self.path or f"{self.host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, None where the address is not ``rediss://``.

        Certificates are checked unless the address says no. Raises RedisUnavailable, which names
        the files, for one that can't be loaded.
        """
        if not self.tls:
            return None
        import ssl

        options = dict(self.tls_options)
        try:
            context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
            if "ssl_certfile" in options:
                context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        except OSError as error:
            files = ", ".join(f"{name}={file}" for name, file in options.items() if "/" in file)
            msg = f"REDIS_URL's certificates can't be loaded ({files}): {error.strerror or error}"
            raise RedisUnavailable(msg) from error
        if options.get("ssl_cert_reqs") == "none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif options.get("ssl_check_hostname") == "false":
            context.check_hostname = False
        return context


class Route:
    """Where the server is now: in a cluster the node that has the keys, elsewhere the ``address``.

    The connections of one worker share it, so that one of them finds the node for all.
    """

    def __init__(self, address: Address) -> None:
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
        """Go back to the first address: another node may have the keys of one that is gone."""
        self.address = self._first


# Nodes that send a client to and fro, so often in so many seconds, disagree: that is an error.
_MOST_MOVES, _MOVE_SECONDS = 5, 1.0


class Redirects:
    """The ``commands`` that a node has sent on, to be sent again to the node that it named."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._moved_at: deque[float] = deque(maxlen=_MOST_MOVES)
        self.commands: list[Unanswered] = []

    def take(self, error: RedisRefused, command: Unanswered, now: float) -> bool:
        """Keep the command, and point the route at the node, if the error names another one."""
        text = str(error)
        if not text.startswith("MOVED "):
            return False
        if not self.commands:
            moved_at = self._moved_at
            if len(moved_at) == _MOST_MOVES and now - moved_at[0] < _MOVE_SECONDS:
                return False
            moved_at.append(now)
        self._route.follow(text.rsplit(maxsplit=1)[-1])
        self.commands.append(command)
        return True

    def release(self) -> list[Unanswered]:
        commands, self.commands = self.commands, []
        return commands
