"""Contender: this worker, with a handler that does nothing.

Options are those of ``Settings``, and win over the environment.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import PackageNotFoundError, version
from tempfile import TemporaryFile
from typing import Any

from convolab_worker import HandlerRegistry, Job, Worker
from convolab_worker.cli.process.process import run_in_loop
from convolab_worker.telemetry.logging import configure_logging
from examples.benchmarks.contenders.harness import Arguments, act, answer_until_closed, emit

handlers = HandlerRegistry()
_CONNECT_SECONDS = 10.0


@handlers.audio("noop")
async def nothing(job: Job[Any]) -> None:
    """Do nothing with a job but what its data asks for."""
    await act(job.data)


async def main() -> None:
    """Work until the benchmark is done."""
    arguments = Arguments.from_argv()
    options = dict(arguments.options)
    _configure_logging(to_file=options.pop("log", False))
    worker = Worker(
        handlers,
        redis_url=arguments.url,
        queues=arguments.queues,
        concurrency=arguments.concurrency,
        **options,
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


def _configure_logging(*, to_file: bool) -> None:
    """A worker's lines at its defaults, to a file; or only warnings, as bullmq's log nothing."""
    if to_file:
        configure_logging("info", "json", TemporaryFile("w", encoding="utf-8"))  # noqa: SIM115
    else:
        configure_logging("warning", "json")


def _version() -> str:
    try:
        return version("convolab-worker")
    except PackageNotFoundError:
        return "from source"


if __name__ == "__main__":
    run_in_loop(main())  # as the command `run` does: uvloop where it is installed
