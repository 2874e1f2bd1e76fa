"""A primary with replicas, and Sentinels that watch over them, on loopback."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from redis import Redis
from redis.exceptions import ResponseError

from convolab_worker.embedded import EmbeddedServer, _find_program
from tests.support.ports import free_port
from tests.support.server import server_program
from tests.support.waiting import wait_for_servers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MASTER = "the-primary"
_OPTIONS = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}


class Replicas:
    """A primary and its replicas; a context manager that starts and ends them."""

    def __init__(self, replicas: int = 2, options: Mapping[str, str] | None = None) -> None:
        self._count = 1 + replicas
        self._options = {**_OPTIONS, **(options or {})}
        self._stack = ExitStack()
        self.servers: list[EmbeddedServer] = []
        self.clients: list[Any] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for _ in range(self._count):
                server = EmbeddedServer(options=self._options, program=server_program())
                self.servers.append(stack.enter_context(server))
                client = Redis.from_url(server.url, decode_responses=True)  # it may be restarted
                self.clients.append(stack.enter_context(client))
            for client in self.clients[1:]:
                client.replicaof("127.0.0.1", str(self.servers[0].port))
            for place in range(1, self._count):
                self.await_sync(place)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def await_sync(self, place: int) -> None:
        """Wait until a replica has what its primary has."""
        wait_for_servers(
            lambda: self.clients[place].info("replication").get("master_link_status") == "up",
            f"server {place} follows",
        )

    def await_written(self, primary: int) -> None:
        """Wait until all the others have what the primary has now."""
        written = self.clients[primary].info("replication")["master_repl_offset"]
        others = [client for place, client in enumerate(self.clients) if place != primary]
        wait_for_servers(
            lambda: all(
                client.info("replication")["slave_repl_offset"] >= written for client in others
            ),
            "the replicas have it all",
        )

    def all_follow(self, primary: int) -> bool:
        """Whether all the others have what the primary had when they began to follow it."""
        others = [client for place, client in enumerate(self.clients) if place != primary]
        told = [client.info("replication") for client in others]
        return all(
            each.get("master_port") == self.servers[primary].port
            and each["master_link_status"] == "up"
            for each in told
        )

    def hand_over(self, old: int, new: int) -> None:
        """Make a replica the primary, once it has everything; the old one follows it."""
        self.await_written(old)
        self.clients[new].replicaof("NO", "ONE")
        self.demote(old, new)

    def demote(self, old: int, new: int) -> None:
        """Make a server the replica of another one; its connections stay open."""
        self.clients[old].replicaof("127.0.0.1", str(self.servers[new].port))

    def place_of(self, port: int) -> int:
        """The place of the server with that port."""
        return next(n for n, server in enumerate(self.servers) if server.port == port)


class SentinelProcesses:
    """Three Sentinels that watch ``replicas``; a context manager that starts and ends them."""

    def __init__(
        self,
        replicas: Replicas,
        folder: Path,
        *,
        password: str | None = None,
        down_after: float = 0.5,
    ) -> None:
        """``down_after`` so many seconds a server that does not answer is down for them."""
        self._down_after = down_after
        self._replicas = replicas
        self._folder = folder
        self._password = password
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()
        self.ports: list[int] = []
        self.clients: list[Any] = []

    @property
    def nodes(self) -> str:
        """The Sentinels as an address lists them."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._end)
            self.ports = [free_port() for _ in range(3)]
            for port in self.ports:
                self._processes.append(self._start(port))
                client = Redis(port=port, password=self._password, decode_responses=True)
                self.clients.append(stack.enter_context(client))
            wait_for_servers(self._are_ready, "the Sentinels know each other")
            for client in self.clients:
                # One that has stood still for two seconds does nothing else for thirty; before
                # Redis 7 that can't be set.
                with suppress(ResponseError):
                    client.execute_command("SENTINEL", "DEBUG", "TILT-TRIGGER", 60_000)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        primary = self._replicas.servers[0].port
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"sentinel monitor {MASTER} 127.0.0.1 {primary} 2",
            f"sentinel down-after-milliseconds {MASTER} {self._down_after * 1000:.0f}",
            f"sentinel failover-timeout {MASTER} 3000",
        ]
        if self._password is not None:
            lines += [
                f"requirepass {self._password}",
                f"sentinel sentinel-pass {self._password}",
            ]
        config = self._folder / f"sentinel-{port}.conf"
        config.write_text("\n".join(lines) + "\n")
        program = _find_program(server_program())
        return subprocess.Popen(
            [program, str(config), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _are_ready(self) -> bool:
        for client in self.clients:
            told = client.execute_command("SENTINEL", "MASTER", MASTER)
            state = (
                told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
            )
            others, known = int(state["num-other-sentinels"]), int(state["num-slaves"])
            if others < 2 or known < len(self._replicas.servers) - 1:
                return False
        return True

    def primary(self) -> int:
        """The place of the server that all Sentinels hold for the primary, once they agree."""
        found: set[int] = set()

        def agree() -> bool:
            found.clear()
            for client in self.clients:
                where = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
                found.add(self._replicas.place_of(int(where[1])))
            return len(found) == 1

        wait_for_servers(agree, "the Sentinels agree")
        return found.pop()

    def await_other_primary(self, than: int) -> int:
        """Wait until another server serves as primary; its place."""
        found = than

        def serves() -> bool:
            nonlocal found
            found = self.primary()
            return found != than and self._replicas.clients[found].role()[0] == "master"

        wait_for_servers(serves, "another primary")
        return found
