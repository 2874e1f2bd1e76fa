"""Whether processes run, by their ids."""

from __future__ import annotations

from pathlib import Path

from tests.support.waiting import wait_until


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def all_gone(pids: list[int]) -> None:
    """Wait until none of these processes runs."""
    await wait_until(lambda: not any(is_alive(pid) for pid in pids))
