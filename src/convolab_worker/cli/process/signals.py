"""SIGTERM and SIGINT of the command's process, from its first line to its last.

=================  ====================================================================
a process that     does what on SIGTERM and SIGINT
=================  ====================================================================
is starting        ends: no worker has begun yet, and none will
runs a worker      ``worker.stop()``; the second time with no grace, and the process ends
                   as it is if Redis is away, or takes too long for that; the third
                   time it ends as it is, and stalled-job recovery finds the jobs
runs no worker     ends
is the first one   passes every signal on to the command, which runs in a child, and
of a container     reaps whatever the command's children have left behind
=================  ====================================================================

The first process of a container (process 1) gets no signal that it has no handler for, and inherits
the orphans of all others; so the handlers are there before anything of the application is.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)
_KILL_AT = 3
_BY_SIGNAL = 128  # shells add this to the signal's number for the exit code


class Stopped(SystemExit):
    """A signal came while no worker was running; the command ends with the code."""


class Signals:
    """The process's handlers of SIGTERM and SIGINT; its only instance is ``SIGNALS``.

    ``stop`` is called with each signal and how many have come so far, from the moment that
    ``pass_to`` is given it.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._stop: Callable[[int, int], None] | None = None
        self._code: int | None = None
        self._is_installed = False

    def install(self) -> None:
        """Handle the signals from now on, in this process but in none that it forks."""
        for number in STOPPING:
            signal.signal(number, self._on_signal)
        if not self._is_installed and hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_block, after_in_parent=_unblock, after_in_child=self._forked
            )
        self._is_installed = True

    def starts(self, code: int | None = None) -> None:
        """A worker is being made ready: a signal ends the process, with ``code`` if there is one.

        Raises Stopped if a signal has come already, and was lost in the application's code.
        """
        self._code = code
        if self._received:
            raise Stopped(self._exit_code(self._received[-1]))

    def pass_to(self, stop: Callable[[int, int], None]) -> None:
        """Call ``stop`` for each signal from now on."""
        self.install()
        self._received.clear()
        self._stop = stop

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(number)
        if len(self._received) >= _KILL_AT:
            os._exit(_BY_SIGNAL + number)
        if self._stop is not None:
            self._stop(number, len(self._received))
        elif number == signal.SIGINT and self._code is None:
            raise KeyboardInterrupt
        else:
            raise Stopped(self._exit_code(number))

    def _exit_code(self, number: int) -> int:
        return _BY_SIGNAL + number if self._code is None else self._code

    def _forked(self) -> None:
        """A child that was forked without exec is ended as any other program is."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _unblock()


SIGNALS = Signals()


def _block() -> None:
    """A signal that reaches a fork before it has its own handlers waits until it has."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def become_init() -> None:
    """If this is process 1, go on in a child, and be what a container's init is.

    Returns in the child, and in every process that is not the first one.
    """
    if os.getpid() != 1 or not hasattr(os, "fork"):
        return
    passed_on = [
        number
        for number in signal.valid_signals()
        if number not in {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGCONT}
    ]
    # The kernel keeps a blocked signal for process 1 too, which ignores what it has no handler for.
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    command = os.fork()
    if command == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
        return
    # A terminal gives Ctrl-C to every process of its group, so to the command as well.
    from_terminal = {signal.SIGINT, signal.SIGQUIT} if sys.stdin.isatty() else set()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if number not in from_terminal:
            os.kill(command, number)

    for number in passed_on:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    while True:
        child, status = os.wait()
        if child == command:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else _BY_SIGNAL - code)
