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
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.monitor import CommandCount, MonitorTap, count
from examples.benchmarks.benchkit.process import (
    BULLMQ_NODE,
    CONTENDERS,
    BenchmarkError,
    Contender,
    Producer,
    WorkerPlan,
    WorkerProcess,
)
from examples.benchmarks.benchkit.report import progress, say, table, write_json
from examples.benchmarks.benchkit.server import PrivateServer

_POLL_SECONDS = 0.02
_STUCK_SECONDS = 60.0
_PER = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One timed round; CPU in seconds for 10,000 jobs, script time in µs a job."""

    jobs_per_second: float
    billable_per_job: float
    worker_cpu: float
    server_cpu: float
    script_micros: float


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


class Bench:
    """One run: the server, the producer, and a queue of its own for every round."""

    def __init__(self, server: PrivateServer, producer: Producer, warm_up: int) -> None:
        """Measure on ``server`` with jobs from ``producer``, ``warm_up`` of them first."""
        self._server = server
        self._producer = producer
        self._warm_up = warm_up
        self._rounds = 0
        self.versions: dict[str, str] = {"valkey": server.version, **producer.ready["versions"]}

    def timed(self, contender: Contender, concurrency: int, jobs: int) -> Round:
        """Run one round on the clock."""
        queue, before = self._new_queue()
        with self._loaded(contender, concurrency, queue, jobs) as worker:
            others = frozenset(before)
            cpu, server = worker.cpu_seconds(), self._server.usage()
            self._run(worker, queue, jobs)
            used = self._server.usage().since(server, ignore=others)
            first = self._server.finished_at(queue, self._warm_up)
            last = self._server.finished_at(queue, self._warm_up + jobs - 1)
            return Round(
                jobs_per_second=(jobs - 1) / max(1, last - first) * 1000,
                billable_per_job=used.commands / jobs,
                worker_cpu=(worker.cpu_seconds() - cpu) / jobs * _PER,
                server_cpu=used.cpu_seconds / jobs * _PER,
                script_micros=used.script_seconds / jobs * 1e6,
            )

    def counted(self, contender: Contender, concurrency: int, jobs: int) -> CommandCount:
        """Run one round off the clock, every command of the worker counted."""
        queue, before = self._new_queue()
        with (
            self._loaded(contender, concurrency, queue, jobs) as worker,
            MonitorTap(self._server) as tap,
        ):
            others = frozenset(fields["addr"] for fields in before.values())
            start = tap.mark()
            self._run(worker, queue, jobs)
            return count(tap.between(start, tap.mark()), ignore=others)

    def _new_queue(self) -> tuple[str, dict[str, dict[str, str]]]:
        """Open an unused queue on the emptied server; tell which connections are no worker's."""
        self._rounds += 1
        self._server.admin.flushall()
        queue = f"bench-{self._rounds}"
        self._producer.open(self._server.url, queue)
        return queue, self._server.connections()

    def _loaded(
        self, contender: Contender, concurrency: int, queue: str, jobs: int
    ) -> WorkerProcess:
        """Start a worker, warm it up, and put ``jobs`` before it, paused."""
        url = self._server.url
        plan = WorkerPlan(contender=contender, url=url, queues=[queue], concurrency=concurrency)
        worker = WorkerProcess(plan)
        try:
            self.versions.update(worker.ready["versions"])
            self._producer.bulk(url, queue, self._warm_up)
            self._until_finished(worker, queue, self._warm_up)
            self._producer.pause(url, queue)
            self._producer.bulk(url, queue, jobs)
        except BaseException:
            worker.close()
            raise
        return worker

    def _run(self, worker: WorkerProcess, queue: str, jobs: int) -> None:
        self._producer.resume(self._server.url, queue)
        self._until_finished(worker, queue, self._warm_up + jobs)

    def _until_finished(self, worker: WorkerProcess, queue: str, jobs: int) -> None:
        done, moved = -1, time.monotonic()
        while (now_done := self._server.finished(queue)) < jobs:
            if now_done != done:
                done, moved = now_done, time.monotonic()
            elif time.monotonic() - moved > _STUCK_SECONDS:
                what = f"has done {done} of {jobs} jobs, and none in {_STUCK_SECONDS:g} s"
                raise BenchmarkError(worker.told(what))
            time.sleep(_POLL_SECONDS)


def compare(bench: Bench, options: argparse.Namespace) -> list[Result]:
    """Run all rounds of all contenders, interleaved, and put their medians together."""
    contenders = [CONTENDERS[key] for key in options.contenders]
    results = []
    for concurrency in options.concurrency:
        rounds: dict[str, list[Round]] = {contender.key: [] for contender in contenders}
        for number in range(options.rounds):
            for contender in contenders:
                one = bench.timed(contender, concurrency, options.jobs)
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


def report(results: list[Result]) -> str:
    """Lay the results out as a table."""
    headings = (
        "concurrency, worker",
        "jobs/s",
        "lowest",
        "highest",
        "× Node",
        "sent a job",
        "billable a job",
        "worker CPU s/10k",
        "server CPU s/10k",
        "script µs a job",
    )
    rows = []
    for result in results:
        rates = [one.jobs_per_second for one in result.rounds]
        rows.append(
            (
                f"{result.concurrency:>2}  {result.contender}",
                float(median(rates)),
                float(min(rates)),
                float(max(rates)),
                None if result.ratio_to_node is None else f"{result.ratio_to_node:.2f}",
                f"{result.client_sent_per_job:.2f}",
                f"{result.billable_per_job:.2f}",
                f"{result.median('worker_cpu'):.2f}",
                f"{result.median('server_cpu'):.2f}",
                f"{result.median('script_micros'):.0f}",
            )
        )
    return table(headings, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs in a timed round")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each contender")
    parser.add_argument("--warm-up", type=int, default=1000, help="jobs before each round")
    parser.add_argument("--count-jobs", type=int, default=10_000, help="jobs in a counting pass")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, and write the JSON where asked."""
    options = _options()
    with PrivateServer() as server, Producer() as producer:
        bench = Bench(server, producer, options.warm_up)
        results = compare(bench, options)
    say(report(results))
    say()
    say(
        f"{options.jobs:,} no-op jobs, median of {options.rounds} interleaved rounds; commands "
        f"from a pass of {options.count_jobs:,} jobs that was not timed. "
        + ", ".join(f"{name} {version}" for name, version in sorted(bench.versions.items()))
    )
    if options.json:
        rows = [asdict(result) for result in results]
        write_json(
            options.json, {"versions": bench.versions, "jobs": options.jobs, "results": rows}
        )


if __name__ == "__main__":
    main()
