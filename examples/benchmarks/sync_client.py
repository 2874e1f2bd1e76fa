"""How many jobs a second a program of threads adds: SyncJobClient beside redis-py and JobClient.

redis-py's blocking client runs the very script calls that a job takes, and nothing else. JobClient
adds in one event loop, from as many tasks as there are threads. Rounds alternate.

    python examples/benchmarks/sync_client.py --rounds 5 --json sync_client.json
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from redis import Redis

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convolab_worker import JobClient, SyncJobClient
from convolab_worker.bullmq.protocol.client_calls import add_job
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.client.adding.enqueue import addition
from examples.benchmarks.benchkit.bench import Bench
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, run_alone

_DATA = {"text": "x" * 100}
_BEFORE = 50  # jobs that are added before the time counts

Rate = Callable[[str, str, int, int], float]
"""Returns jobs a second, for an address, a queue, a number of jobs and of threads."""


def measure(options: argparse.Namespace) -> Section:
    """Time the three, with one thread and with eight."""
    ways: dict[str, Rate] = {
        "redis-py's blocking client": _redis_py,
        "SyncJobClient": _sync_client,
        "JobClient, in one loop": _job_client,
    }
    rows, results = [], []
    with Bench() as bench:
        for threads in (1, 8):
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(options.rounds):
                for name, rate in ways.items():
                    queue, _ = bench.new_queue()
                    rates[name].append(rate(bench.server.url, queue, options.jobs, threads))
                progress(f"{threads}: {', '.join(f'{r[-1]:,.0f}' for r in rates.values())} jobs/s")
            ours = rates["SyncJobClient"]
            for name, found in rates.items():
                times = median(o / f for o, f in zip(ours, found, strict=True))
                micros = 1e6 / median(found) * threads
                rows.append((threads, name, median(found), f"{micros:.0f}", f"{times:.2f}"))
                results.append({"threads": threads, "client": name, "rates": found})
        versions = bench.versions
    return Section(
        title="Adding jobs from threads",
        note="Jobs of 100 characters, one call each. The last column is the rate of SyncJobClient "
        "by that of the row: the median of the ratios within each round.",
        headings=("threads", "client", "jobs/s", "µs a call", "SyncJobClient is ×"),
        rows=rows,
        results=results,
        versions=versions,
    )


def _redis_py(url: str, queue: str, jobs: int, threads: int) -> float:
    keys, add = QueueKeys("bull", queue), script("addStandardJob")
    with Redis.from_url(url) as redis:
        redis.script_load(add.text)

        def add_one() -> None:
            new = addition("noop", _DATA, {}, lambda _: keys)
            call = add_job(keys, new.job, round(time.time() * 1000))
            redis.evalsha(add.sha, len(call.keys), *call.keys, *call.args)

        return _timed(add_one, jobs, threads)


def _sync_client(url: str, queue: str, jobs: int, threads: int) -> float:
    with SyncJobClient(redis_url=url, queues=(queue,)) as client:
        return _timed(lambda: client.enqueue("noop", _DATA), jobs, threads)


def _timed(add_one: Callable[[], object], jobs: int, threads: int) -> float:
    """Return jobs a second of a call that so many threads make at once."""

    def run(count: int) -> None:
        for _ in range(count):
            add_one()

    def in_threads(count: int) -> None:
        running = [threading.Thread(target=run, args=(count,)) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    in_threads(_BEFORE)
    began = time.perf_counter()
    in_threads(jobs // threads)
    return jobs / (time.perf_counter() - began)


def _job_client(url: str, queue: str, jobs: int, threads: int) -> float:
    async def main() -> float:
        async with JobClient(redis_url=url, queues=(queue,)) as client:

            async def run(count: int) -> None:
                for _ in range(count):
                    await client.enqueue("noop", _DATA)

            await asyncio.gather(*[run(_BEFORE) for _ in range(threads)])
            began = time.perf_counter()
            await asyncio.gather(*[run(jobs // threads) for _ in range(threads)])
            return jobs / (time.perf_counter() - began)

    return asyncio.run(main())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each client")
    parser.add_argument("--jobs", type=int, default=4000, help="jobs in each round")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
