"""The handlers of a worker whose wake server is attacked."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import ExitStack
from typing import Any

from convolab_worker import HandlerRegistry, Job

_FILES = 20
_LOOKS, _LOOK_SECONDS = 20, 0.005

handlers = HandlerRegistry()


@handlers.audio("work")
async def work(job: Job[dict[str, Any]]) -> str:
    await asyncio.sleep(job.data.get("seconds", 0))
    return job.id


@handlers.image("open-files")
async def open_files(_: Job[dict[str, Any]]) -> int:
    """Have twenty files open at once, as a handler may."""
    with ExitStack() as stack:
        for _number in range(_FILES):
            stack.enter_context(open(os.devnull, "rb"))  # noqa: ASYNC230, PTH123 - what is tested
        return _FILES


@handlers.course("look")
async def look(_: Job[dict[str, Any]]) -> dict[str, float]:
    """Count the tasks of all event loops, and measure how late this one is."""
    loop, lag = asyncio.get_running_loop(), 0.0
    for _number in range(_LOOKS):
        due = loop.time() + _LOOK_SECONDS
        await asyncio.sleep(_LOOK_SECONDS)
        lag = max(lag, loop.time() - due)
    tasks = sum(isinstance(one, asyncio.Task) for one in gc.get_objects())
    return {"tasks": tasks, "lag_ms": round(1000 * lag, 1)}
