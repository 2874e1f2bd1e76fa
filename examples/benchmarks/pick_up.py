"""From add to the handler's first line on an idle worker: beside Node's and taskiq's.

One job at a time, each after half a second without any. bullmq's workers and this one get their
jobs from Node's BullMQ; taskiq, which has another protocol, from a process of its own: its time is
from just before ``kiq`` there. Rounds alternate; every process was warmed up.

    python examples/benchmarks/pick_up.py --rounds 5 --json pick_up.json
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Protocol

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import Bench
from examples.benchmarks.benchkit.child import LineProcess
from examples.benchmarks.benchkit.environments import TASKIQ, python_of
from examples.benchmarks.benchkit.process import (
    BULLMQ_NODE,
    OURS,
    OURS_QUIET,
    OURS_UVLOOP,
    Contender,
    WorkerProcess,
    ours_newer,
)
from examples.benchmarks.benchkit.report import progress, quantile
from examples.benchmarks.benchkit.section import Section, run_alone
from examples.benchmarks.benchkit.server import PrivateServer

_CONCURRENCY = 10
_PATIENCE = 20.0
_TASKIQ = "examples.benchmarks.contenders.taskiq_pick_up"


class Idle(Protocol):
    """A worker that is idle."""

    def pick_up(self) -> float:
        """Add one job; milliseconds to its handler."""


class _Bullmq:
    def __init__(self, bench: Bench, contender: Contender, ends: ExitStack) -> None:
        self._bench, self._queue = bench, f"idle-{contender.key}"
        self._url = bench.server.url
        bench.producer.open(self._url, self._queue)
        worker = WorkerProcess(contender, self._url, self._queue, concurrency=_CONCURRENCY)
        self._worker = ends.enter_context(worker)

    def pick_up(self) -> float:
        self._bench.producer.add(self._url, self._queue)
        return self._worker.next_start(timeout=_PATIENCE)


class _Taskiq:
    def __init__(self, server: PrivateServer, ends: ExitStack) -> None:
        command = [python_of(TASKIQ), "-m", _TASKIQ]
        flags = [server.url, str(_CONCURRENCY)]
        self._worker = ends.enter_context(LineProcess("taskiq", [*command, "work", *flags]))
        self._producer = ends.enter_context(LineProcess("taskiq", [*command, "add", *flags]))
        self.version = str(self._worker.ready["version"])

    def pick_up(self) -> float:
        self._producer.send({"op": "add"})
        return float(self._worker.expect("started", timeout=_PATIENCE)["delay_ms"])


def measure(options: argparse.Namespace) -> Section:
    """Give each worker a job in turns; medians of the rounds' medians."""
    with Bench() as bench, ExitStack() as ends:
        workers: dict[str, Idle] = {
            contender.label: _Bullmq(bench, contender, ends)
            for contender in (OURS, OURS_QUIET, *ours_newer(), OURS_UVLOOP, BULLMQ_NODE)
        }
        taskiq = workers["taskiq"] = _Taskiq(bench.server, ends)
        for worker in workers.values():
            for _ in range(options.warm_up):
                worker.pick_up()
        rounds: dict[str, list[list[float]]] = {label: [] for label in workers}
        for number in range(options.rounds):
            delays: dict[str, list[float]] = {label: [] for label in workers}
            for _ in range(options.jobs):
                for label, worker in workers.items():
                    time.sleep(options.pause / len(workers))
                    delays[label].append(worker.pick_up())
            for label, found in delays.items():
                rounds[label].append(found)
            middle = ", ".join(f"{label} {median(found):.2f}" for label, found in delays.items())
            progress(f"round {number + 1} of {options.rounds}: {middle} ms")
        versions = {**bench.versions, "taskiq-redis": taskiq.version}
    rows = []
    for label, each in rounds.items():
        pairs = zip(each, rounds["taskiq"], strict=True)
        ratio = median(median(one) / median(other) for one, other in pairs)
        everything = [delay for found in each for delay in found]
        p50 = median(median(found) for found in each)
        rows.append((label, p50, quantile(everything, 0.9), f"{ratio:.2f}"))
    return Section(
        title="Pick-up from idle",
        note=f"Milliseconds from add to the handler's first line, {options.jobs} jobs in each of "
        f"{options.rounds} rounds, one at a time and in turns, each worker idle for "
        f"{options.pause:g} s before; the p50 is the median of the rounds' medians, × taskiq the "
        "median of the ratios within each round. taskiq's jobs come from a Python process, all "
        "others' from Node, whose script takes longer than taskiq's one command.",
        headings=("worker", "p50", "p90", "× taskiq"),
        rows=rows,
        results=rounds,
        versions=versions,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each worker")
    parser.add_argument("--jobs", type=int, default=20, help="jobs in each round")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two of a worker")
    parser.add_argument("--warm-up", type=int, default=20, help="jobs before the first round")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
