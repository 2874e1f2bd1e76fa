"""What a job costs in a queue that grows, and with data that grows.

With 10, 10,000 and 1,000,000 jobs that wait, the first few thousand are run; and jobs with 100
characters, 10 KB and 1 MB of data. The million is written by a script of the benchmark's own, as
``addBulk`` would leave it: adding it takes longer than the measurement.

    python examples/benchmarks/growth.py --json growth.json
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import Bench, Shape
from examples.benchmarks.benchkit.process import CONTENDERS, Contender
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone

_CONCURRENCY = 10
_MEASURED = 5000
# Ten jobs end within a millisecond or two, which is how exactly their times are kept.
_FEW, _REPEATS = 100, 50
_SIZES = {100: 5000, 10_000: 3000, 1_000_000: 150}
# Jobs as addStandardJob writes them, without their events; ARGV: prefix, how many, timestamp.
_SEED = """
for number = 1, tonumber(ARGV[2]) do
  local id = "seed-" .. number
  redis.call("HSET", ARGV[1] .. id, "name", "noop", "data", "{}", "opts", '{"attempts":0}',
    "timestamp", ARGV[3], "delay", 0, "priority", 0)
  redis.call("LPUSH", KEYS[1], id)
end
"""
_AT_ONCE = 50_000


def measure(options: argparse.Namespace) -> Section:
    """Run the first jobs of queues of every length, then jobs of every size."""
    rows: list[tuple[object, ...]] = []
    results = []
    with Bench(warm_up=200) as bench:
        for waiting in options.waiting:
            for key in options.contenders:
                rate, commands = _of_many(bench, CONTENDERS[key], waiting)
                what = f"{waiting:,} waiting"
                rows.append((what, CONTENDERS[key].label, rate, f"{commands:.1f}"))
                results.append({"waiting": waiting, "contender": key, "rate": rate})
                progress(f"{what}, {key}: {rate:,.0f} jobs/s")
        for size, jobs in _SIZES.items():
            for key in options.contenders:
                one = bench.timed(CONTENDERS[key], _CONCURRENCY, jobs, shape=Shape(size=size))
                what = f"{size:,} characters"
                commands = one.billable_per_job
                rows.append((what, CONTENDERS[key].label, one.jobs_per_second, f"{commands:.1f}"))
                results.append({"size": size, "contender": key, "rate": one.jobs_per_second})
                progress(f"{what}, {key}: {one.jobs_per_second:,.0f} jobs/s")
    return Section(
        title="Growth",
        note=f"Jobs/s and billed commands a job at concurrency {_CONCURRENCY}: of the first "
        f"{_MEASURED:,} jobs of a queue in which so many wait (of ten, ten, {_REPEATS} times: from "
        "the first one's end to the last one's), and of jobs with so much data.",
        headings=("jobs", "worker", "jobs/s", "billed a job"),
        rows=rows,
        results=results,
        versions=bench.versions,
    )


def _of_many(bench: Bench, contender: Contender, waiting: int) -> tuple[float, float]:
    queue, before = bench.new_queue()
    measured, repeats = min(waiting, _MEASURED), _REPEATS if waiting < _FEW else 1
    milliseconds = 0.0
    with bench.started(contender, _CONCURRENCY, queue) as worker:
        used = bench.server.usage()
        others = frozenset(before)
        before_all = bench.server.finished(queue)
        for repeat in range(repeats):
            began = bench.server.finished(queue)
            bench.producer.pause(bench.server.url, queue)
            _seed(bench, queue, waiting, repeat)
            bench.producer.resume(bench.server.url, queue)
            bench.until_finished(worker, queue, began + measured)
            first = bench.server.finished_at(queue, began)
            milliseconds += bench.server.finished_at(queue, began + measured - 1) - first
        done = bench.server.finished(queue) - before_all
        commands = bench.server.usage().since(used, ignore=others).commands
    return repeats * (measured - 1) / max(1.0, milliseconds) * 1000, commands / done


def _seed(bench: Bench, queue: str, jobs: int, repeat: int) -> None:
    """Write jobs that wait, in a paused queue, with other ids in each repeat."""
    prefix = f"bull:{queue}:"
    for start in range(0, jobs, _AT_ONCE):
        count = min(_AT_ONCE, jobs - start)
        script = _SEED.replace('"seed-" ..', f'"seed-{repeat}-{start}-" ..')
        now_ms = int(time.time() * 1000)
        bench.server.admin.eval(script, 1, f"{prefix}wait", prefix, count, now_ms)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--waiting", type=int, nargs="+", default=[10, 10_000, 1_000_000])
    add_contenders(parser, CONTENDERS, "ours", "bullmq-node")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
