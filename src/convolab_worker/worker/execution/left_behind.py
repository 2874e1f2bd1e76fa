"""Processes that a thread of this process has started, and that still run. Linux tells that."""

from __future__ import annotations

import os
import time


def left_behind(thread_id: int | None, since: float) -> list[tuple[int, str]]:
    """The number and the name of each process that the thread has started after ``since``.

    ``since`` is in epoch seconds. Nothing where the system does not tell.
    """
    try:
        children = _read(f"/proc/self/task/{thread_id}/children")
    except OSError:
        return []
    found = (_running(int(pid), since) for pid in children.split())
    return [process for process in found if process is not None]


def _running(pid: int, since: float) -> tuple[int, str] | None:
    try:
        stat = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    name, _, rest = stat.partition("(")[2].rpartition(")")
    state, *fields = rest.split()
    # The start is the 22nd field of the file, in ticks since the system was booted.
    started = int(fields[18]) / os.sysconf("SC_CLK_TCK")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    is_older = time.time() - age < since - 0.02  # a tick is a hundredth
    return None if state == "Z" or is_older else (pid, name)


def _read(file: str) -> str:
    with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123 - no pathlib at a start
        return opened.read()
