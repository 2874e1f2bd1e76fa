"""Ports of loopback for programs that have to be told theirs, or that come back on it."""

from __future__ import annotations

import itertools
import os
import random
import socket

# Below those that systems give out by themselves, and that EmbeddedServer chooses from: nobody else
# takes such a port before the program has it, or while a server that starts again is down.
_PORTS = range(12_000, 20_000)


def _own_ports() -> list[int]:
    """The share of this process among those that run tests at the same time, in any order."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = list(_PORTS[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))])
    random.Random().shuffle(ports)  # also where a test has seeded the module's own
    return ports


_own = itertools.cycle(_own_ports())


def free_port() -> int:
    """A port that nobody listens on, and that this process gives to nobody else."""
    for port in itertools.islice(_own, len(_PORTS)):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    msg = f"no free port from {_PORTS[0]} to {_PORTS[-1]}"
    raise AssertionError(msg)
