"""How a connection is opened: a socket that notices a dead peer, then the handshake."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from convolab_worker.connection.address import family_of
from convolab_worker.connection.commands.error_replies import cannot_serve, explain
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.connection.forking import keep_from_forks
from convolab_worker.errors import RedisRefused, ReplyLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohappyeyeballs import AddrInfoType

    from convolab_worker.connection.address import Address

# A peer that vanished without a word is noticed after 15 + 3 x 5 s, at no billed command.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_KEEPALIVE_USER_TIMEOUT_MS = 30_000
# How long one address of a name has for its answer, before the next one is tried as well.
_NEXT_ADDRESS_SECONDS = 0.25
# Changes nothing, since nobody has its key; a server that refuses writes refuses it.
_HARMLESS_WRITE = "PERSIST"


class ClientIdentity(Struct, frozen=True):
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


async def dial(address: Address, protocol: asyncio.BaseProtocol) -> None:
    """Connect the protocol to the address. Raises OSError, and RedisUnavailable for bad TLS.

    Every address of the name is tried, a further one every quarter of a second, until one answers
    (RFC 8305). So an address that leads nowhere costs no time-out.
    """
    loop = asyncio.get_running_loop()
    if address.path is not None:
        sock = await _dialled(socket.AF_UNIX, socket.SOCK_STREAM, 0, address.path, loop)
        try:
            await loop.create_unix_connection(lambda: protocol, sock=sock)
        except BaseException:
            sock.close()
            raise
        return
    context = address.ssl_context()
    name = None if context is None else address.tls_name or address.host
    sock = await _connected_socket(await _addresses(loop, address.host, address.port), loop)
    try:
        _keep_alive(sock)
        await loop.create_connection(lambda: protocol, sock=sock, ssl=context, server_hostname=name)
    except BaseException:
        sock.close()
        raise


async def _addresses(
    loop: asyncio.AbstractEventLoop, host: str, port: int
) -> Sequence[AddrInfoType]:
    """Return every address that a name has now. Raises OSError."""
    family = family_of(host)
    if family is not None:
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    try:
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except RuntimeError as error:  # names are looked up in a thread
        msg = f"its name can't be looked up: {error}"
        raise OSError(msg) from error


async def _connected_socket(
    found: Sequence[AddrInfoType], loop: asyncio.AbstractEventLoop
) -> socket.socket:
    if len(found) > 1:
        from aiohappyeyeballs import start_connection  # takes time to load

        sock = await start_connection(
            found, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS, interleave=1
        )
        keep_from_forks(sock)
        return sock
    family, kind, protocol, _, where = found[0]
    return await _dialled(family, kind, protocol, where, loop)


async def _dialled(
    family: int, kind: int, protocol: int, where: Any, loop: asyncio.AbstractEventLoop
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        keep_from_forks(sock)
        sock.setblocking(False)  # noqa: FBT003 - its only argument
        await loop.sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _keep_alive(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _KEEPALIVE_USER_TIMEOUT_MS)


class Handshake(Struct, frozen=True, kw_only=True):
    """What a new connection says first. Each part is one billed command.

    ``identify`` asks how the server names the connection, ``name`` gives it a name, ``stale`` is an
    earlier connection, which is killed on the server. ``written_key``, a key that nobody has, asks
    whether the server takes writes; ``learn_nodes`` asks where a cluster's nodes are.
    """

    identify: bool
    name: str | None = None
    stale: ClientIdentity | None = None
    written_key: str | None = None
    learn_nodes: bool = False


class Welcome(Struct, frozen=True):
    """What a server has answered: how it names the connection, and which nodes its cluster has."""

    identity: ClientIdentity | None
    nodes: tuple[tuple[str, int], ...] = ()


async def shake_hands(
    call: Callable[..., asyncio.Future[Any]], address: Address, wanted: Handshake
) -> Welcome:
    """Log in, select the database, and send what is ``wanted``.

    A server that does not know one of these commands, or takes no name, is used all the same.
    Raises RedisRefused and ReplyLost.
    """
    credentials = log_in(address.username, address.password)
    required = [call(Purpose.CONNECT, *command) for command in credentials]
    if address.database:
        required.append(call(Purpose.CONNECT, "SELECT", address.database))
    info = kill = write = nodes = None
    if wanted.identify:
        info = call(Purpose.CONNECT, "CLIENT", "INFO")
    if wanted.name is not None:
        call(Purpose.CONNECT, "CLIENT", "SETNAME", wanted.name)
    if wanted.stale is not None:
        which = ("ID", wanted.stale.id, "ADDR", wanted.stale.address)
        kill = call(Purpose.CONNECT, "CLIENT", "KILL", *which)
    if wanted.written_key is not None:
        write = call(Purpose.CONNECT, _HARMLESS_WRITE, wanted.written_key)
    if wanted.learn_nodes:
        nodes = call(Purpose.CONNECT, "CLUSTER", "SLOTS")
    optional = [answer for answer in (info, kill, write, nodes) if answer is not None]
    answers = await asyncio.gather(*required, *optional, return_exceptions=True)
    for place, answer in enumerate(answers):
        if isinstance(answer, BaseException) and (place < len(required) or _is_obstacle(answer)):
            raise answer
    return Welcome(
        None if info is None or info.exception() else ClientIdentity.read(info.result()),
        () if nodes is None or nodes.exception() else _nodes_in(nodes.result()),
    )


def log_in(username: str | None, password: str | None) -> list[tuple[str, ...]]:
    """Return the command that logs in; none if there are no credentials."""
    if username is not None:
        return [("AUTH", username, password or "")]
    return [] if password is None else [("AUTH", password)]


def _nodes_in(slots: Any) -> tuple[tuple[str, int], ...]:
    """Return the nodes of ``CLUSTER SLOTS``, primaries first: only they can serve now."""
    nodes = [[node for node in part[2:] if node[0]] for part in slots]
    primaries = [part[0] for part in nodes if part]
    replicas = [node for part in nodes for node in part[1:]]
    return tuple((node[0].decode(), int(node[1])) for node in [*primaries, *replicas])


def _is_obstacle(error: BaseException) -> bool:
    """Whether an answer of the handshake says that the connection can't be used.

    A server, or the user's ACL, may lack a command. A key of another node is that node's.
    """
    if not isinstance(error, RedisRefused) or cannot_serve(str(error)):
        return True
    text = str(error).lower()
    return not any(word in text for word in _NO_OBSTACLES)


# How servers refuse a command that they do not have, that is forbidden, or that makes no sense
# there.
_NO_OBSTACLES = (
    "unknown",
    "noperm",
    "not supported",
    "moved ",
    "ask ",
    "no such client",
    "cluster",
)


def why_not_open(
    error: OSError | RedisRefused | ReplyLost, address: Address, timeout: float, *, is_first: bool
) -> str:
    """Return one sentence for an operator: why Redis there could not be connected to.

    ``is_first`` says that no attempt has succeeded yet: then the address may be wrong.
    """
    where = str(address)
    if isinstance(error, RedisRefused):
        return explain(str(error), where)
    if isinstance(error, ReplyLost):
        hint = f": {_TLS_WANTED}" if is_first and not (address.tls or address.path) else ""
        return f"Redis at {where} ended the connection before it was open ({error}){hint}"
    if isinstance(error, ConnectionRefusedError):
        hint = f": {_SERVER_WANTED}" if is_first else ""
        return f"Redis at {where} can't be reached, nothing listens there{hint}"
    hint = f"; {_NO_TLS_WANTED}" if is_first and address.tls else ""
    if isinstance(error, TimeoutError):
        return f"Redis at {where} did not answer within {timeout:g} s{hint}"
    if type(error).__name__ in {"SSLCertVerificationError", "CertificateError"}:
        return f"the certificate of Redis at {where} is not trusted: {error}"
    if not type(error).__name__.startswith("SSL") and not isinstance(error, ConnectionResetError):
        hint = ""
    return f"Redis at {where} can't be reached: {error.strerror or error}{hint}"


_SERVER_WANTED = "start a server, or set REDIS_URL to the address of one"
_TLS_WANTED = "if that port speaks TLS, write rediss:// instead of redis://"
_NO_TLS_WANTED = "if that port does not speak TLS, write redis:// instead of rediss://"
