"""What the contenders share: their command line, and word to the benchmark that the job runs.

Nothing but the standard library: each runs in an environment of its own library.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

HOURS = 3600.0


def url() -> str:
    """Where the server is."""
    return os.environ["RECOVERY_URL"]


def started() -> None:
    """Tell the benchmark that the job runs now, and in which process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
        to.sendto(str(os.getpid()).encode(), ("127.0.0.1", int(os.environ["RECOVERY_PORT"])))


def hold() -> None:
    """Be the job, for libraries whose jobs run in threads or processes."""
    started()
    time.sleep(HOURS)


def become(*arguments: str) -> NoReturn:
    """Go on as ``python -m`` with these arguments, in this process."""
    os.execv(sys.executable, [sys.executable, "-m", *arguments])  # noqa: S606


def main(*, work: Callable[[], object], add: Callable[[], object]) -> NoReturn:
    """Do what the command line says."""
    {"work": work, "add": add}[sys.argv[1]]()
    sys.exit()
