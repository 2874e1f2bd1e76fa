"""Contender: SAQ at its defaults."""

from __future__ import annotations

import asyncio
from typing import Any

from saq import Queue, Worker

from examples.benchmarks.recovering.part import HOURS, main, started, url


async def hold(_context: dict[str, Any]) -> None:
    """Be the job."""
    started()
    await asyncio.sleep(HOURS)


async def _work() -> None:
    await Worker(Queue.from_url(url()), functions=[hold]).start()


async def _add() -> None:
    queue = Queue.from_url(url())
    await queue.connect()
    await queue.enqueue("hold")
    await queue.disconnect()


if __name__ == "__main__":
    main(work=lambda: asyncio.run(_work()), add=lambda: asyncio.run(_add()))
