"""The wake server: HTTP in front of a worker, and the console, with or without one.

It calls only the worker's public methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convolab_worker.server.server import ConsoleServer, WakeServer, console_app, wake_app

__all__ = ["ConsoleServer", "WakeServer", "console_app", "wake_app"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from convolab_worker.server import server

    return getattr(server, name)
