"""A cluster of three nodes on loopback, each with a third of the slots."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from redis import Redis
from redis.crc import key_slot

from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import RedisUnavailable
from tests.support.ports import free_port
from tests.support.waiting import wait_for_servers

if TYPE_CHECKING:
    from pathlib import Path

_SLOTS = 16384
_NODES = 3
_OPTIONS = {
    "cluster-enabled": "yes",
    "cluster-config-file": "nodes.conf",
}
# A node that says nothing for so many milliseconds is down for the others. Where no replica can
# take over, the whole cluster is down with it, which a pause of the machine must not bring about.
_NODE_TIMEOUT_MS, _NODE_TIMEOUT_WITHOUT_REPLICAS_MS = 2000, 60_000
_START_TRIES = 10


def _tls_options(folder: Path) -> dict[str, str]:
    return {
        "tls-cluster": "yes",
        "tls-replication": "yes",
        "tls-cert-file": str(folder / "server.crt"),
        "tls-key-file": str(folder / "server.key"),
        "tls-ca-cert-file": str(folder / "ca.crt"),
        "tls-auth-clients": "no",
    }


class Cluster:
    """Three nodes, each with so many ``replicas``; a context manager that starts and ends them.

    With ``tls``, a folder of certificates for 127.0.0.1, it speaks nothing else but TLS.
    """

    def __init__(
        self, program: str | None = None, *, replicas: int = 0, tls: Path | None = None
    ) -> None:
        self._program = program
        self._count = _NODES * (1 + replicas)
        self._tls = tls
        timeout = _NODE_TIMEOUT_MS if replicas else _NODE_TIMEOUT_WITHOUT_REPLICAS_MS
        self._options = {**_OPTIONS, "cluster-node-timeout": str(timeout)}
        self._stack = ExitStack()
        self.servers: list[EmbeddedServer] = []
        self.nodes: list[Any] = []
        self.urls: list[str] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> None:
        for number in range(self._count):
            server, port = self._node(stack)
            self.servers.append(server)
            where = f"unix://{server.socket_path}"
            client = stack.enter_context(Redis.from_url(where, decode_responses=True))
            self.nodes.append(client)
            self.urls.append(f"redis://127.0.0.1:{port}")
            if self._tls is not None:
                self.urls[-1] = f"rediss://127.0.0.1:{port}?ssl_ca_certs={self._tls}/ca.crt"
            if number < _NODES:
                first, last = (_SLOTS * end // _NODES for end in (number, number + 1))
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            if number:
                self.nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        wait_for_servers(self._is_whole, "the cluster comes together")
        for number in range(_NODES, self._count):
            primary = self.nodes[number % _NODES].execute_command("CLUSTER", "MYID")
            self.nodes[number].execute_command("CLUSTER", "REPLICATE", primary)
        wait_for_servers(self._is_synced, "the replicas follow")

    def _node(self, stack: ExitStack) -> tuple[EmbeddedServer, int]:
        """Start a node: it and its port. That of its bus is 10,000 higher."""
        if self._tls is None:
            server = stack.enter_context(
                EmbeddedServer(options=self._options, program=self._program)
            )
            return server, server.port
        for _ in range(_START_TRIES):
            port = free_port()
            options = {**self._options, **_tls_options(self._tls), "tls-port": str(port)}
            server = EmbeddedServer(port=None, options=options, program=self._program)
            try:
                return stack.enter_context(server), port
            except RedisUnavailable as error:
                if "already in use" not in str(error):
                    raise
        msg = f"the ports of the bus of {_START_TRIES} free ports are in use"
        raise AssertionError(msg)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _is_whole(self) -> bool:
        told = [node.execute_command("CLUSTER", "INFO") for node in self.nodes]
        return all(
            "cluster_state:ok" in info and f"cluster_known_nodes:{self._count}" in info
            for info in told
        )

    def _is_synced(self) -> bool:
        return all(
            node.info("replication").get("master_link_status") == "up"
            for node in self.nodes[_NODES:]
        )

    def owner(self, key: str) -> int:
        """The number of the node that has the key's slot."""
        slot = key_slot(key.encode())
        return next(n for n in range(_NODES) if slot < _SLOTS * (n + 1) // _NODES)

    def move(self, key: str, source: int, target: int) -> None:
        """Hand the key's slot, with all that is in it, over to another node."""
        slot = key_slot(key.encode())
        ids = [node.execute_command("CLUSTER", "MYID") for node in self.nodes]
        port = urlsplit(self.urls[target]).port
        giver, taker = self.nodes[source], self.nodes[target]
        taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            giver.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        for node in (taker, giver, *self.nodes[:_NODES]):
            node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
