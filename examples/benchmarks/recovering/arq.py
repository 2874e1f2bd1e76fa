"""Contender: arq at its defaults."""

from __future__ import annotations

import asyncio
from typing import Any

from arq import Worker, create_pool
from arq.connections import RedisSettings

from examples.benchmarks.recovering.part import HOURS, main, started, url


async def hold(_context: dict[str, Any]) -> None:
    """Be the job."""
    started()
    await asyncio.sleep(HOURS)


def _work() -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())  # it asks for one when it is made
    Worker(functions=[hold], redis_settings=RedisSettings.from_dsn(url())).run()


async def _add() -> None:
    pool = await create_pool(RedisSettings.from_dsn(url()))
    await pool.enqueue_job("hold")


if __name__ == "__main__":
    main(work=_work, add=lambda: asyncio.run(_add()))
