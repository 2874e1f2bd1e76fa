"""Child processes that speak lines of JSON on their standard streams, driven by blocking calls.

Benchmarks drive workers and producers with it, and the interop tests Node. Coroutines drive theirs
with tests/support.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[3]
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_TOLD_CHARACTERS = 2000


class ChildError(RuntimeError):
    """A child process did not do its part; the message has what it wrote to standard error."""


class JsonChild:
    """A child process; a thread gives each line that it writes to ``heard``.

    A subclass makes what ``heard`` needs before it calls this class's ``__init__``.
    """

    def __init__(self, name: str, command: Sequence[str], *, cwd: Path = ROOT) -> None:
        self.name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            bufsize=1,
        )
        self._reader = threading.Thread(target=self._read, name=f"{name}-output", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process: by end of input first, by force if it does not follow."""
        self.close()

    def heard(self, message: dict[str, Any]) -> None:
        """Take a line of output; the reading thread calls this."""
        raise NotImplementedError

    def hung_up(self) -> None:
        """Take notice of the end of output; the reading thread calls this."""
        raise NotImplementedError

    def send(self, message: Mapping[str, object]) -> None:
        """Write a line to the process; ChildError if it is gone."""
        stdin = self._process.stdin
        if stdin is None or self._process.poll() is not None:
            raise ChildError(self.told("is gone"))
        try:
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise ChildError(self.told("is gone")) from error

    def close(self) -> None:
        """End the process and wait until it is gone."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it is gone, and what was written last with it
                self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def told(self, what: str) -> str:
        """Make a message of ``what`` that has the process's name and what it said of errors."""
        file = self._errors.fileno()
        size = os.fstat(file).st_size  # read without a move of the offset, which the child shares
        said = os.pread(file, size, 0).decode(errors="replace").strip()
        return f"{self.name} {what}" + (f"; it said:\n{said[-_TOLD_CHARACTERS:]}" if said else "")

    def _read(self) -> None:
        for line in self._process.stdout or ():
            try:
                message = json.loads(line)
            except ValueError:
                message = {"event": "noise", "text": line}
            self.heard(message)
        self.hung_up()


class LineProcess(JsonChild):
    """A child process whose lines are events; the first is ``ready``, and has its versions."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Start ``command`` and wait until it is ready."""
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        super().__init__(name, command)
        try:
            self.ready = self.expect("ready", timeout=_START_SECONDS)
        except BaseException:
            self.close()
            raise

    def heard(self, message: dict[str, Any]) -> None:
        """Keep the line for whoever waits for it."""
        self._lines.put(message)

    def hung_up(self) -> None:
        """Tell whoever waits."""
        self._lines.put(None)

    def ask(self, request: Mapping[str, object], *, timeout: float = 120.0) -> dict[str, Any]:
        """Send one request and give its answer, which carries the same ``op``."""
        self.send(request)
        return self.expect(str(request["op"]), timeout=timeout)

    def expect(self, *events: str, timeout: float) -> dict[str, Any]:
        """Wait up to ``timeout`` seconds for the next line about one of ``events``."""
        line = self.poll(*events, timeout=timeout)
        if line is None:
            said = " or ".join(events)
            raise ChildError(self.told(f"said nothing of {said} in {timeout:g} s"))
        return line

    def poll(self, *events: str, timeout: float) -> dict[str, Any] | None:
        """Wait like ``expect``, and give None when nothing came; other lines are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                self._lines.put(None)  # for whoever asks next
                raise ChildError(self.told(f"ended before it said {' or '.join(events)}"))
            if line.get("event") in events:
                return line
