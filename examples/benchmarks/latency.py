"""How long jobs wait under load: from add in Node to the handler, at parts of the highest rate.

The highest rate of a contender is measured before each load, as a machine that others use is not
equally fast all the time, with the producer adding all the while: it takes CPU time too. Then jobs
come at an even 10, 50 and 90 % of it. A job counts as sent when it is due by that rate, so that a
producer or a worker that falls behind can't hide how long it takes. Medians of some rounds.

    python examples/benchmarks/latency.py --seconds 5 --rounds 3 --json latency.json
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
from examples.benchmarks.benchkit.process import CONTENDERS, Contender
from examples.benchmarks.benchkit.report import progress, quantile
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone

_CONCURRENCY = 50
_FLOOD = 1e6  # jobs a second: as fast as the producer can
_FLOOD_JOBS = 8000
_QUANTILES = (0.5, 0.99, 0.999)


def measure(options: argparse.Namespace) -> Section:
    """Find each contender's highest rate, then load it with parts of that."""
    contenders = [CONTENDERS[key] for key in options.contenders]
    results: list[dict[str, object]] = []
    rows = []
    with Bench(warm_up=500) as bench:
        for part in options.parts:
            rounds: dict[str, list[tuple[float, ...]]] = {key: [] for key in options.contenders}
            for _ in range(options.rounds):
                for contender in contenders:
                    rate = _highest(bench, contender) * part
                    jobs = max(200, round(rate * options.seconds))
                    _, delays = _flow(bench, contender, rate=rate, jobs=jobs)
                    waits = [quantile(delays, at) for at in _QUANTILES]
                    rounds[contender.key].append((rate, *waits))
                    progress(f"{part:.0%} of {contender.label}'s highest: p99 {waits[1]:.1f} ms")
            for contender in contenders:
                seen = rounds[contender.key]
                middle = [median(each[n] for each in seen) for n in range(len(seen[0]))]
                rows.append((f"{part:.0%}", contender.label, *middle))
                results.append({"contender": contender.label, "part": part, "rounds": seen})
    return Section(
        title="Latency under load",
        note=f"Milliseconds from add in Node to the handler, concurrency {_CONCURRENCY}, at parts "
        "of each worker's own highest rate just before, with the producer beside it: medians of "
        f"{options.rounds} rounds.",
        headings=("load", "worker", "jobs/s", "p50", "p99", "p99.9"),
        rows=rows,
        results=results,
        versions=bench.versions,
    )


def _highest(bench: Bench, contender: Contender) -> float:
    return _flow(bench, contender, rate=_FLOOD, jobs=_FLOOD_JOBS)[0]


def _flow(
    bench: Bench, contender: Contender, *, rate: float, jobs: int
) -> tuple[float, list[float]]:
    """Jobs a second from the first add to the last end, and each job's wait in ms."""
    queue, _ = bench.new_queue()
    with bench.started(contender, _CONCURRENCY, queue) as worker:
        began = time.monotonic()
        bench.producer.flow(bench.server.url, queue, rate=rate, jobs=jobs)
        bench.until_finished(worker, queue, bench.warm_up + jobs)
        return jobs / (time.monotonic() - began), worker.kept()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3, help="loads of each part and contender")
    parser.add_argument("--parts", type=float, nargs="+", default=[0.1, 0.5, 0.9])
    add_contenders(parser, CONTENDERS, "ours", "bullmq-node")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
