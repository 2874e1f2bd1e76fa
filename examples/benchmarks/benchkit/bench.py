"""One run of a benchmark: a server, a producer, and a queue of its own for every round."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Self

from examples.benchmarks.benchkit.monitor import CommandCount, MonitorTap, count
from examples.benchmarks.benchkit.process import BenchmarkError, Contender, Producer, WorkerProcess
from examples.benchmarks.benchkit.server import PrivateServer

_POLL_SECONDS = 0.02
_STUCK_SECONDS = 60.0
_PER = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What each job of a round is like: ``size`` characters of data, a handler of ``sleep`` ms.

    With ``spread`` handlers take half to one and a half times as long.
    """

    size: int = 0
    sleep: int = 0
    spread: bool = False


NO_OP = Shape()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One timed round; CPU in seconds for 10,000 jobs, script time in µs a job."""

    jobs_per_second: float
    billable_per_job: float
    worker_cpu: float
    server_cpu: float
    script_micros: float

    @property
    def server_share(self) -> float:
        """The part of the round in which the server ran scripts: 1 is the server's limit."""
        return self.jobs_per_second * self.script_micros / 1e6


class Bench:
    """Times and counts contenders on one server, with jobs of one Node producer."""

    def __init__(self, *, warm_up: int = 1000) -> None:
        """Prepare; ``warm_up`` jobs go before the measured ones of every round."""
        self.server = PrivateServer()
        self.warm_up = warm_up
        self._rounds = 0
        self._ends = ExitStack()
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            ends.enter_context(self.server)
            self.producer = ends.enter_context(Producer())
            self._ends = ends.pop_all()
        self.versions = {"valkey": self.server.version, **self.producer.ready["versions"]}
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def timed(
        self, contender: Contender, concurrency: int, jobs: int, *, shape: Shape = NO_OP
    ) -> Round:
        """Run one round on the clock."""
        queue, before = self.new_queue()
        with self.loaded(contender, concurrency, queue, jobs, shape) as worker:
            others = frozenset(before)
            cpu, server = worker.cpu_seconds(), self.server.usage()
            self.run(worker, queue, jobs)
            used = self.server.usage().since(server, ignore=others)
            first = self.server.finished_at(queue, self.warm_up)
            last = self.server.finished_at(queue, self.warm_up + jobs - 1)
            return Round(
                jobs_per_second=(jobs - 1) / max(1, last - first) * 1000,
                billable_per_job=used.commands / jobs,
                worker_cpu=(worker.cpu_seconds() - cpu) / jobs * _PER,
                server_cpu=used.cpu_seconds / jobs * _PER,
                script_micros=used.script_seconds / jobs * 1e6,
            )

    def counted(self, contender: Contender, concurrency: int, jobs: int) -> CommandCount:
        """Run one round off the clock, every command of the worker counted."""
        queue, before = self.new_queue()
        with (
            self.loaded(contender, concurrency, queue, jobs, NO_OP) as worker,
            MonitorTap(self.server.port) as tap,
        ):
            others = frozenset(fields["addr"] for fields in before.values())
            start = tap.mark()
            self.run(worker, queue, jobs)
            return count(tap.between(start, tap.mark()), ignore=others)

    def new_queue(self) -> tuple[str, dict[str, dict[str, str]]]:
        """Open an unused queue on the emptied server; tell which connections are not a worker's."""
        self._rounds += 1
        self.server.admin.flushall()
        queue = f"bench-{self._rounds}"
        self.producer.open(self.server.url, queue)
        return queue, self.server.connections()

    def started(
        self, contender: Contender, concurrency: int, queue: str, *, already: int = 0
    ) -> WorkerProcess:
        """Start a worker and warm it up, beside others that have ended ``already`` jobs."""
        url = self.server.url
        worker = WorkerProcess(contender, url, queue, concurrency=concurrency)
        try:
            self.versions.update(worker.ready["versions"])
            self.producer.bulk(url, queue, self.warm_up)
            self.until_finished(worker, queue, already + self.warm_up)
        except BaseException:
            worker.close()
            raise
        return worker

    def loaded(
        self, contender: Contender, concurrency: int, queue: str, jobs: int, shape: Shape
    ) -> WorkerProcess:
        """Start a worker, warm it up, and put ``jobs`` before it, paused."""
        worker = self.started(contender, concurrency, queue)
        try:
            self.producer.pause(self.server.url, queue)
            self.producer.bulk(self.server.url, queue, jobs, **asdict(shape))
        except BaseException:
            worker.close()
            raise
        return worker

    def run(self, worker: WorkerProcess, queue: str, jobs: int) -> None:
        """Let the queue's jobs be taken, and wait for the last one."""
        self.producer.resume(self.server.url, queue)
        self.until_finished(worker, queue, self.warm_up + jobs)

    def until_finished(self, worker: WorkerProcess, queue: str, jobs: int) -> None:
        """Wait until so many jobs of the queue have finished."""
        done, moved = -1, time.monotonic()
        while (now_done := self.server.finished(queue)) < jobs:
            if now_done != done:
                done, moved = now_done, time.monotonic()
            elif time.monotonic() - moved > _STUCK_SECONDS:
                what = f"has done {done} of {jobs} jobs, and none in {_STUCK_SECONDS:g} s"
                raise BenchmarkError(worker.told(what))
            time.sleep(_POLL_SECONDS)
