"""Every command as the server sees it: who sent it, when, and whether a script ran it.

Benchmarks count with it, and so do the tests that compare the worker's own meter with the server.

Why MONITOR and not a counter: found by experiment on Valkey 9.1, each of the server's
counters (commandstats, ``total_commands_processed``, ``tot-cmds`` of a connection) counts
the commands inside Lua together with those a client sent, and none tells them apart.
MONITOR does: a command inside a script has ``lua`` in the place of the client's address,
and follows the EVALSHA that ran it. A blocking command appears once, when it arrives.
MONITOR slows a busy server down, so a pass that counts with it is never timed.
"""

from __future__ import annotations

import re
import socket
import threading
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

# What a provider that bills by the command leaves off its bill (Upstash, 2026).
FREE_COMMANDS = frozenset({"auth", "command", "info", "ping", "quit"})

_LINE = re.compile(rb'\+(\d+\.\d+) \[\d+ (.+?)\] "([^"]*)"(?: "([^"]*)")?')
_WITH_SUBCOMMAND = frozenset({b"client", b"script", b"config", b"command"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCommand:
    """One command: seconds since the epoch, its client's address, its lower-case name."""

    at: float
    client: str
    name: str
    scripted: bool
    argument: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCount:
    """How many commands were sent by clients and run inside scripts, by name."""

    sent: dict[str, int]
    scripted: dict[str, int]

    @property
    def client_sent(self) -> int:
        """Commands that clients sent, without those that no provider bills."""
        return sum(self.sent.values())

    @property
    def billable(self) -> int:
        """Commands on the bill: sent by clients and run inside scripts."""
        return self.client_sent + sum(self.scripted.values())


def parse(line: bytes, last_client: str) -> SeenCommand | None:
    """Read one MONITOR line; a scripted command belongs to ``last_client``.

    None for a line that is not a command (the OK at the start).
    """
    match = _LINE.match(line)
    if match is None:
        return None
    at, origin, name, argument = match.groups()
    name = name.lower()
    if name in _WITH_SUBCOMMAND and argument is not None:
        name = name + b"|" + argument.lower()
    scripted = origin == b"lua"
    return SeenCommand(
        at=float(at),
        client=last_client if scripted else origin.decode(),
        name=name.decode(errors="replace"),
        scripted=scripted,
        argument=(argument or b"").decode(errors="replace"),
    )


def count(commands: Iterable[SeenCommand], *, ignore: frozenset[str]) -> CommandCount:
    """Count by name, without the clients in ``ignore`` and what is free of charge."""
    sent: Counter[str] = Counter()
    scripted: Counter[str] = Counter()
    for command in commands:
        if command.client in ignore or command.name.split("|")[0] in FREE_COMMANDS:
            continue
        (scripted if command.scripted else sent)[command.name] += 1
    return CommandCount(sent=dict(sent.most_common()), scripted=dict(scripted.most_common()))


class MonitorTap:
    """A MONITOR connection to a server on loopback, read by a thread of its own.

    The thread reads at once: a server drops a reader that lets its output pile up. A second
    connection sends an ECHO for each mark; what it sends is not among the commands that were seen.
    """

    def __init__(self, port: int) -> None:
        """Prepare a tap on the server at ``port``; nothing is read before the ``with`` block."""
        self._port = port
        self._commands: list[SeenCommand] = []
        self._arrived = threading.Condition()
        self._fences: set[str] = set()
        self._thread = threading.Thread(target=self._read, name="monitor-tap", daemon=True)

    def __enter__(self) -> Self:
        """Start to listen; whatever is sent from now on is seen."""
        self._socket = socket.create_connection(("127.0.0.1", self._port))
        self._echo = socket.create_connection(("127.0.0.1", self._port))
        self._echo_address = "{}:{}".format(*self._echo.getsockname())
        self._socket.sendall(b"MONITOR\r\n")
        self._thread.start()
        self.mark()
        return self

    def __exit__(self, *_: object) -> None:
        self._echo.close()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=5)
        self._socket.close()

    def mark(self) -> int:
        """Give the number of commands seen up to now, after all that was sent was read."""
        fence = uuid.uuid4().hex
        # Until the server has taken up MONITOR an echo can pass unseen: hence the repetition.
        for _ in range(100):
            self._echo.sendall(f"ECHO {fence}\r\n".encode())
            self._echo.recv(1024)
            with self._arrived:
                if self._arrived.wait_for(lambda: fence in self._fences, timeout=0.5):
                    return len(self._commands)
        msg = "MONITOR shows nothing of what is sent: expected the tap's own ECHO"
        raise RuntimeError(msg)

    def between(self, start: int, end: int | None = None) -> list[SeenCommand]:
        """Give the commands between two marks."""
        with self._arrived:
            return self._commands[start:end]

    def _read(self) -> None:
        last_client = ""
        with self._socket.makefile("rb") as lines:
            for line in lines:
                command = parse(line, last_client)
                if command is None:
                    continue
                last_client = command.client
                with self._arrived:
                    if command.client == self._echo_address:
                        self._fences.add(command.argument)
                        self._arrived.notify_all()
                    else:
                        self._commands.append(command)
