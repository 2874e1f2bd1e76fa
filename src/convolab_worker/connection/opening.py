"""How a connection is opened: a socket that notices a dead peer, then the handshake."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convolab_worker.connection.error_replies import explain
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import RedisRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.connection.address import Address

# A peer that vanished without a word is noticed after 15 + 3 x 5 s, at no billed command.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_KEEPALIVE_USER_TIMEOUT_MS = 30_000


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """A connection as the server names it.

    The address tells connections apart whose ids are the same: a restarted server reuses ids.
    """

    id: int
    address: str

    @classmethod
    def read(cls, info: bytes) -> ClientIdentity | None:
        fields = dict(part.partition("=")[::2] for part in info.decode("utf-8", "replace").split())
        if not fields.get("id", "").isdecimal() or not fields.get("addr"):
            return None
        return cls(int(fields["id"]), fields["addr"])


async def dial(address: Address, protocol: asyncio.Protocol) -> None:
    """Connect the protocol to the address. Raises OSError, and RedisUnavailable for bad TLS."""
    loop = asyncio.get_running_loop()
    if address.path is not None:
        await loop.create_unix_connection(lambda: protocol, address.path)
        return
    context = address.ssl_context()
    transport, _ = await loop.create_connection(
        lambda: protocol, address.host, address.port, ssl=context
    )
    _keep_alive(transport.get_extra_info("socket"))


def _keep_alive(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _KEEPALIVE_USER_TIMEOUT_MS)


async def shake_hands(
    call: Callable[..., asyncio.Future[Any]],
    address: Address,
    *,
    identify: bool,
    name: str | None,
    stale: ClientIdentity | None,
) -> ClientIdentity | None:
    """Log in, select the database, and return how the server names this connection.

    A server that can't tell, or takes no name, is no obstacle. ``stale`` is an earlier connection,
    which is killed on the server. Raises RedisRefused and ReplyLost.
    """
    required: list[asyncio.Future[Any]] = []
    if address.username is not None:
        credentials = (address.username, address.password or "")
        required.append(call(Purpose.CONNECT, "AUTH", *credentials))
    elif address.password is not None:
        required.append(call(Purpose.CONNECT, "AUTH", address.password))
    if address.database:
        required.append(call(Purpose.CONNECT, "SELECT", address.database))
    optional = []
    if identify:
        optional.append(call(Purpose.CONNECT, "CLIENT", "INFO"))
    if name is not None:
        optional.append(call(Purpose.CONNECT, "CLIENT", "SETNAME", name))
    if stale is not None:
        which = ("ID", stale.id, "ADDR", stale.address)
        optional.append(call(Purpose.CONNECT, "CLIENT", "KILL", *which))
    answers = await asyncio.gather(*required, *optional, return_exceptions=True)
    for answer in answers[: len(required)]:
        if isinstance(answer, BaseException):
            raise answer
    first = answers[len(required)] if optional else None
    if isinstance(first, BaseException) and not _is_unsupported(first):
        raise first
    return ClientIdentity.read(first) if isinstance(first, bytes) else None


def _is_unsupported(error: BaseException) -> bool:
    """Whether the server, or the user's ACL, lacks a command; any other error is an obstacle."""
    text = str(error).lower()
    unsupported = "unknown" in text or "noperm" in text or "not supported" in text
    return isinstance(error, RedisRefused) and unsupported


def why_not_open(error: OSError | RedisRefused, where: str, timeout: float) -> str:
    """Return one sentence for an operator: why Redis at ``where`` could not be connected to."""
    if isinstance(error, RedisRefused):
        return explain(str(error), where)
    if isinstance(error, TimeoutError):
        return f"Redis at {where} did not answer within {timeout:g} s"
    return f"Redis at {where} can't be reached: {error.strerror or error}"
