"""``python -m tests.faults.memory``: a worker's resident set after ever more no-op jobs.

A leak of a few bytes a job shows after a million of them. The first measurement comes after ten
thousand jobs, when everything that is made once has been made.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from convolab_worker import HandlerRegistry, Job
from convolab_worker.bullmq import producer
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter
from convolab_worker.connection.connection import Connection
from convolab_worker.embedded import EmbeddedServer
from tests.faults.harness import Bench, Ledger
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

FIRST = 10_000
ALLOWED = 0.10
_BULK = 1000
_AHEAD = 4
_QUEUE = "memory"
_PATIENCE_SECONDS = 60.0

handlers = HandlerRegistry()


@handlers.audio("no-op")
async def no_op(_: Job[dict[str, int]]) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How much memory the worker had resident after so many jobs."""

    jobs: int
    kib: int


def resident_kib(pid: int) -> int:
    """The resident set of a process, as the system's own tool tells it."""
    told = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)], check=True, capture_output=True, text=True
    )
    return int(told.stdout)


def growth(samples: Sequence[Sample]) -> float:
    """What the last sample is above the first, as a part of the first."""
    return samples[-1].kib / samples[0].kib - 1


class _Feeder:
    """Adds no-op jobs that vanish when they are done, a little ahead of the worker."""

    def __init__(self, bench: Bench, url: str) -> None:
        self._bench = bench
        self._counter = CommandCounter()
        self._connection = Connection(
            Address.parse(url), timeout=_PATIENCE_SECONDS, counter=self._counter
        )
        self._keys = QueueKeys("bull", bench.queue)
        self._added = 0

    async def feed(self, jobs: int) -> None:
        """Go on until so many jobs have been added in all, and all are done."""
        await self._connection.open()
        while self._added < jobs:
            await self._wait_for(_AHEAD * _BULK)
            size = min(_BULK, jobs - self._added)
            await asyncio.gather(*[self._add(self._added + number) for number in range(size)])
            self._added += size
        await self._wait_for(0)

    async def _add(self, number: int) -> None:
        job = NewJob(
            id=f"job-{number}",
            name="no-op",
            data=f'{{"number": {number}}}',
            opts={"removeOnComplete": True},
        )
        await producer.add(self._connection, self._keys, job)

    async def _wait_for(self, most: int) -> None:
        await wait_until(
            lambda: sum(map(self._bench.count, ("wait", "active"))) <= most,
            timeout=_PATIENCE_SECONDS,
            what="the end of the jobs",
        )

    async def close(self) -> None:
        await self._connection.close()


async def samples(bench: Bench, url: str, marks: Sequence[int]) -> AsyncIterator[Sample]:
    """Run a worker on ``bench``, and measure it after each of the numbers of jobs."""
    worker = bench.process(app="tests.faults.memory:handlers", log_level="warning", concurrency=8)
    feeder = _Feeder(bench, url)
    try:
        for mark in marks:
            await feeder.feed(mark)
            assert worker.exit_code is None, worker.text()
            yield Sample(mark, resident_kib(worker.pid))
    finally:
        await feeder.close()


def _marks(jobs: int) -> list[int]:
    """Where to measure: at the first ten thousand, in ten steps, and at the end."""
    steps = [FIRST + (jobs - FIRST) * step // 10 for step in range(11)]
    return [steps[0], *(later for earlier, later in pairwise(steps) if later > earlier)]


async def _measure(jobs: int) -> list[Sample]:
    with (
        EmbeddedServer() as server,
        tempfile.TemporaryDirectory(prefix="memory-") as folder,
        Bench(server, Ledger(server.url, _QUEUE), _QUEUE, Path(folder)) as bench,
    ):
        taken = []
        async for sample in samples(bench, server.url, _marks(jobs)):
            taken.append(sample)
            print(f"{sample.jobs:>10,} jobs {sample.kib / 1024:7.1f} MiB", flush=True)  # noqa: T201
        return taken


def main(arguments: list[str]) -> int:
    """Measure and print; 0 if the worker has not grown by more than a tenth."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.memory", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many (%(default)s)")
    given = parser.parse_args(arguments)
    grown = growth(asyncio.run(_measure(given.jobs)))
    print(f"{grown:+.1%} since the first {FIRST:,}; {ALLOWED:.0%} is allowed")  # noqa: T201
    return 0 if grown <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
