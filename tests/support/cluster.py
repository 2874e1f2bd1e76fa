"""A cluster of three nodes on loopback, each with a third of the slots."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from redis import Redis
from redis.crc import key_slot

from convolab_worker.embedded import EmbeddedServer

if TYPE_CHECKING:
    from types import TracebackType

_SLOTS = 16384
_NODES = 3
_PATIENCE_SECONDS = 30.0
_OPTIONS = {
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
    "cluster-node-timeout": "2000",
}


class Cluster:
    """Three nodes; a context manager that starts and ends them."""

    def __init__(self, program: str | None = None) -> None:
        self._program = program
        self._stack = ExitStack()
        self.nodes: list[Any] = []
        self.urls: list[str] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> None:
        for number in range(_NODES):
            node = EmbeddedServer(options=_OPTIONS, program=self._program)
            server = stack.enter_context(node)
            client = stack.enter_context(Redis.from_url(server.url, decode_responses=True))
            first, last = (_SLOTS * end // _NODES for end in (number, number + 1))
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            self.urls.append(server.url)
            self.nodes.append(client)
            if number:
                self.nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._is_whole():
            assert time.monotonic() < deadline, "the cluster did not come together"
            time.sleep(0.05)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _is_whole(self) -> bool:
        told = [node.execute_command("CLUSTER", "INFO") for node in self.nodes]
        return all(
            "cluster_state:ok" in info and f"cluster_known_nodes:{_NODES}" in info for info in told
        )

    def owner(self, key: str) -> int:
        """The number of the node that has the key's slot."""
        slot = key_slot(key.encode())
        return next(n for n in range(_NODES) if slot < _SLOTS * (n + 1) // _NODES)

    def move(self, key: str, source: int, target: int) -> None:
        """Hand the key's slot, with all that is in it, over to another node."""
        slot = key_slot(key.encode())
        ids = [node.execute_command("CLUSTER", "MYID") for node in self.nodes]
        port = self.urls[target].rpartition(":")[2]
        giver, taker = self.nodes[source], self.nodes[target]
        taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            giver.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        for node in (taker, giver, *self.nodes):
            node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
