"""Tells systemd that the worker is ready, alive, or stops (``Type=notify``, ``WatchdogSec=``)."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from convolab_worker.worker.worker import Worker


class Systemd:
    """The notification socket of a unit, as sd_notify(3) describes it."""

    def __init__(self, address: str, watchdog: float | None) -> None:
        """``watchdog`` is systemd's patience in seconds, None where it watches nothing."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Systemd | None:
        """The unit's socket; None if systemd, or this unit, expects no notification."""
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return None
        microseconds = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watches = is_ours and microseconds.isdecimal() and int(microseconds) > 0
        return cls(address, int(microseconds) / 1e6 if watches else None)

    def tell(self, state: str) -> None:
        """Send a state; does not fail if systemd is away."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(state.encode(), self._address)
            except OSError:
                return


@asynccontextmanager
async def supervised(worker: Worker, systemd: Systemd | None) -> AsyncIterator[None]:
    """Tell systemd of the worker's life, for as long as this is entered.

    It is ready when its lifespans are open, whether Redis is there or not: the worker waits for
    Redis itself, which is better than a restart. It is alive while its event loop turns and jobs
    are fetched as planned.
    """
    if systemd is None:
        yield
        return
    telling = asyncio.create_task(_tell(worker, systemd), name="convolab-systemd")
    try:
        yield
    finally:
        telling.cancel()
        systemd.tell("STOPPING=1")


async def _tell(worker: Worker, systemd: Systemd) -> None:
    await worker.started()
    systemd.tell("READY=1")
    while systemd.watchdog is not None:
        if not worker.health().overdue:
            systemd.tell("WATCHDOG=1")
        await asyncio.sleep(systemd.watchdog / 2)
