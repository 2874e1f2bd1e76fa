"""Takes our sockets away from processes that are forked from this one, as handlers may do.

A connection that a child also holds stays open when this process has ended: the server would go on
giving it the markers of jobs, and nobody could listen on the wake server's port.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    import socket

_sockets: WeakSet[socket.socket] = WeakSet()


def keep_from_forks(sock: socket.socket) -> None:
    """Have processes that are forked from now on hold the null device in this socket's place."""
    _sockets.add(sock)


def _forked() -> None:
    # The child has copies of the parent's objects, which may close these numbers: so the numbers
    # stay in use, and no other file of the child's gets one.
    nothing = os.open(os.devnull, os.O_RDWR)
    for sock in list(_sockets):
        number = sock.fileno()
        if number >= 0:
            with contextlib.suppress(OSError):
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)
    _sockets.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
