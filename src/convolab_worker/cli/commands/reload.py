"""``run --reload``: a worker in a process of its own, started again when its sources change.

working -- a source changes -->    stopping   (SIGTERM: running jobs finish, or go back)
working -- it ends by itself -->   ended      (an error in its code: it was said)
stopping, ended -- a change -->    working
any     -- SIGINT, SIGTERM -->     passed on; with the worker's end this process ends
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convolab_worker.cli.commands.run import private_server
from convolab_worker.cli.output import remark
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from convolab_worker.settings import Settings

# What a worker gets over its grace before it is killed; its jobs are found by their locks.
_PATIENCE_SECONDS = 5.0
# How soon the end of a worker is noticed; changes and signals are at once.
_LOOK_MILLISECONDS = 500
_SHOWN = 3


def run(arguments: Sequence[str], settings: Settings, *, embedded: bool) -> int:
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
        reloading = _Reloading(command, settings.shutdown_grace + _PATIENCE_SECONDS)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, reloading.republish_marker)
        return reloading.run(
            watchfiles.watch(
                Path.cwd(),
                watch_filter=watchfiles.PythonFilter(),
                stop_event=reloading.stopping,
                rust_timeout=_LOOK_MILLISECONDS,
                yield_on_timeout=True,
            )
        )


class _Reloading:
    """The worker of the moment, and what is done to it."""

    def __init__(self, command: list[str], patience: float) -> None:
        self._command = [sys.executable, "-m", "convolab_worker", *command]
        self._patience = patience
        self._worker: subprocess.Popen[bytes] | None = None
        self.stopping = threading.Event()

    def run(self, changes: Iterator[set[tuple[Any, str]]]) -> int:
        """Go on until a signal; the exit code of the worker that it ended."""
        self._start()
        for change in changes:
            if change:
                names = sorted({os.path.relpath(path) for _, path in change})
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                remark(f"reload: {', '.join(names[:_SHOWN])}{more} changed")
                self._end()
                if not self.stopping.is_set():
                    self._start()
            elif self._worker is not None and self._worker.poll() is not None:
                remark(f"reload: the worker ended with {self._end()}; waiting for a change")
        return self._end()

    def _start(self) -> None:
        self._worker = subprocess.Popen(  # noqa: S603 - our own program, with the arguments that it was given
            self._command,
            # Bytecode is told from stale by whole seconds: too coarse for a file just edited.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            # Ctrl-C reaches this process alone, which passes it on: once, not twice.
            process_group=0,
        )
        if self.stopping.is_set():  # the signal came while there was nobody to pass it on to
            self._worker.terminate()

    def _end(self) -> int:
        """Stop the worker if it runs; 0 if there is none."""
        worker = self._worker
        if worker is None:
            return 0
        if not self.stopping.is_set() and worker.poll() is None:
            worker.terminate()
        try:
            code = worker.wait(self._patience)
        except subprocess.TimeoutExpired:
            worker.kill()
            code = worker.wait()
        self._worker = None
        return code if code >= 0 else 128 - code

    def republish_marker(self, number: int, _frame: FrameType | None) -> None:
        """A signal to this process is for the worker; then this process ends too."""
        self.stopping.set()
        if self._worker is not None:
            self._worker.send_signal(number)
