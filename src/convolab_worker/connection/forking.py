"""What a process that a handler forks must not keep of ours: the sockets.

A connection that a child holds stays open when this process is gone: the server would go on
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
    """Have forks of this process, from now on, hold nothing where this socket is."""
    _sockets.add(sock)


def _forked() -> None:
    # The numbers stay taken: objects of the parent, which the child has copies of, may close them.
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
