"""Contender: streaq at its defaults."""

from __future__ import annotations

import asyncio
from typing import Any

from streaq import Worker

from examples.benchmarks.recovering.part import HOURS, main, started, url

worker: Any = Worker(redis_url=url())


async def hold() -> None:
    """Be the job."""
    started()
    await asyncio.sleep(HOURS)


task = worker.task(hold)


async def _add() -> None:
    async with worker:
        await task.enqueue()


if __name__ == "__main__":
    main(work=worker.run_sync, add=lambda: asyncio.run(_add()))
