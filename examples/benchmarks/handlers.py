"""How near to the ideal: jobs that take 10 ms each, at concurrency 50 and 500.

The ideal is the concurrency divided by the handler's time. Every contender has a process of its
own on one private Valkey, and rounds alternate. Handlers that all take equally long end in herds,
whose slots wait for each other; beside them are handlers that take 5 to 15 ms.

    python examples/benchmarks/handlers.py --rounds 3 --json handlers.json
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import Bench, Round, Shape
from examples.benchmarks.benchkit.process import CONTENDERS
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone

_SECONDS = 1.5
_SLEEP = 10
_MOST_JOBS = 12_000


def measure(options: argparse.Namespace) -> Section:
    """Run the rounds of every contender."""
    rows: list[tuple[object, ...]] = []
    results = []
    with Bench(warm_up=500) as bench:
        for concurrency, spread in ((c, s) for c in options.concurrency for s in (False, True)):
            ideal = concurrency / _SLEEP * 1000
            span = "5 to 15 ms" if spread else "10 ms"
            rounds = _rounds(bench, options, concurrency, spread=spread)
            rate = asyncio.run(_sleep_alone(concurrency, spread=spread))
            alone = "asyncio.sleep alone", rate, f"{rate / ideal:.0%}", None, None
            rows.append((concurrency, span, *alone))
            for key, done in rounds.items():
                rate = median(each.jobs_per_second for each in done)
                limit = min(ideal, 1e6 / median(each.script_micros for each in done))
                share = median(each.server_share for each in done)
                label = CONTENDERS[key].label
                parts = f"{rate / ideal:.0%}", f"{rate / limit:.0%}", f"{share:.0%}"
                rows.append((concurrency, span, label, rate, *parts))
                results.append(
                    {"contender": label, "concurrency": concurrency, "ideal": ideal, "took": span}
                    | {"rounds": [asdict(each) for each in done]}
                )
    return Section(
        title="Short handlers",
        note="Jobs/s against the ideal, the concurrency divided by 10 ms, and against what the "
        "server allows, which runs one script at a time: one second divided by the script's time. "
        "The first row of each is a loop that only sleeps, without a queue: asyncio's timers are "
        "late by half a millisecond. Handlers that all take equally long end in herds, and their "
        "slots wait for each other; those of 5 to 15 ms don't. The server's share is "
        "the part of the time in which it ran scripts.",
        headings=(
            "concurrency",
            "handlers",
            "worker",
            "jobs/s",
            "of the ideal",
            "of the server's limit",
            "server's share",
        ),
        rows=rows,
        results=results,
        versions=bench.versions,
    )


def _rounds(
    bench: Bench, options: argparse.Namespace, concurrency: int, *, spread: bool
) -> dict[str, list[Round]]:
    """Each contender's rounds, in turns."""
    rounds: dict[str, list[Round]] = {key: [] for key in options.contenders}
    shape = Shape(sleep=_SLEEP, spread=spread)
    jobs = min(round(concurrency / _SLEEP * 1000 * _SECONDS), _MOST_JOBS)
    for _ in range(options.rounds):
        for key, done in rounds.items():
            done.append(bench.timed(CONTENDERS[key], concurrency, jobs, shape=shape))
            rate = done[-1].jobs_per_second
            progress(f"concurrency {concurrency}, {key}: {rate:,.0f} jobs/s")
    return rounds


async def _sleep_alone(concurrency: int, *, spread: bool) -> float:
    """Handlers a second of a loop that has nothing else to do."""
    ends_at = time.monotonic() + _SECONDS

    async def slot() -> int:
        done = 0
        while time.monotonic() < ends_at:
            part = random.uniform(0.5, 1.5) if spread else 1
            await asyncio.sleep(_SLEEP / 1000 * part)
            done += 1
        return done

    return sum(await asyncio.gather(*[slot() for _ in range(concurrency)])) / _SECONDS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each contender")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[50, 500])
    add_contenders(parser, CONTENDERS, "ours", "bullmq-node")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
