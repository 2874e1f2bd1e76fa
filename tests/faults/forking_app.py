"""Handlers that start processes, in the ways that applications do; for the tests of signals."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from convolab_worker import HandlerRegistry, Job

handlers = HandlerRegistry()
_FORK = multiprocessing.get_context("fork")
_children: list[Any] = []

if told := os.environ.get("IMPORT_TELLS"):  # a slow import, which swallows what it can
    Path(told).write_text("importing")
    for _ in range(100):
        try:
            time.sleep(0.05)
        except BaseException:
            Path(told).write_text("swallowed")
            if os.environ.get("IMPORT_RAISES"):
                raise
            break


def _sleep() -> None:
    time.sleep(300)


@handlers.audio("terminate")
async def terminate(_: Job[Any]) -> Any:
    """Fork a child, and end it as multiprocessing does."""
    child = _FORK.Process(target=_sleep)
    child.start()
    await asyncio.sleep(0.1)
    child.terminate()
    await asyncio.to_thread(child.join, 5)
    return child.exitcode


@handlers.audio("pool")
async def pool(_: Job[Any]) -> Any:
    """Leave a pool early, whose exit terminates its processes."""

    def run() -> list[int]:
        with _FORK.Pool(2) as workers:
            workers.apply_async(time.sleep, [300])
            return workers.map(abs, [-1, -2])

    return await asyncio.to_thread(run)


@handlers.audio("daemon")
async def daemon(_: Job[Any]) -> str:
    """Leave children behind that live on: a daemon, and one that is not, and a busy thread."""
    for is_daemon in (True, False):
        child = _FORK.Process(target=_sleep, daemon=is_daemon)
        child.start()
        _children.append(child)
    sys.stdout.write("printed, and kept by Python until the end\n")
    threading.Thread(target=_sleep).start()
    return str(_children[0].pid)


@handlers.audio("stubborn")
async def stubborn(job: Job[Any]) -> None:
    """Print, and go on whatever happens."""
    sys.stdout.write("printed, and kept by Python until the end\n")
    await asyncio.to_thread(Path(job.data).touch)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


@handlers.audio("orphan")
async def orphan(_: Job[Any]) -> str:
    """Leave a process behind whose parent has ended."""
    shell = await asyncio.create_subprocess_shell("sleep 0.2 & exit 0")
    await shell.wait()
    return "left"


@handlers.audio("ffmpeg")
async def ffmpeg(job: Job[Any]) -> str:
    """Run a program in the worker's process group, and fail if it does."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"import time; open({job.data!r}, 'w').close(); time.sleep(60)"
    )
    code = await program.wait()
    if code:
        raise subprocess.CalledProcessError(code, "ffmpeg")
    return "done"
