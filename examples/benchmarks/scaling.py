"""One worker process and two on one server: jobs/s, and how busy the server was.

Handlers of 10 ms, where a process is the limit, and no-op jobs, where the server soon is: it runs
one script at a time.

    python examples/benchmarks/scaling.py --rounds 3 --json scaling.json
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import NO_OP, Bench, Shape
from examples.benchmarks.benchkit.process import CONTENDERS, Contender
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone

_KINDS = {
    "10 ms, concurrency 10": (Shape(sleep=10), 10, 2000),
    "no-op, concurrency 1": (NO_OP, 1, 6000),
    "no-op, concurrency 10": (NO_OP, 10, 10_000),
}
_PROCESSES = (1, 2)


def measure(options: argparse.Namespace) -> Section:
    """Time each contender with one process and with two, in turns."""
    rows, results = [], []
    with Bench(warm_up=200) as bench:
        for kind, (shape, concurrency, jobs) in _KINDS.items():
            for key in options.contenders:
                contender = CONTENDERS[key]
                rates: dict[int, list[tuple[float, float]]] = {count: [] for count in _PROCESSES}
                for _ in range(options.rounds):
                    for count, found in rates.items():
                        found.append(_rate(bench, contender, concurrency, count, jobs, shape))
                        progress(f"{kind}, {count} x {key}: {found[-1][0]:,.0f} jobs/s")
                pairs = zip(rates[1], rates[2], strict=True)
                gain = median(two[0] / one[0] for one, two in pairs)
                middle = [median(each[0] for each in rates[count]) for count in _PROCESSES]
                share = median(each[1] for each in rates[2])
                rows.append((kind, contender.label, *middle, f"{gain:.2f}", f"{share:.0%}"))
                results.append({"kind": kind, "contender": contender.label, "rates": rates})
    return Section(
        title="Two processes",
        note="Jobs/s of one worker process and of two on one server. The server's share is the "
        "part of the time in which Redis ran scripts, with two.",
        headings=("jobs", "worker", "one", "two", "two / one", "server's share"),
        rows=rows,
        results=results,
        versions=bench.versions,
    )


def _rate(
    bench: Bench, contender: Contender, concurrency: int, count: int, jobs: int, shape: Shape
) -> tuple[float, float]:
    """Jobs a second by the jobs' own times, and the server's share."""
    queue, _ = bench.new_queue()
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                bench.started(contender, concurrency, queue, already=number * bench.warm_up)
            )
            for number in range(count)
        ]
        bench.producer.pause(bench.server.url, queue)
        bench.producer.bulk(bench.server.url, queue, jobs * count, sleep=shape.sleep)
        before = bench.server.usage()
        done = count * bench.warm_up
        bench.producer.resume(bench.server.url, queue)
        bench.until_finished(workers[-1], queue, done + jobs * count)
        used = bench.server.usage().since(before, ignore=frozenset())
        first = bench.server.finished_at(queue, done)
        last = bench.server.finished_at(queue, done + jobs * count - 1)
    seconds = max(1, last - first) / 1000
    return (jobs * count - 1) / seconds, used.script_seconds / seconds


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each")
    add_contenders(parser, CONTENDERS, "ours", "bullmq-node")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
