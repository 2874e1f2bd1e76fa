"""Groups of processes that end with the one that started them, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal


class Lifeline:
    """A pipe that a child inherits, in a group of its own; when it breaks, that group is killed.

    Whoever started the child holds the only writing end. When that process is gone, even by
    SIGKILL, the kernel sends SIGKILL to the group that was told to be the owner of the reading end.
    It needs no code of the child, and no turn of an interpreter. Linux knows this; elsewhere a
    child outlives the death of its worker unless it notices by itself.
    """

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()  # the child inherits the first one alone

    def tie(self, group: int) -> None:
        """Have the group killed when this process ends; the child has inherited ``reader``."""
        if hasattr(fcntl, "F_SETSIG"):
            with contextlib.suppress(OSError):  # a kernel without it, a child that is gone already
                fcntl.fcntl(self.reader, fcntl.F_SETOWN, -group)
                fcntl.fcntl(self.reader, fcntl.F_SETSIG, signal.SIGKILL)
                flags = fcntl.fcntl(self.reader, fcntl.F_GETFL)
                fcntl.fcntl(self.reader, fcntl.F_SETFL, flags | os.O_ASYNC)
        os.close(self.reader)
        self.reader = -1

    def forget(self) -> None:
        """Close the writing end in a fork of this process, which is not what it stands for."""
        with contextlib.suppress(OSError):
            os.close(self._writer)

    def close(self) -> None:
        """Close what is open; the group, if there is one, is killed."""
        for descriptor in (self.reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        self.reader = self._writer = -1


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to each process of a group; whether there was one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a zombie's group
        return False
    return True
