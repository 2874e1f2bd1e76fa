"""Has groups of processes end together with the process that started them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import weakref

_open: weakref.WeakSet[Lifeline] = weakref.WeakSet()


class Lifeline:
    """A pipe that a child inherits, in a group of its own; when it breaks, that group is killed.

    Only the process that started the child holds the writing end. When that process is gone, even
    by SIGKILL, the kernel sends SIGKILL to the group that owns the reading end. The child needs no
    code for it. Only Linux has this: elsewhere a child outlives its worker unless it notices by
    itself.
    """

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()  # the child inherits the first one alone
        _open.add(self)

    def tie(self, group: int) -> None:
        """Have the group killed when this process ends; the child has inherited ``reader``."""
        if hasattr(fcntl, "F_SETSIG"):
            with contextlib.suppress(OSError):  # the kernel can't do it, or the child is gone
                fcntl.fcntl(self.reader, fcntl.F_SETOWN, -group)
                fcntl.fcntl(self.reader, fcntl.F_SETSIG, signal.SIGKILL)
                flags = fcntl.fcntl(self.reader, fcntl.F_GETFL)
                fcntl.fcntl(self.reader, fcntl.F_SETFL, flags | os.O_ASYNC)
        os.close(self.reader)
        self.reader = -1

    def forget(self) -> None:
        """Close the writing end alone."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def close(self) -> None:
        """Close both ends; if no other process holds the writing end, the group is killed."""
        _open.discard(self)
        for descriptor in (self.reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        self.reader = self._writer = -1


def _forked() -> None:
    """Close the writing ends in a fork of this process, which would keep the pipes whole.

    The reading ends stay: the fork may be about to become the child that needs one.
    """
    for lifeline in list(_open):
        lifeline.forget()


os.register_at_fork(after_in_child=_forked)


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to each process of a group; return whether there was one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # on macOS for a zombie's group
        return False
    return True
