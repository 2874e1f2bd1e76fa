"""Contender: this worker, with a handler that does nothing.

Options are those of ``Settings``, and win over the environment.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from convolab_worker import HandlerRegistry, Job, Worker
from convolab_worker.telemetry import configure_logging
from examples.benchmarks.contenders.harness import (
    Arguments,
    answer_until_closed,
    emit,
    report_start,
)

handlers = HandlerRegistry()
_CONNECT_SECONDS = 10.0


@handlers.audio("noop")
async def nothing(job: Job[Any]) -> None:
    """Do nothing with a job but say when it started."""
    report_start(job.data)


async def main() -> None:
    """Work until the benchmark is done."""
    arguments = Arguments.from_argv()
    configure_logging("warning", "json")
    worker = Worker(
        handlers,
        redis_url=arguments.url,
        queues=arguments.queues,
        concurrency=arguments.concurrency,
        **arguments.options,
    )
    # In a group, so that whatever ends the worker ends this program, and is told.
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run(), name="worker")
        async with asyncio.timeout(_CONNECT_SECONDS):
            # Only its statistics say so: no public event does.
            while not worker.stats().get("connected"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        emit("ready", versions={"convolab-worker": _version()})
        await answer_until_closed()
        await worker.stop(grace=1.0)


def _version() -> str:
    try:
        return version("convolab-worker")
    except PackageNotFoundError:
        return "from source"


if __name__ == "__main__":
    asyncio.run(main())
