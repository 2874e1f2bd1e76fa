"""Resident memory of a worker's process: idle, and with 500 jobs of 10 KB in flight.

python examples/benchmarks/memory.py --rounds 3 --json memory.json
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import Bench
from examples.benchmarks.benchkit.process import CONTENDERS, BenchmarkError, Contender
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, run_alone

_JOBS = 500
_SIZE = 10_000
_HANDLER_MS = 4000
_PATIENCE = 30.0
_MEGABYTE = 1e6


def measure(options: argparse.Namespace) -> Section:
    """Start each contender anew for every round; medians."""
    sizes: dict[str, list[tuple[float, float]]] = {key: [] for key in options.contenders}
    with Bench(warm_up=10) as bench:
        for _ in range(options.rounds):
            for key, found in sizes.items():
                found.append(_sizes(bench, CONTENDERS[key]))
                progress(f"{key}: {found[-1][0]:.1f} MB idle, {found[-1][1]:.1f} MB in flight")
    rows = [
        (CONTENDERS[key].label, *(median(each) for each in zip(*found, strict=True)))
        for key, found in sizes.items()
    ]
    return Section(
        title="Memory",
        note=f"Resident megabytes of the worker's process: after {bench.warm_up} jobs, and with "
        f"{_JOBS} jobs of {_SIZE // 1000} KB in its handlers. Medians of {options.rounds} starts.",
        headings=("worker", "idle", "500 jobs of 10 KB"),
        rows=rows,
        results=sizes,
        versions=bench.versions,
    )


def _sizes(bench: Bench, contender: Contender) -> tuple[float, float]:
    queue, _ = bench.new_queue()
    with bench.started(contender, _JOBS, queue) as worker:
        idle = worker.memory() / _MEGABYTE
        bench.producer.bulk(bench.server.url, queue, _JOBS, size=_SIZE, sleep=_HANDLER_MS)
        deadline = time.monotonic() + _PATIENCE
        while bench.server.admin.llen(f"bull:{queue}:active") < _JOBS:
            if time.monotonic() > deadline:
                raise BenchmarkError(worker.told(f"never had {_JOBS} jobs at once"))
            time.sleep(0.01)
        return idle, worker.memory() / _MEGABYTE


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=3, help="starts of each contender")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=[*CONTENDERS])


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
