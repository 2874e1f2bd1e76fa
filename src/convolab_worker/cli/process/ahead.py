"""What ``run --wake`` does before it imports the application: listen, and import aiohttp.

A request that comes meanwhile waits in the kernel, and is the first to be answered.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING

from convolab_worker.cli.process.signals import SIGNALS
from convolab_worker.telemetry.logging import configure_logging

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from convolab_worker.settings import Settings

_AIOHTTP = "aiohttp.web"
# The module of aiohttp that reads the system's certificates, for clients, when it is imported.
_READS_CERTIFICATES = "aiohttp.connector"
_LOOK_SECONDS = 0.002
# Our modules that a worker needs.
_OURS = (
    "convolab_worker.cli.process.process",
    "convolab_worker.cli.process.app_loader",
    "convolab_worker.worker.worker",
    "convolab_worker.server.server",
)


@contextlib.contextmanager
def bound_ahead(settings: Settings, *, insecure: bool) -> Iterator[list[socket.socket]]:
    """Yield sockets that listen for the wake server; aiohttp and the worker are imported.

    Raises ConfigurationError if the port is taken.
    """
    SIGNALS.starts(0)
    configure_logging(settings.log_level, settings.log_format)
    from convolab_worker.server.sockets import wake_sockets

    with contextlib.ExitStack() as bound:
        socks = wake_sockets(settings, insecure=insecure)
        for sock in socks:
            bound.enter_context(sock)
        _import_together()
        yield socks


def _import_together() -> None:
    """Import aiohttp in a thread, and in this one our modules while it reads certificates.

    To read certificates takes 20 to 50 ms, in which the thread does not hold the interpreter. The
    application is imported only when the thread has ended, since nobody knows what it imports, and
    two threads that import one package from different ends can fail. asyncio has been imported
    before.
    """
    aiohttp = threading.Thread(target=_import_aiohttp, name="convolab-imports", daemon=True)
    aiohttp.start()
    while aiohttp.is_alive() and _READS_CERTIFICATES not in sys.modules:
        aiohttp.join(_LOOK_SECONDS)
    for module in _OURS:
        import_module(module)
    aiohttp.join()


def _import_aiohttp() -> None:
    # If the import fails, the server's own import raises the error.
    with contextlib.suppress(Exception):
        import_module(_AIOHTTP)
