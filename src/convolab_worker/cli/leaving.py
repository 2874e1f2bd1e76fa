"""Ending the process on time, whatever a handler still does."""

from __future__ import annotations

import asyncio
import os
import sys

import structlog

_PATIENCE_SECONDS = 0.2


async def leave(code: int) -> int:
    """Return ``code`` if nothing is left that would keep the process; otherwise end it with that.

    asyncio waits for ever for a task that ignores its cancellation, and for a thread of its pool.
    Their jobs have been returned or failed already: nothing is lost with them.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_PATIENCE_SECONDS)
    left = sorted(task.get_name() for task in tasks if not task.done())
    pool = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
    done, _ = await asyncio.wait({pool}, timeout=_PATIENCE_SECONDS)
    if left or not done:
        log = structlog.get_logger("convolab_worker")
        log.warning("process.left_behind", tasks=left, threads=not done)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
