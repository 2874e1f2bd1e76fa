"""Contender: taskiq with Redis streams, at its defaults; its worker is its own command line."""

from __future__ import annotations

import asyncio
from typing import Any

from taskiq_redis import RedisStreamBroker

from examples.benchmarks.recovering.part import HOURS, become, main, started, url

broker: Any = RedisStreamBroker(url())


async def hold() -> None:
    """Be the job."""
    started()
    await asyncio.sleep(HOURS)


task = broker.register_task(hold, task_name="hold")


def _work() -> None:
    become("taskiq", "worker", "--workers=1", "examples.benchmarks.recovering.taskiq:broker")


async def _add() -> None:
    await broker.startup()
    await task.kiq()
    await broker.shutdown()


if __name__ == "__main__":
    main(work=_work, add=lambda: asyncio.run(_add()))
