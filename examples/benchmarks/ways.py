"""What it costs a job to run in the loop, in a thread, in a process, and with big data.

One worker in this process, on one private Valkey; rounds of the ways alternate. Threads that are
kept are beside the way in which they were used before: a new one for each job. A handler that only
returns its data shows what is not its own work.

    python examples/benchmarks/ways.py --rounds 5 --json ways.json
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.embedded import EmbeddedServer
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, run_alone

_WARM_UP = 20
_BIG_JOBS = 10
_MOST_SECONDS = 60
_BIG = {"text": "x" * 1_000_000}

_HEADINGS = ("one slot", "more", "8 slots", "more", "1 MB, ms", "more, ms")

handlers = HandlerRegistry()


@handlers.audio("in the loop")
async def in_loop(job: Job[Any]) -> Any:
    """Return the data."""
    return job.data


@handlers.audio("in a thread that is kept")
def in_thread(job: Job[Any]) -> Any:
    """Return the data."""
    return job.data


@handlers.audio("in a new thread for each job")
async def in_new_thread(job: Job[Any]) -> Any:
    """Return the data, as plain handlers ran before threads were kept."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    threading.Thread(
        target=lambda: loop.call_soon_threadsafe(ended.set_result, job.data), daemon=True
    ).start()
    return await ended


@handlers.audio("in a process", process=True)
def in_process(job: Job[Any]) -> Any:
    """Return the data."""
    return job.data


_WAYS = (
    "in the loop", "in a thread that is kept", "in a new thread for each job", "in a process"
)  # fmt: skip


def measure(options: argparse.Namespace) -> Section:
    """Run the rounds of each way, in turns."""
    # A line for each job would be most of what is measured.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    took: dict[tuple[str, int], list[float]] = {}
    with EmbeddedServer() as server:
        for _ in range(options.rounds):
            for concurrency in (1, 8):
                for way in _WAYS:
                    seconds = asyncio.run(_per_job(server.url, way, concurrency, options.jobs))
                    took.setdefault((way, concurrency), []).append(seconds)
                    progress(f"{way}, concurrency {concurrency}: {seconds * 1e6:.0f} us a job")
            for way in _WAYS:
                seconds = asyncio.run(_per_job(server.url, way, 1, _BIG_JOBS, _BIG))
                took.setdefault((way, 0), []).append(seconds)
    middle = {key: min(seconds) * 1e6 for key, seconds in took.items()}
    more = {key: us - middle[_WAYS[0], key[1]] for key, us in middle.items()}
    return Section(
        title="Loop, thread, process",
        note="Microseconds a job, the whole job with its commands, and how much more that is than "
        "in the loop; the best of the rounds. At concurrency 8 jobs overlap. The last column is a "
        "job with 1 MB of data that it returns. A process's start is not in them.",
        headings=("the handler runs", *_HEADINGS),
        rows=[
            (
                way,
                f"{middle[way, 1]:.0f}",
                f"{more[way, 1]:.0f}",
                f"{middle[way, 8]:.0f}",
                f"{more[way, 8]:.0f}",
                f"{middle[way, 0] / 1000:.1f}",
                f"{more[way, 0] / 1000:.1f}",
            )
            for way in _WAYS
        ],
        results=[
            {"way": way, "concurrency": concurrency or 1, "big": not concurrency, "seconds": each}
            for (way, concurrency), each in took.items()
        ],
    )


async def _per_job(
    url: str, way: str, concurrency: int, jobs: int, data: dict[str, str] | None = None
) -> float:
    """Seconds a job, once threads and processes are there."""
    settings = Settings(redis_url=url, concurrency=concurrency, queues=("ways",))
    async with JobClient(settings) as client, Worker(handlers, settings) as worker:
        await _run(client, worker, way, _WARM_UP, data)
        return await _run(client, worker, way, jobs, data) / jobs


async def _run(
    client: JobClient, worker: Worker, way: str, jobs: int, data: dict[str, str] | None
) -> float:
    done = _done(worker) + jobs
    job = {"name": way, "data": data or {}, "keep_completed": "none"}
    began = time.perf_counter()
    await client.enqueue_many([job] * jobs)
    async with asyncio.timeout(_MOST_SECONDS):
        while _done(worker) < done:  # noqa: ASYNC110 - the last of many has no event
            await asyncio.sleep(0.001)
    return time.perf_counter() - began


def _done(worker: Worker) -> int:
    return int(worker.stats()["outcomes"].get("completed", 0))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each way")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of a round")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
