"""Where the server is now: the source says so at each connect, and a cluster's nodes after that.

The connections of a worker, or of a client, share a route. What one of them learns is true for all:
where a cluster's keys are, and that a server can't serve any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from msgspec.structs import replace

from convolab_worker._logs import Log
from convolab_worker.connection.address import family_of
from convolab_worker.connection.source import ServerSource
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convolab_worker.connection.address import Address
    from convolab_worker.connection.commands.unanswered import Unanswered
    from convolab_worker.connection.sentinel import Primary
    from convolab_worker.errors import RedisRefused


_log = Log()
# How often Sentinels are asked whether the primary is still the same. A primary that they have
# replaced takes writes for some ten seconds more, and all of these are lost.
_SENTINEL_SECONDS = 1.0


class RouteUser(Protocol):
    """What uses a route: a connection, or what waits for one."""

    def leave(self, epoch: int, reason: str) -> None:
        """Give up the connection if it was made before ``epoch``; from any thread."""


class Route:
    """Where the server is now: in a cluster the node that has the keys, elsewhere the source's.

    ``address`` is where the last connection went. A key ``prefix`` with a hash tag is for a
    cluster. ``epoch`` counts how often the server was found unable to serve. After that each new
    connection checks its server, until one has found one that can. ``replaced`` counts how often
    the Sentinels have named another primary. Connections of several threads may share a route.
    """

    def __init__(self, source: ServerSource | Address, *, prefix: str = "convolab_worker") -> None:
        self.source = source if isinstance(source, ServerSource) else ServerSource(source)
        self.address = self.source.address
        self.is_cluster = "{" in prefix
        self.probed_key = f"{prefix}:can-you-write"
        self._node: tuple[str, int] | None = None
        self._primary: Primary | None = None  # the one that the Sentinels named last
        self.replaced = 0
        self._nodes: deque[tuple[str, int]] = deque()
        self._users: WeakSet[RouteUser] = WeakSet()
        self._lock = threading.Lock()
        self.epoch = 0
        self._served_in = 0
        self.credentials: tuple[str | None, str | None] = (None, None)
        self.login = 0  # how often the credentials have changed

    async def locate(self) -> Address:
        """Return where to connect to now, with the current credentials. Raises RedisUnavailable."""
        node = self._node
        address = await self.source.with_credentials()
        self._learn_credentials(address)
        if node is not None:
            address = self._at(address, *node)
        elif (primary := await self._find_primary()) is not None:
            address = replace(address, host=primary.host, port=primary.port, sentinels=None)
        self.address = address
        return address

    async def _find_primary(self) -> Primary | None:
        """Ask the Sentinels, if there are any; if they name another primary, all connections leave.

        An older answer than the known one is not believed while the known primary serves: the
        Sentinel that knows more may have been too slow to answer.
        """
        while True:
            known = self._primary
            primary = await self.source.primary(known)
            with self._lock:
                if known != self._primary:
                    continue  # another caller has heard of a newer one meanwhile
                if primary is None:
                    return None
                if known is not None and primary.config_epoch < known.config_epoch:
                    return known
                self._primary = primary
                if known is None or primary.is_at(known):
                    return primary
                self.replaced += 1
            _log.warning("redis.primary_replaced", was=str(known), now=str(primary))
            self._leave(self.epoch, f"the Sentinels name another primary, {primary}")
            return primary

    @property
    def may_be_replaced(self) -> bool:
        """Whether Sentinels have to be asked if the primary is still the same."""
        return self.source.address.sentinels is not None

    async def watch_primary(self) -> None:
        """Ask the Sentinels again and again; all connections leave if they name another primary."""
        while True:
            await asyncio.sleep(_SENTINEL_SECONDS)
            with contextlib.suppress(RedisUnavailable):  # no Sentinel answers: nothing is known
                await self._find_primary()

    async def refresh_credentials(self) -> bool:
        """Ask for the credentials; return whether they have changed. Raises RedisUnavailable."""
        before = self.login
        self._learn_credentials(await self.source.with_credentials())
        return self.login != before

    def _learn_credentials(self, address: Address) -> None:
        given = address.username, address.password
        if given != self.credentials:
            self.credentials = given
            self.login += 1

    def follow(self, where: str) -> None:
        """Go to ``HOST:PORT``, which a node has named; no host means the host of that node."""
        host, _, port = where.rpartition(":")
        if port.isdecimal():
            self._node = host.strip("[]") or self.address.host, int(port)
            self.address = self._at(self.address, *self._node)

    def _at(self, address: Address, host: str, port: int) -> Address:
        return replace(
            address, host=host, port=port, path=None, tls_name=_tls_name(self.source.address, host)
        )

    def learn(self, nodes: Iterable[tuple[str, int]]) -> None:
        """Remember where a cluster's nodes are, for when the one in use is gone."""
        self._nodes = deque(dict.fromkeys(nodes))

    def fall_back(self) -> None:
        """Leave a node that can't be reached: the source's address is next, then other nodes.

        Another node has the keys of one that is gone, or knows which node has them.
        """
        self._believe_any()
        if self._node is None and self._nodes:
            self._node = self._nodes[0]
            self._nodes.rotate(-1)
        else:
            self._node = None

    def _believe_any(self) -> None:
        """Believe the Sentinels' next answer: if they were set up anew, they count from 0 again."""
        if (primary := self._primary) is not None:
            self._primary = primary._replace(config_epoch=0)

    # servers that can't serve

    def join(self, user: RouteUser) -> None:
        """Have a connection told when its server is found unable to serve."""
        with self._lock:
            self._users.add(user)

    @property
    def is_unchecked(self) -> bool:
        """Whether a new connection has to check that its server can serve."""
        return self._served_in < self.epoch

    def note_serving(self, epoch: int) -> None:
        """A server that was connected to in this ``epoch`` can serve."""
        self._served_in = max(self._served_in, epoch)

    def give_up_server(self, seen_in: int, reason: str) -> bool:
        """The server of the epoch ``seen_in`` can't serve: all connections leave it.

        Returns False if that was known, and they have left it already.
        """
        self._believe_any()
        return self._leave(seen_in, reason)

    def _leave(self, seen_in: int, reason: str) -> bool:
        with self._lock:
            if seen_in < self.epoch:
                return False
            self.epoch += 1
            epoch, users = self.epoch, list(self._users)
        if self.is_cluster:
            self.fall_back()
        else:
            self._node = None
        for user in users:
            user.leave(epoch, reason)
        return True


def _tls_name(configured: Address, host: str) -> str | None:
    """Return what the certificate of a node without a name has to be for; None for other nodes."""
    return None if family_of(host) is None else configured.tls_name or configured.host


# If nodes send a client to and fro so often in so many seconds, they disagree: an error.
_MOST_MOVES, _MOVE_SECONDS = 5, 1.0


class Redirects:
    """The ``commands`` that a node refused with MOVED, to be sent again to the node it named."""

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
