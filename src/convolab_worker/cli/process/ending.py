"""Ends the command's process, whatever the children and threads of handlers still do."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import NoReturn

from convolab_worker.cli import streams

# How long children get to end after they were told to, and how long the interpreter then waits for
# threads, children and exit functions.
_CHILD_SECONDS, _EXIT_SECONDS = 0.5, 2.0


def end_children() -> None:
    """End the child processes of ``multiprocessing``, or the exit would wait for them.

    They get SIGTERM, of which a child that a handler has forked dies, then SIGKILL.
    """
    if "multiprocessing" not in sys.modules:
        return
    from multiprocessing import active_children

    children = active_children()
    for child in children:
        child.terminate()
    deadline = time.monotonic() + _CHILD_SECONDS
    for child in children:
        child.join(max(deadline - time.monotonic(), 0.0))
        if child.is_alive():
            child.kill()


def leave(code: int) -> NoReturn:
    """End the process with the code, within a moment.

    The interpreter waits for threads that are not daemons, and executors for what they run.
    """
    end_children()
    with contextlib.suppress(RuntimeError):  # no thread: the process ends when it can
        threading.Thread(target=_force, args=(code,), name="convolab-exit", daemon=True).start()
    streams.flush()
    sys.exit(code)


def _force(code: int) -> None:
    time.sleep(_EXIT_SECONDS)
    streams.tell("convolab-worker: threads or child processes of handlers do not end")
    end_children()
    streams.flush()
    os._exit(code)
