"""Lists the worker in Node's ``queue.getWorkers()``, which looks at the names of connections.

A connection has one name, and a name stands for one queue. A worker's own two connections carry the
names of its first two queues; each other queue takes a connection that does nothing but carry its
name. Each name is one billed command whenever its connection opens. A drain, which is over soon,
sets none.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from typing import TYPE_CHECKING

from convolab_worker._logs import Log
from convolab_worker.connection.connection import Connection
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.connection.commands.usage import CommandCounter
    from convolab_worker.connection.route import Route

_log = Log()
# If a provider closes idle connections, each is opened again after a pause that doubles: being
# listed must not cost what the long idle waits save.
_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 3600.0


def client_name(prefix: str, queue: str, worker: str) -> str:
    """Return the name of a connection by which BullMQ lists ``worker`` as one of ``queue``."""
    return f"{prefix}:{base64.b64encode(queue.encode()).decode()}:w:{worker}"


class NamedConnections:
    """Gives each of ``names`` a connection: first the worker's ``own``, then further ones."""

    def __init__(
        self,
        address: Route,
        names: Sequence[str],
        *,
        own: Sequence[Connection],
        timeout: float,
        counter: CommandCounter,
    ) -> None:
        self._names = names
        self._own = own
        self._connections = [
            Connection(address, timeout=timeout, counter=counter, identify=False)
            for _ in names[len(own) :]
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Open the further connections, and name all; call this before the worker's own open."""
        for connection, name in zip([*self._own, *self._connections], self._names, strict=False):
            connection.client_name = name
        self._tasks = [
            asyncio.create_task(_keep(connection), name="convolab-named-connection")
            for connection in self._connections
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            await connection.close()


async def _keep(connection: Connection) -> None:
    lost = asyncio.Event()
    connection.on_lost = lambda _: lost.set()
    pause = _FIRST_PAUSE_SECONDS
    while True:
        lost.clear()
        with contextlib.suppress(RedisUnavailable):  # the worker's own connections log the outage
            await connection.open()
            opened_at = time.monotonic()
            await lost.wait()
            if time.monotonic() - opened_at > _LONGEST_PAUSE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            _log.debug("named_connection.lost", pause=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
