"""How many jobs a second, and what each costs: this worker beside bullmq's Python and Node.

Every contender runs in a process of its own on one private Valkey. A round starts its worker,
warms it up, pauses the queue, adds all jobs with Node's addBulk, and resumes: the time is from
the first to the last completion as the jobs themselves carry it (``finishedOn``). Rounds of the
contenders alternate, and medians count, since machines are noisy; the ratio to Node is the
median of the ratios within each round. Commands are counted in a pass of its own that is not
timed (see :mod:`examples.benchmarks.benchkit.monitor`).

    python examples/benchmarks/throughput.py --jobs 10000 --rounds 5 --json throughput.json
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import Bench, Round
from examples.benchmarks.benchkit.monitor import CommandCount
from examples.benchmarks.benchkit.process import (
    BULLMQ_NODE,
    BULLMQ_PYTHON,
    CONTENDERS,
    OURS_QUIET,
    OURS_UVLOOP,
    Contender,
    ours_newer,
)
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone

_KNOWN = {
    each.key: each
    for each in (
        CONTENDERS["ours"],
        BULLMQ_NODE,
        OURS_QUIET,
        *ours_newer(),
        OURS_UVLOOP,
        BULLMQ_PYTHON,
    )
}
# bullmq's Python worker takes as much longer.
_FEWER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A contender at one concurrency: its rounds, their medians, its commands a job."""

    contender: str
    concurrency: int
    rounds: list[Round]
    client_sent_per_job: float
    billable_per_job: float
    sent: dict[str, float]
    scripted: dict[str, float]
    ratio_to_node: float | None = None

    def median(self, what: str) -> float:
        """Give the median of one of the rounds' fields."""
        return float(median(getattr(each, what) for each in self.rounds))


def compare(bench: Bench, options: argparse.Namespace) -> list[Result]:
    """Run all rounds of all contenders, interleaved, and put their medians together."""
    contenders = [_KNOWN[key] for key in options.contenders]
    results = []
    for concurrency in options.concurrency:
        rounds: dict[str, list[Round]] = {contender.key: [] for contender in contenders}
        for number in range(options.rounds):
            for contender in contenders:
                jobs = options.jobs
                if contender is BULLMQ_PYTHON:
                    jobs //= _FEWER
                one = bench.timed(contender, concurrency, jobs)
                rounds[contender.key].append(one)
                progress(
                    f"concurrency {concurrency}, round {number + 1} of {options.rounds}, "
                    f"{contender.label}: {one.jobs_per_second:,.0f} jobs/s"
                )
        for contender in contenders:
            counts = bench.counted(contender, concurrency, options.count_jobs)
            results.append(_result(contender, concurrency, rounds, counts, options.count_jobs))
    return results


def _result(
    contender: Contender,
    concurrency: int,
    rounds: dict[str, list[Round]],
    counts: CommandCount,
    counted_jobs: int,
) -> Result:
    return Result(
        contender=contender.label,
        concurrency=concurrency,
        rounds=rounds[contender.key],
        client_sent_per_job=counts.client_sent / counted_jobs,
        billable_per_job=counts.billable / counted_jobs,
        sent={name: calls / counted_jobs for name, calls in counts.sent.items()},
        scripted={name: calls / counted_jobs for name, calls in counts.scripted.items()},
        ratio_to_node=_ratio(rounds[contender.key], rounds.get(BULLMQ_NODE.key)),
    )


def _ratio(ours: list[Round], nodes: list[Round] | None) -> float | None:
    """Give the median ratio of neighbours in time, which a busy machine hurts alike."""
    if nodes is None:
        return None
    pairs = zip(ours, nodes, strict=True)
    return median(one.jobs_per_second / node.jobs_per_second for one, node in pairs)


def measure(options: argparse.Namespace) -> Section:
    """Run everything, and lay it out as a table."""
    with Bench(warm_up=options.warm_up) as bench:
        results = compare(bench, options)
    rows = []
    for result in results:
        rates = [one.jobs_per_second for one in result.rounds]
        rows.append(
            (
                result.concurrency,
                result.contender,
                float(median(rates)),
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                None if result.ratio_to_node is None else f"{result.ratio_to_node:.2f}",
                f"{result.client_sent_per_job:.2f}",
                f"{result.billable_per_job:.2f}",
                f"{result.median('worker_cpu'):.2f}",
                f"{result.median('server_cpu'):.2f}",
                f"{result.median('script_micros'):.0f}",
                f"{result.median('server_share'):.0%}",
            )
        )
    return Section(
        title="Throughput",
        note=f"{options.jobs:,} no-op jobs, medians of {options.rounds} rounds that alternate; "
        "this worker at its defaults, its log as JSON into a file, where no other is named, and "
        "bullmq's workers, which log nothing; a quarter of the jobs for bullmq's Python worker. "
        "× Node is the median of the ratios within each round. Commands are from a pass of "
        f"{options.count_jobs:,} jobs that was not timed. CPU in seconds for 10,000 jobs, of the "
        "worker's process and the server's; script is the time in which the server ran BullMQ's "
        "scripts, and the last column the part of the round that it makes: 100 % is its limit.",
        headings=(
            "concurrency",
            "worker",
            "jobs/s",
            "lowest to highest",
            "× Node",
            "sent a job",
            "billed a job",
            "worker CPU",
            "server CPU",
            "script µs a job",
            "server's share",
        ),
        rows=rows,
        results=[asdict(result) for result in results],
        versions=bench.versions,
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs in a timed round")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each contender")
    parser.add_argument("--warm-up", type=int, default=1000, help="jobs before each round")
    parser.add_argument("--count-jobs", type=int, default=10_000, help="jobs in a counting pass")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 10, 50])
    add_contenders(parser, _KNOWN)


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
