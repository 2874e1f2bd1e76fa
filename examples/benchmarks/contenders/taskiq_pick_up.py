"""taskiq's worker on Redis streams, or what adds its jobs: python -m … work|add URL CONCURRENCY."""

from __future__ import annotations

import asyncio
import sys
import time
from importlib.metadata import version

from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from examples.benchmarks.contenders.harness import emit


async def main() -> None:
    """Work, or add a job for each line of standard input, until that is closed."""
    role, url, concurrency = sys.argv[1:]
    broker = RedisStreamBroker(url)

    async def started(sent_at: int) -> None:
        emit("started", delay_ms=(time.monotonic_ns() - sent_at) / 1e6)

    task = broker.task(task_name="started")(started)
    await broker.startup()
    working = None
    if role == "work":
        working = asyncio.create_task(run_receiver_task(broker, max_async_tasks=int(concurrency)))
    emit("ready", version=version("taskiq-redis"))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.readline():
        await task.kiq(time.monotonic_ns())
    if working is not None:
        working.cancel()


if __name__ == "__main__":
    asyncio.run(main())
