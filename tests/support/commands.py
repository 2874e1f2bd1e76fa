"""Python programs as processes driven by coroutines, above all the commands of convolab-worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TIMEOUT = 20.0


class Process:
    """A program that runs, its standard error read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.errors: list[str] = []

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """Its standard output, for what writes on and on."""
        return self._process.stdout

    async def until(self, text: str) -> str:
        """Return the next line of standard error with the text in it."""
        assert self._process.stderr is not None
        while True:
            line = await asyncio.wait_for(self._process.stderr.readline(), TIMEOUT)
            assert line, f"ended without {text!r}: {self.errors}"
            self.errors.append(line.decode())
            if text in self.errors[-1]:
                return self.errors[-1]

    async def event(self, name: str) -> dict[str, Any]:
        """Return the next line of a JSON log that is about the event."""
        while True:
            line: dict[str, Any] = json.loads(await self.until(name))
            if line["event"] == name:
                return line

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def ended(self, timeout: float = TIMEOUT) -> tuple[int, str, str]:
        """Wait for the end; return exit code, standard output and standard error."""
        out, rest = await asyncio.wait_for(self._process.communicate(), timeout)
        assert self._process.returncode is not None
        return self._process.returncode, out.decode(), "".join(self.errors) + rest.decode()

    async def stopped(self, timeout: float = TIMEOUT) -> tuple[int, str, str]:
        """End the process as a platform does, and return the same as ``ended``."""
        with suppress(ProcessLookupError):  # it has ended by itself, and its exit code tells why
            self.send(signal.SIGTERM)
        return await self.ended(timeout)

    async def close(self) -> None:
        """End the process if it still runs, and close its streams."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


async def start_python(
    *arguments: str, cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> Process:
    """Start this interpreter, with further variables."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return Process(process)


class Commands:
    """Starts commands in a directory with a module of handlers, on a queue of the test's own."""

    def __init__(self, directory: Path, url: str, queue: str) -> None:
        self._directory = directory
        self.queue = queue
        self._environ = {
            "TEST_REDIS_URL": url,
            "REDIS_URL": url,
            "CONVOLAB_QUEUES": queue,
            "CONVOLAB_IDLE_MIN": "50ms",
            "CONVOLAB_IDLE_MAX": "500ms",
            "LOG_FORMAT": "json",
        }
        self._started: list[Process] = []

    async def start(self, *arguments: str, **environ: str) -> Process:
        """Start a command with further variables."""
        process = await start_python(
            *("-m", "convolab_worker", *arguments),
            cwd=self._directory,
            environ=self._environ | environ,
        )
        self._started.append(process)
        return self._started[-1]

    async def run(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Run a command to its end; return exit code, standard output and standard error."""
        return await (await self.start(*arguments, **environ)).ended()

    async def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            await process.close()
