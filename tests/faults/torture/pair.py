"""A primary and its replica behind one address, which moves when they change places.

Nothing is lost on the way: the primary's writes are paused until its replica has them all. So the
account need not ask which jobs were lost by replication; ``test_failovers.py`` does.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from redis import Redis
from redis.exceptions import RedisError

from tests.support.proxy import TcpProxy
from tests.support.server import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_REPLICATION = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
_PAUSE_MS = 20_000
_PATIENCE_SECONDS = 60.0


class Pair:
    """Two servers with their data in ``folder``; a context manager that starts and ends them."""

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self._servers = [
            ServerProcess(data_dir=folder / name, options={**_REPLICATION, **options})
            for name in ("first", "second")
        ]
        self._clients: list[Any] = []
        self._primary = 0
        self._stack = ExitStack()
        self._door = TcpProxy(0)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self._servers:
                stack.enter_context(server)
                client = Redis.from_url(server.url, decode_responses=True)
                self._clients.append(stack.enter_context(client))
            stack.enter_context(self._door)
            self._stack = stack.pop_all()
        self._follow(1)
        self._door.lead_to(self.primary.port)
        self._await_replica()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """The address that leads to the primary, in the form that REDIS_URL takes."""
        return self._door.url

    @property
    def port(self) -> int:
        """The port of that address."""
        return self._door.port

    @property
    def primary(self) -> ServerProcess:
        """The server that is the primary now."""
        return self._servers[self._primary]

    def demote(self) -> None:
        """Make the primary its replica's replica, and leave all connections to it open."""
        old = self._promote()
        self._follow(old)
        self._clients[old].client_unpause()
        self._await_replica()

    def bury(self) -> None:
        """Kill the primary once its replica has everything, and start it again as the replica."""
        old = self._promote(kill=True)
        self._servers[old].start()
        self._follow(old)
        self._await_replica()

    def _promote(self, *, kill: bool = False) -> int:
        """Let the replica take over; return the place of the one that was the primary."""
        old, new = self._primary, 1 - self._primary
        self._await_replica()
        self._clients[old].client_pause(_PAUSE_MS, all=False)
        written = self._told(old)["master_repl_offset"]
        _until(lambda: self._told(new)["slave_repl_offset"] >= written, "the replica has it all")
        if kill:
            self._servers[old].kill()
        self._clients[new].replicaof("NO", "ONE")
        self._primary = new
        self._door.lead_to(self.primary.port)
        return old

    def _follow(self, place: int) -> None:
        _until(
            lambda: self._clients[place].replicaof("127.0.0.1", str(self.primary.port)),
            "the replica is told whom to follow",
        )

    def _told(self, place: int) -> dict[str, Any]:
        told: dict[str, Any] = self._clients[place].info("replication")
        return told

    def _await_replica(self) -> None:
        replica = 1 - self._primary
        _until(lambda: self._told(replica)["master_link_status"] == "up", "the replica follows")


def _until(predicate: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with suppress(RedisError, KeyError):
            if predicate():
                return
        assert time.monotonic() < deadline, f"{what}: not within {_PATIENCE_SECONDS:g} s"
        time.sleep(0.01)
