"""A private Valkey for a measurement, and what that server says about itself."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self, cast

import redis

from convolab_worker.embedded import EmbeddedServer

ADMIN_NAME = "benchmark-admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUsage:
    """The server's own counters at one moment; subtract two to get a window."""

    cpu_seconds: float
    script_calls: int
    script_seconds: float
    commands_by_connection: dict[str, int]
    """Commands run for each connection, by its id, those inside its scripts included."""

    def since(self, before: ServerUsage, *, ignore: frozenset[str]) -> ServerUsage:
        """Give what happened after ``before``, leaving out the connections in ``ignore``.

        A connection that was closed in between is not seen.
        """
        commands = {
            connection: count - before.commands_by_connection.get(connection, 0)
            for connection, count in self.commands_by_connection.items()
            if connection not in ignore
        }
        return ServerUsage(
            cpu_seconds=self.cpu_seconds - before.cpu_seconds,
            script_calls=self.script_calls - before.script_calls,
            script_seconds=self.script_seconds - before.script_seconds,
            commands_by_connection=commands,
        )

    @property
    def commands(self) -> int:
        """Commands of all connections together."""
        return sum(self.commands_by_connection.values())


class PrivateServer(EmbeddedServer):
    """A Valkey of one's own on a free port of the loopback interface, with a client for its state.

    ``directives`` are Valkey's own configuration.
    """

    def __init__(self, **directives: str) -> None:
        super().__init__(options=directives)
        self._ends = ExitStack()
        self.version = ""

    def start(self) -> Self:
        """Start the server and connect the benchmark's own client."""
        super().start()
        self.admin = redis.Redis.from_url(
            self.url, decode_responses=True, client_name=ADMIN_NAME, socket_timeout=30
        )
        self._ends.callback(self.admin.close)
        self.version = str(self._info("server").get("valkey_version", "unknown"))
        return self

    def stop(self) -> None:
        """Stop the server; its data goes with it."""
        self._ends.close()
        super().stop()

    def connections(self) -> dict[str, dict[str, str]]:
        """Every connection's fields as CLIENT LIST gives them, by its id."""
        return {row["id"]: row for row in self.admin.client_list()}

    def usage(self) -> ServerUsage:
        """Read the counters; costs three commands on the benchmark's own connection.

        By experiment on Valkey 9: ``tot-cmds`` of CLIENT LIST, like
        ``total_commands_processed`` and commandstats, counts the commands inside a
        connection's scripts too, so this is the billable number. It counts a blocking
        command when its wait ends. What the client itself sent is not to be had from
        any of them: that needs :mod:`examples.benchmarks.benchkit.monitor`.
        """
        cpu = self._info("cpu")
        evalsha = self._info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        return ServerUsage(
            cpu_seconds=float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]),
            script_calls=int(evalsha["calls"]),
            script_seconds=int(evalsha["usec"]) / 1e6,
            commands_by_connection={
                connection: int(fields["tot-cmds"])
                for connection, fields in self.connections().items()
            },
        )

    def finished(self, queue: str) -> int:
        """How many jobs of ``queue`` have completed or failed."""
        completed = self.admin.zcard(f"bull:{queue}:completed")
        failed = self.admin.zcard(f"bull:{queue}:failed")
        if failed:
            msg = f"{failed} jobs of {queue} failed, expected none: {self._why_failed(queue)}"
            raise RuntimeError(msg)
        return completed

    def finished_at(self, queue: str, rank: int) -> int:
        """Milliseconds since the epoch at which the job of that rank completed."""
        rows = cast(
            "list[tuple[str, float]]",
            self.admin.zrange(f"bull:{queue}:completed", rank, rank, withscores=True),
        )
        return int(rows[0][1])

    def _why_failed(self, queue: str) -> str:
        job_ids = cast("list[str]", self.admin.zrange(f"bull:{queue}:failed", 0, 0))
        reason = self.admin.hget(f"bull:{queue}:{job_ids[0]}", "failedReason")
        return str(reason)

    def _info(self, section: str) -> dict[str, Any]:
        return self.admin.info(section)


def free_port() -> int:
    """Find a port of loopback that nobody listens on now, for a program that needs to be told."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
