"""Contender: bullmq's Python worker, without redis-py 8's socket time-out, which breaks it."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from bullmq import Job, Queue, Worker

from examples.benchmarks.recovering.part import HOURS, main, started, url

_QUEUE = "recovery"


def _connection() -> dict[str, object]:
    address = urlsplit(url())
    return {"host": address.hostname, "port": address.port, "socket_timeout": None}


async def hold(_job: Job, _token: str) -> None:
    """Be the job."""
    started()
    await asyncio.sleep(HOURS)


async def _work() -> None:
    Worker(_QUEUE, hold, {"connection": _connection()})
    await asyncio.sleep(HOURS)


async def _add() -> None:
    queue = Queue(_QUEUE, {"connection": _connection()})
    await queue.add("hold", {}, {})
    await queue.close()


if __name__ == "__main__":
    main(work=lambda: asyncio.run(_work()), add=lambda: asyncio.run(_add()))
