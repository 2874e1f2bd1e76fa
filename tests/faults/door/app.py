"""The handlers of a worker whose wake server is attacked."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from typing import Any

from convolab_worker import HandlerRegistry, Job

_FILES = 20

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
