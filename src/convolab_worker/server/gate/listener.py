"""Accepts connections, as many as there are descriptors for; ``connections`` decides which.

Its own loop accepts them one at a time, so that each error of the operating system is logged once,
and a flood takes no descriptor beyond the limit.
"""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import web
from multidict import CIMultiDictProxy

from convolab_worker._logs import Log
from convolab_worker.connection.forking import keep_from_forks
from convolab_worker.server.gate.connections import SPARE_PLACES, Activity, ConnectionTable
from convolab_worker.server.gate.http_connection import HttpConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from convolab_worker.server.gate.gate import Gate

# The most connections, and the descriptors that this server asks for; half of these are for
# handlers.
_MAX_CONNECTIONS = 1000
_DESCRIPTORS = 4096
# How many are accepted in one turn of the loop; those dropped for them are closed in the next.
_AT_ONCE = 16
_FEWEST_CONNECTIONS = 8
# The share of the connections that one peer may have, where peers are clients.
_SHARE = 0.5
_SWEEP_SECONDS = 0.5
# The pause after the operating system refused to accept and nobody could be dropped.
_ACCEPT_PAUSE_SECONDS = 0.2
# How long answers may take when the server closes.
_LAST_ANSWERS_SECONDS = 0.5

_log = Log()


def connection_limit() -> int:
    """Return how many connections may be open; the soft limit of descriptors is raised for them.

    Half of the descriptors are left for the worker and its handlers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError) as error:
            _log.debug("server.descriptors", wanted=wanted, error=str(error))
        else:
            soft = wanted
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    ours = soft // 2 - SPARE_PLACES - _AT_ONCE
    return max(min(ours, _MAX_CONNECTIONS), _FEWEST_CONNECTIONS)


class Listener:
    """Serves ``app`` on bound sockets, behind ``gate``.

    ``shares``: each peer is a client of its own, so that none may have more than half.
    """

    def __init__(self, app: web.Application, gate: Gate, *, shares: bool) -> None:
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,  # a client that hangs up gives up its held request
            shutdown_timeout=_LAST_ANSWERS_SECONDS,
        )
        self._gate = gate
        self._traffic = gate.traffic
        self._traffic.limit = connection_limit()
        self._table: ConnectionTable[HttpConnection] = ConnectionTable(
            self._traffic.limit, share=_SHARE if shares else 1.0
        )
        self._tasks: list[asyncio.Task[NoReturn]] = []
        self._connecting: set[asyncio.Task[None]] = set()

    async def open(self, socks: Iterable[socket.socket]) -> None:
        """Start to accept connections."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None  # noqa: S101 - set up above
        server.request_factory = _taking_up(server.request_factory)
        self._tasks = [asyncio.create_task(self._sweep(), name="convolab-connections")]
        for sock in socks:
            sock.setblocking(False)  # noqa: FBT003 - the socket's way
            accepting = self._accept(sock, server)
            self._tasks.append(asyncio.create_task(accepting, name="convolab-accept"))
        for task in self._tasks:
            task.add_done_callback(_log_death)

    async def close(self) -> None:
        """Stop accepting, let answers that are being sent finish, and close every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()

    def moved(self, connection: HttpConnection, activity: Activity) -> None:
        """Note that a connection does something else now."""
        self._table.move(connection, activity, asyncio.get_running_loop().time())

    def lost(self, connection: HttpConnection) -> None:
        """Forget a connection, which is closed."""
        self._table.remove(connection)
        self._traffic.connections = len(self._table)

    async def _accept(self, sock: socket.socket, server: web.Server) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(_AT_ONCE):
                try:
                    accepted, address = await loop.sock_accept(sock)
                except ConnectionError:  # the client has gone before it was accepted
                    continue
                except OSError as error:
                    await self._make_room(error)
                    continue
                keep_from_forks(accepted)
                self._place(accepted, str(address[0]), server)
            await asyncio.sleep(0)  # let the open connections have their turn

    def _place(self, accepted: socket.socket, peer: str, server: web.Server) -> None:
        placement = self._table.place(peer)
        if placement.drop is not None:
            self.drop(placement.drop, "crowded")
        if placement.drop is not None or placement.probes_only:
            self._traffic.note(
                "server.crowded", peer=peer, connections=len(self._table), limit=self._table.limit
            )
        connection = HttpConnection(
            server, self, self._gate, peer, probes_only=placement.probes_only
        )
        now = asyncio.get_running_loop().time()
        self._table.add(connection, peer, now, is_spare=placement.probes_only)
        self._traffic.connections = len(self._table)
        connecting = asyncio.create_task(self._connect(connection, accepted))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: HttpConnection, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        except OSError:
            accepted.close()
            self.lost(connection)

    async def _make_room(self, error: OSError) -> None:
        """The operating system has no descriptor left: drop a waiting connection, or pause."""
        self._traffic.note(
            "server.accept_failed", error=error.strerror, connections=len(self._table)
        )
        victim = self._table.droppable()
        if victim is not None:
            self.drop(victim, "descriptors")
            await asyncio.sleep(0)  # its descriptor is closed in the loop's next turn
        else:
            await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)

    def drop(self, connection: HttpConnection, reason: str) -> None:
        """Close the connection, and count why."""
        self._table.remove(connection)
        self._traffic.dropped[reason] += 1
        connection.drop()

    async def _sweep(self) -> NoReturn:
        """Drop connections that take too long, and log the summaries of repeated events."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection, reason in self._table.overdue(now):
                self.drop(connection, reason)
            for connection in self._table.all():
                if connection.is_unread(now):
                    self.drop(connection, "unread")
            self._traffic.summarise()


def _log_death(task: asyncio.Task[NoReturn]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("server.failed", exc_info=error)


def _taking_up(make_request: Any) -> Any:
    """Wrap aiohttp's factory of requests: tell the connection, and take Expect headers out.

    aiohttp would answer those before the gate.
    """

    def make(message: Any, payload: Any, protocol: HttpConnection, *more: Any) -> web.BaseRequest:
        expected = []
        if "Expect" in message.headers:
            headers = message.headers.copy()
            expected = headers.popall("Expect")
            message = message._replace(headers=CIMultiDictProxy(headers))
        request: web.BaseRequest = make_request(message, payload, protocol, *more)
        protocol.takes_up(request, expected)
        return request

    return make
