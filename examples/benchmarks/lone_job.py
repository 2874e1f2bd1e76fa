"""What a job costs that arrives alone: commands of this worker, bullmq Node and bullmq Python.

Each worker waits idle on a private Valkey; a Node producer adds one job; every command that
the worker sends, and that its scripts run, is counted until it waits again. The producer's own
commands are left out. The numbers are medians over the jobs: an idle worker's own round may
fall into one job's window.

    python examples/benchmarks/lone_job.py --jobs 11 --json lone_job.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.monitor import CommandCount, MonitorTap, count
from examples.benchmarks.benchkit.process import CONTENDERS, Contender, Producer, WorkerProcess
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone
from examples.benchmarks.benchkit.server import PrivateServer

_WARM_UP = 2
_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneJobs:
    """What lone jobs cost one contender at one concurrency, job by job."""

    contender: str
    concurrency: int
    client_sent: list[int]
    billable: list[int]
    pick_up_ms: list[float]
    sent: dict[str, float]
    scripted: dict[str, float]


def measure(options: argparse.Namespace) -> Section:
    """Let lone jobs arrive at each contender, one contender at a time."""
    results: list[LoneJobs] = []
    with PrivateServer() as server, Producer() as producer:
        for concurrency in options.concurrency:
            for key in options.contenders:
                progress(f"concurrency {concurrency}, {CONTENDERS[key].label}")
                results.append(_lone(server, producer, CONTENDERS[key], concurrency, options))
    return Section(
        title="A lone job",
        note=f"Medians of {options.jobs} lone jobs each, {options.settle:g} s apart.",
        headings=(
            "concurrency, worker",
            "sent",
            "billable",
            "lowest and highest bill",
            "pick-up p50 ms",
            "worst ms",
            "sent by name (mean)",
        ),
        rows=[_row(result) for result in results],
        results=[asdict(result) for result in results],
        versions={"valkey": server.version},
    )


def _row(result: LoneJobs) -> tuple[object, ...]:
    return (
        f"{result.concurrency:>2}  {result.contender}",
        f"{median(result.client_sent):g}",
        f"{median(result.billable):g}",
        f"{min(result.billable)} … {max(result.billable)}",
        f"{median(result.pick_up_ms):.2f}",
        f"{max(result.pick_up_ms):.2f}",
        ", ".join(f"{name} {calls:g}" for name, calls in result.sent.items()),
    )


def _lone(
    server: PrivateServer,
    producer: Producer,
    contender: Contender,
    concurrency: int,
    options: argparse.Namespace,
) -> LoneJobs:
    """Let lone jobs arrive at one worker, and count what each costs."""
    queue = f"lone-{contender.key}-{concurrency}"
    server.admin.flushall()
    producer.open(server.url, queue)
    others = frozenset(fields["addr"] for fields in server.connections().values())
    started = WorkerProcess(contender, server.url, queue, concurrency=concurrency)
    counts: list[CommandCount] = []
    delays: list[float] = []
    with started as worker, MonitorTap(server.port) as tap:
        for number in range(_WARM_UP + options.jobs):
            start = tap.mark()
            producer.add(server.url, queue)
            delay = worker.next_start(timeout=_START_SECONDS)
            # Nothing tells that a foreign worker has gone back to its wait, so it gets time.
            time.sleep(options.settle)
            if number >= _WARM_UP:
                counts.append(count(tap.between(start, tap.mark()), ignore=others))
                delays.append(delay)
    return LoneJobs(
        contender=contender.label,
        concurrency=concurrency,
        client_sent=[each.client_sent for each in counts],
        billable=[each.billable for each in counts],
        pick_up_ms=delays,
        sent=_mean([each.sent for each in counts]),
        scripted=_mean([each.scripted for each in counts]),
    )


def _mean(counts: list[dict[str, int]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return {name: round(calls / len(counts), 2) for name, calls in total.most_common()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--jobs", type=int, default=11, help="lone jobs for each worker")
    parser.add_argument(
        "--settle", type=float, default=1.0, metavar="SECONDS", help="quiet time after each job"
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 10, 50])
    add_contenders(parser, CONTENDERS)


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
