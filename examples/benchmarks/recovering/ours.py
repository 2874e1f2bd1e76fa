"""Contender: this worker; its lock duration is set by CONVOLAB_LOCK_DURATION."""

from __future__ import annotations

import asyncio
from typing import Any

from convolab_worker import HandlerRegistry, Job, JobClient, Worker
from examples.benchmarks.recovering.part import HOURS, main, started, url

handlers = HandlerRegistry()
_QUEUE = "recovery"


@handlers.audio("hold")
async def hold(_job: Job[Any]) -> None:
    """Be the job."""
    started()
    await asyncio.sleep(HOURS)


async def _add() -> None:
    async with JobClient(redis_url=url(), queues=(_QUEUE,)) as client:
        await client.enqueue("hold", {})


if __name__ == "__main__":
    main(
        work=lambda: asyncio.run(Worker(handlers, redis_url=url(), queues=(_QUEUE,)).run()),
        add=lambda: asyncio.run(_add()),
    )
