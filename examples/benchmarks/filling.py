"""How long until fifty slots run, near Redis and far from it: fifty jobs come in one call.

Redis is behind a proxy that holds every packet back, so that a round trip takes as long as said.
Each job takes a second, so that every one needs a slot of its own. A wait is from add in Node to
the handler.

    python examples/benchmarks/filling.py --rounds 3 --trips 0 20 --json filling.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import Bench
from examples.benchmarks.benchkit.process import CONTENDERS, Contender, WorkerProcess
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone
from tests.support.proxy import TcpProxy

_JOBS = 50
_SLEEP = 1000


def measure(options: argparse.Namespace) -> Section:
    """Let every contender fill its slots, at each distance."""
    results: list[dict[str, object]] = []
    rows = []
    with Bench(warm_up=50) as bench, TcpProxy(bench.server.port) as proxy:
        for trip in options.trips:
            waits: dict[str, list[list[float]]] = {key: [] for key in options.contenders}
            for _ in range(options.rounds):
                for key, seen in waits.items():
                    seen.append(_waits(bench, proxy, CONTENDERS[key], trip))
                    progress(f"{trip} ms, {key}: the last after {seen[-1][-1]:.0f} ms")
            for key, seen in waits.items():
                middle = median(each[_JOBS // 2] for each in seen)
                last = median(each[-1] for each in seen)
                label = CONTENDERS[key].label
                rows.append((f"{trip} ms", label, middle, last))
                results.append({"contender": label, "trip_ms": trip, "waits_ms": seen})
    return Section(
        title="Filling fifty slots",
        note="Milliseconds from one addBulk of 50 jobs in Node, beside Redis, to the start of the "
        "25th and of the last one on an idle worker of concurrency 50, so many milliseconds from "
        "Redis and back.",
        headings=("round trip", "worker", "25th", "last"),
        rows=rows,
        results=results,
        versions=bench.versions,
    )


def _waits(bench: Bench, proxy: TcpProxy, contender: Contender, trip: float) -> list[float]:
    """Each job's wait in ms, the shortest first."""
    queue, _ = bench.new_queue()
    with WorkerProcess(contender, proxy.url, queue, concurrency=_JOBS) as worker:
        bench.versions.update(worker.ready["versions"])
        bench.producer.bulk(bench.server.url, queue, bench.warm_up)
        bench.until_finished(worker, queue, bench.warm_up)
        proxy.delay(trip / 2000)
        try:
            jobs = [{"number": n, "keep": 1, "sleep": _SLEEP} for n in range(_JOBS)]
            bench.producer.batch(bench.server.url, queue, jobs)
            bench.until_finished(worker, queue, bench.warm_up + _JOBS)
            return sorted(worker.kept())
        finally:
            proxy.resume()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=3, help="fillings of each contender")
    parser.add_argument(
        "--trips", type=float, nargs="+", default=[0, 20], metavar="MS", help="round trips in ms"
    )
    add_contenders(parser, CONTENDERS, "ours", "bullmq-node", "bullmq-python")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
