"""``run --reload``: a worker in a process of its own, started again when its sources change.

working -- a source changes -->    stopping   (SIGTERM: running jobs finish, or go back)
working -- it ends by itself -->   ended      (its code has an error, which it has logged)
stopping, ended -- a change -->    working
any     -- SIGINT, SIGTERM -->     passed on; this process ends when the worker has ended
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convolab_worker.cli.output import listed, remark
from convolab_worker.cli.process.process import private_server
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from convolab_worker.settings import Settings

# How long a worker may take beyond its grace before it is killed. Its jobs then run again when
# their locks have expired.
_EXTRA_SECONDS = 5.0
# How soon the end of a worker is noticed. Changes and signals are noticed at once.
_POLL_MILLISECONDS = 500
_MOST_NAMES = 3


def reload(arguments: Sequence[str], settings: Settings, *, embedded: bool) -> int:
    """Run ``run`` with the same ``arguments``, again after each change of a Python file below here.

    A private server outlives the restarts. Raises ConfigurationError without watchfiles.
    """
    try:
        import watchfiles
    except ImportError as error:
        msg = 'run --reload needs the package watchfiles: pip install "convolab_worker[reload]"'
        raise ConfigurationError(msg) from error
    with private_server(settings, embedded=embedded) as reachable:
        own = {"--reload", "--embedded"}
        command = [argument for argument in arguments if argument not in own]
        if embedded:
            command += ["--redis-url", reachable.redis_url]
        reloader = _Reloader(command, settings.shutdown_grace + _EXTRA_SECONDS)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, reloader.on_signal)
        return reloader.run(
            watchfiles.watch(
                Path.cwd(),
                watch_filter=watchfiles.PythonFilter(),
                stop_event=reloader.stopping,
                rust_timeout=_POLL_MILLISECONDS,
                yield_on_timeout=True,
            )
        )


class _Reloader:
    """Starts a worker process, and stops and starts it again at each change."""

    def __init__(self, command: list[str], stop_seconds: float) -> None:
        self._command = [sys.executable, "-m", "convolab_worker", *command]
        self._stop_seconds = stop_seconds
        self._worker: subprocess.Popen[bytes] | None = None
        self.stopping = threading.Event()

    def run(self, changes: Iterator[set[tuple[Any, str]]]) -> int:
        """Keep a worker running until a signal; return the exit code of the last worker."""
        self._start()
        for change in changes:
            if change:
                names = sorted({os.path.relpath(path) for _, path in change})
                remark(f"reload: {listed(names, _MOST_NAMES)} changed")
                self._end()
                if not self.stopping.is_set():
                    self._start()
            elif self._worker is not None and self._worker.poll() is not None:
                remark(f"reload: the worker ended with {self._end()}; waiting for a change")
        return self._end()

    def _start(self) -> None:
        self._worker = subprocess.Popen(  # noqa: S603 - our own program, with the arguments that it was given
            self._command,
            # Python compares the age of bytecode in whole seconds, which misses quick edits.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            # Ctrl-C reaches this process alone, which passes it on: once, not twice.
            process_group=0,
        )
        if self.stopping.is_set():  # the signal came before there was a worker to pass it on to
            self._worker.terminate()

    def _end(self) -> int:
        """Stop the worker and return its exit code; 0 if there is no worker."""
        worker = self._worker
        if worker is None:
            return 0
        if not self.stopping.is_set() and worker.poll() is None:
            worker.terminate()
        try:
            code = worker.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            worker.kill()
            code = worker.wait()
        self._worker = None
        return code if code >= 0 else 128 - code

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Pass a signal on to the worker, and end this process after it."""
        self.stopping.set()
        if self._worker is not None:
            self._worker.send_signal(number)
