"""Programs that a handler starts: each in a group of its own, which ends with the job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from convolab_worker.handlers.process_groups import Lifeline, signal_group

if TYPE_CHECKING:
    from asyncio.subprocess import Process

# How long a program has to end on SIGTERM when its block is left, before it is killed.
_END_SECONDS = 1.0


class JobSubprocess:
    """A program of a job, for one ``with`` or ``async with``; ended when that block is left.

    ``async with`` gives what ``asyncio.create_subprocess_exec`` gives, and ``with`` a
    ``subprocess.Popen``.
    """

    def __init__(
        self, owner: Subprocesses, command: tuple[str, ...], options: dict[str, Any]
    ) -> None:
        self._owner = owner
        self._command = command
        self._options = options
        self._lifeline: Lifeline | None = None
        self._process: Process | subprocess.Popen[Any] | None = None

    async def __aenter__(self) -> Process:
        lifeline = self._lifeline = Lifeline()
        try:
            process = await asyncio.create_subprocess_exec(*self._command, **self._keywords())
        except BaseException:
            lifeline.close()
            raise
        self._started(process)
        return process

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        try:
            if process is not None and process.returncode is None:
                self.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_END_SECONDS):
                        await process.wait()  # type: ignore[misc]
        finally:
            self._ended()

    def __enter__(self) -> subprocess.Popen[Any]:
        lifeline = self._lifeline = Lifeline()
        try:
            process: subprocess.Popen[Any] = subprocess.Popen(self._command, **self._keywords())  # noqa: S603 - the handler's own
        except BaseException:
            lifeline.close()
            raise
        self._started(process)
        return process

    def __exit__(self, *_: object) -> None:
        process = self._process
        try:
            if isinstance(process, subprocess.Popen) and process.poll() is None:
                self.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_END_SECONDS)
        finally:
            self._ended()
            if isinstance(process, subprocess.Popen):
                process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()

    def _keywords(self) -> dict[str, Any]:
        keep = (*self._options.get("pass_fds", ()), *self._inherited())
        own: dict[str, Any] = {"start_new_session": True} if self._owner.grouped else {}
        return {**self._options, **own, "pass_fds": keep}

    def _inherited(self) -> tuple[int, ...]:
        return () if self._lifeline is None else (self._lifeline.reader,)

    def _started(self, process: Process | subprocess.Popen[Any]) -> None:
        self._process = process
        if self._lifeline is not None and self._owner.grouped:
            self._lifeline.tie(process.pid)
        self._owner.running.add(self)
        if self._owner.has_ended:  # the job ended while the program started
            self.kill()

    def _ended(self) -> None:
        self.kill()
        self._owner.running.discard(self)
        if self._lifeline is not None:
            self._lifeline.close()

    def terminate(self) -> None:
        """Tell it, and what it has started, to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and, where it has a group of its own, what it has started."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if self._owner.grouped:
            # The group may still have others when its leader has ended.
            signal_group(process.pid, number)
        elif process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        process = self._process
        if isinstance(process, subprocess.Popen):
            return process.poll() is None
        return process is not None and process.returncode is None

    @property
    def pid(self) -> int | None:
        """Its number, when it has started."""
        return None if self._process is None else self._process.pid

    def __str__(self) -> str:
        return f"{os.path.basename(self._command[0])} (pid {self.pid})"  # noqa: PTH119 - a name


class Subprocesses:
    """Those of one job.

    ``grouped`` gives each a process group of its own; without it they stay in their parent's, which
    the end of a handler's process ends as a whole.
    """

    def __init__(self, *, grouped: bool = True) -> None:
        self.grouped = grouped
        self.running: set[JobSubprocess] = set()
        self.has_ended = False

    def start(self, command: tuple[str, ...], options: dict[str, Any]) -> JobSubprocess:
        """Make a program, which its ``with`` block starts."""
        return JobSubprocess(self, command, options)

    def terminate(self) -> None:
        """Tell all of them to end, since the job has to end."""
        for each in list(self.running):
            each.terminate()

    def end(self) -> list[str]:
        """Kill those that still run, since the job has ended; return them."""
        self.has_ended = True
        left = [each for each in self.running if each.is_running]
        for each in left:
            each.kill()
        return [str(each) for each in left]
