"""Binds the sockets that a server of ours listens on.

A command does this before it imports anything else that takes long: a request that comes while the
process starts waits in the kernel, and is answered, instead of being refused.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from convolab_worker._logs import Log
from convolab_worker.connection.forking import keep_from_forks
from convolab_worker.errors import ConfigurationError
from convolab_worker.server.gate.auth import authorization

if TYPE_CHECKING:
    from convolab_worker.settings import Settings

_log = Log()
# Connections that wait to be accepted, without a descriptor: a client whose packet finds no place
# there tries again after a second, which is too late for a probe.
_BACKLOG = 1024


def is_public(settings: Settings, *, insecure: bool) -> bool:
    """Whether a worker's server listens beyond loopback: it checks its callers, or need not.

    Raises ConfigurationError if what the settings say of callers does not fit together.
    """
    return insecure or settings.k_service is not None or not authorization(settings).is_open


def wake_sockets(settings: Settings, *, insecure: bool) -> list[socket.socket]:
    """Listen where a worker's server does.

    Raises ConfigurationError if the port is taken.
    """
    public = is_public(settings, insecure=insecure)
    return listening_sockets(settings.host, settings.port, is_public=public)


def listening_sockets(host: str | None, port: int, *, is_public: bool) -> list[socket.socket]:
    """Listen on both families, everywhere or on loopback, or on the addresses of ``host``.

    A machine may have one family only. Other software sets HOST, too: a value that is not an
    address of this machine is logged, and ignored.
    """
    if host is not None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return _bound([address[4][0] for address in found], port)
        except (OSError, ConfigurationError) as error:
            _log.warning("server.host_ignored", host=host, error=str(error))
    return _bound(["0.0.0.0", "::"] if is_public else ["127.0.0.1", "::1"], port)  # noqa: S104


def host_of(sock: socket.socket) -> str:
    """Return the address that it listens on, as a ``Host`` header has it."""
    host: str = sock.getsockname()[0]
    return f"[{host}]" if ":" in host else host


def _bound(hosts: list[Any], port: int) -> list[socket.socket]:
    socks: list[socket.socket] = []
    for host in dict.fromkeys(hosts):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            if socks:  # the machine lacks the family, or the port is taken
                continue
            msg = f"PORT={port}: expected a port that is free on {host}: {error.strerror}"
            raise ConfigurationError(msg) from None
        keep_from_forks(sock)
        socks.append(sock)
        port = sock.getsockname()[1]  # the same port for all
    return socks
