"""Contender: bullmq's own Python worker, one for each queue, with a handler that does nothing.

redis-py 8 gives up on a blocked read after 5 s by default, which leaves bullmq's worker deaf
for seconds. So that it is at its best, its connections get no socket time-out here; the option
``as_it_comes`` leaves that out.
"""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import version
from urllib.parse import urlsplit

from bullmq import Job, Worker

from examples.benchmarks.contenders.harness import Arguments, act, answer_until_closed, emit


async def nothing(job: Job, _token: str) -> None:
    """Do nothing with a job but what its data asks for."""
    await act(job.data)


async def main() -> None:
    """Work until the benchmark is done."""
    arguments = Arguments.from_argv()
    options = dict(arguments.options)
    address = urlsplit(arguments.url)
    connection: dict[str, object] = {"host": address.hostname, "port": address.port}
    if not options.pop("as_it_comes", False):
        connection["socket_timeout"] = None
    settings = {"concurrency": arguments.concurrency, "connection": connection, **options}
    workers = [Worker(queue, nothing, dict(settings)) for queue in arguments.queues]
    for worker in workers:
        await worker.backend.waitUntilReady()
    emit("ready", versions={"bullmq (PyPI)": version("bullmq"), "redis-py": version("redis")})
    await answer_until_closed()
    # Its close() waits for a blocked read that has no time-out; the measurement is over.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
