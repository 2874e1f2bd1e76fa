"""How many jobs a second a producer adds: JobClient beside Node's Queue.

One at a time, 50 at a time, and 10,000 in one call: ``enqueue``, ``enqueue_many``, and Node's
``add`` and ``addBulk``, jobs of 100 characters each. Rounds alternate; the queue is emptied before
each.

    python examples/benchmarks/enqueue.py --rounds 5 --json enqueue.json
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convolab_worker import JobClient
from examples.benchmarks.benchkit.bench import Bench
from examples.benchmarks.benchkit.process import Added
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, run_alone

_DATA = {"text": "x" * 100}
_WAYS = {
    "one at a time": (3000, 1),
    "50 at a time": (10_000, 50),
    "10,000 in one call": (10_000, 0),
}


def measure(options: argparse.Namespace) -> Section:
    """Time both producers, every way."""
    rows, results = [], []
    with Bench() as bench:
        for way, (jobs, at_once) in _WAYS.items():
            ours, node = [], []
            for _ in range(options.rounds):
                ours.append(_ours(bench, jobs, at_once))
                node.append(_node(bench, jobs, at_once))
                progress(f"{way}: {ours[-1].rate:,.0f} and {node[-1].rate:,.0f} jobs/s")
            ratio = median(a.rate / b.rate for a, b in zip(ours, node, strict=True))
            for label, added, times in (("JobClient", ours, f"{ratio:.2f}"), ("Node", node, "1")):
                cpu = median(each.cpu_seconds / each.jobs for each in added) * 10_000
                rows.append((way, label, median(each.rate for each in added), times, f"{cpu:.2f}"))
                results.append({"way": way, "producer": label, "rounds": [*map(asdict, added)]})
    return Section(
        title="Adding jobs",
        note="Jobs of 100 characters; × Node is the median of the ratios within each round; CPU "
        "seconds of the producer for 10,000 jobs.",
        headings=("how", "producer", "jobs/s", "× Node", "CPU s/10k"),
        rows=rows,
        results=results,
        versions=bench.versions,
    )


def _node(bench: Bench, jobs: int, at_once: int) -> Added:
    queue, _ = bench.new_queue()
    bench.producer.bulk(bench.server.url, queue, 100)
    return bench.producer.time(
        bench.server.url, queue, jobs=jobs, bulk=not at_once, at_once=at_once
    )


def _ours(bench: Bench, jobs: int, at_once: int) -> Added:
    queue, _ = bench.new_queue()
    return asyncio.run(_add(bench.server.url, queue, jobs, at_once))


async def _add(url: str, queue: str, jobs: int, at_once: int) -> Added:
    async with JobClient(redis_url=url, queues=(queue,)) as client:
        await client.enqueue_many([{"name": "noop"}] * 100)
        left = iter(range(jobs))

        async def one_by_one() -> None:
            for _ in left:
                await client.enqueue("noop", _DATA)

        elapsed = _stopwatch()
        if at_once:
            await asyncio.gather(*[one_by_one() for _ in range(at_once)])
        else:
            await client.enqueue_many([{"name": "noop", "data": _DATA}] * jobs)
        seconds, cpu_seconds = elapsed()
    return Added(jobs=jobs, seconds=seconds, cpu_seconds=cpu_seconds)


def _stopwatch() -> Callable[[], tuple[float, float]]:
    """Give the seconds and CPU seconds since this call, when asked."""
    began, cpu = time.perf_counter(), _cpu_seconds()
    return lambda: (time.perf_counter() - began, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each producer")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
