"""Programs as processes whose log goes to a file, for those that are killed and frozen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import convolab_worker
from tests.support.markdown import ROOT
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence

RUN = (sys.executable, "-m", "convolab_worker", "run")
_SOURCES = Path(convolab_worker.__file__).parents[1]
_FIRST_LINES = 20


class LoggedProcess:
    """A program that runs on the sources under test, and its log: JSON, a line an event."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{_SOURCES}{os.pathsep}{ROOT}",
                    "PYTHONUNBUFFERED": "1",
                    "LOG_FORMAT": "json",
                    **environ,
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                process_group=0,  # so that a test can signal it and what it starts, and no more
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing if the process has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL, and wait for that."""
        self._process.kill()
        self._process.wait()

    async def ended(self, *, within: float) -> int:
        """Its exit code; fails the test if it does not end in time."""
        await wait_until(
            lambda: self.exit_code is not None,
            timeout=within,
            what=f"the end of process {self.pid}",
        )
        assert self._process.returncode is not None
        return self._process.returncode

    @property
    def has_started(self) -> bool:
        """Whether it was ready to be stopped when it was looked at; at log level info or below."""
        with self._log.open(errors="replace") as lines:
            return any("worker.started" in line for line in islice(lines, _FIRST_LINES))

    def text(self) -> str:
        """All that it wrote."""
        return self._log.read_text(errors="replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Its log lines, all or those of one event."""
        lines = []
        for line in self.text().splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and name in (None, entry.get("event")):
                    lines.append(entry)
        return lines

    async def says(self, event: str, *, within: float = 10.0) -> dict[str, Any]:
        """The first log line of that event, waited for."""
        await wait_until(
            lambda: self.events(event), timeout=within, what=f"the log line {event}\n{self.text()}"
        )
        return self.events(event)[0]
