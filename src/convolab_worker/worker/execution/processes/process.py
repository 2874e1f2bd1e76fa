"""One process that runs handlers, as its worker sees it.

starting, idle -- run is sent -->            importing   (dies: the job runs in another one)
importing      -- started -->                running
running        -- returned, raised -->       idle
running        -- interrupt() -->            ending      (its handler may still return)
any            -- kill(), it dies -->        dead
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING

from convolab_worker.errors import ProcessDied
from convolab_worker.handlers.process_groups import Lifeline, signal_group
from convolab_worker.telemetry.logging import configured
from convolab_worker.worker.execution.processes.channel import Channel

if TYPE_CHECKING:
    from convolab_worker.handlers.registration.processes import ImportName

# How long it may take to start and to import its handler, before its time-out counts.
START_SECONDS = 120.0
# A process that has closed its end is gone, or is about to be.
DEATH_SECONDS = 0.5
# How long the kernel may take to end a process that it was told to kill.
_GONE_SECONDS = 5.0
_alive: weakref.WeakSet[HandlerProcess] = weakref.WeakSet()


class HandlerProcess:
    """A new interpreter, in a session of its own, with nothing of this process but its search path.

    Not a fork: that would share connections and locks of a process with threads, and signal
    handlers. It ends when the worker does, however that ends, and what it has started with it.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._lifeline = Lifeline()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", _program(theirs.fileno(), self._lifeline.reader)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), self._lifeline.reader),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            self._lifeline.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._lifeline.tie(self.pid)
        self.channel = Channel(ours)
        self._lock = threading.Lock()
        self._has_ended = False
        self.jobs = 0
        self.memory = 0
        self.imported: set[ImportName] = set()
        _alive.add(self)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def interrupt(self) -> None:
        """Tell its handler to end, by KeyboardInterrupt, and what it has started, by SIGTERM."""
        with self._lock:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGINT)
                signal_group(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and what it has started, now."""
        with self._lock:
            if self._process.returncode is None:
                signal_group(self.pid, signal.SIGKILL)

    def finish(self) -> None:
        """Tell it, between two jobs, that no other job comes."""
        with contextlib.suppress(OSError):
            self.channel.finish()

    def end(self, within: float = 0.0) -> int | None:
        """Wait for its end for so long, then kill it and what it has started; its exit code.

        None if the kernel does not end it. Doing it again only gives the exit code.
        """
        if not self._has_ended:
            self._wait(within)
            # Where its group is not empty, nobody else can have that number; and where it is, not
            # so soon after its leader was waited for.
            signal_group(self.pid, signal.SIGKILL)
            self._wait(_GONE_SECONDS)
            self._has_ended = True
            _alive.discard(self)
            self.channel.close()
            self._lifeline.close()
        return self._process.returncode

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def forget(self) -> None:
        """Close what a fork of this process has inherited: it is not this process's worker."""
        self.channel.forget()


def death(place: str, code: int | None) -> ProcessDied:
    """The error of a job whose process has ended under it."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        why = ": the kernel does that when memory runs out" if -code == signal.SIGKILL else ""
        return ProcessDied(f"the process of {place} was killed by {name}{why}")
    return ProcessDied(f"the process of {place} ended under its job, with exit code {code}")


def _program(*descriptors: int) -> str:
    child = "convolab_worker.worker.execution.processes.child"
    path = f"import sys; sys.path[:] = {sys.path!r}; sys.argv[:] = {sys.argv!r}"
    return f"{path}; from {child} import main; main{(*descriptors, configured())!r}"


def _forked() -> None:
    for process in list(_alive):
        process.forget()


os.register_at_fork(after_in_child=_forked)
