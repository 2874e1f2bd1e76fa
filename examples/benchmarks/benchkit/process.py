"""The contenders and the producer, each a process of its own."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from examples.benchmarks.benchkit.child import ROOT, LineProcess
from examples.benchmarks.benchkit.environments import NEWER, PLAIN, UVLOOP, newer_python, python_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class BenchmarkError(RuntimeError):
    """A process of the benchmark did not do its part; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A kind of worker: its label in tables, and the program in contenders/ that runs it.

    One in Python runs in an ``environment`` of its own.
    """

    key: str
    label: str
    program: str
    environment: str = PLAIN
    options: Mapping[str, object] = field(default_factory=dict)


# At its defaults: two lines a job, as JSON, into a file.
OURS = Contender(key="ours", label="this worker", program="ours.py", options={"log": True})
OURS_UVLOOP = Contender(
    key="ours-uvloop",
    label="this worker, on uvloop",
    program="ours.py",
    environment=UVLOOP,
    options={"log": True},
)
OURS_QUIET = Contender(key="ours-quiet", label="this worker, its log at warning", program="ours.py")
BULLMQ_PYTHON = Contender(key="bullmq-python", label="bullmq Python", program="bullmq_python.py")
BULLMQ_NODE = Contender(key="bullmq-node", label="bullmq Node", program="bullmq_node.mjs")
CONTENDERS: Mapping[str, Contender] = {
    contender.key: contender for contender in (OURS, BULLMQ_PYTHON, BULLMQ_NODE)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """How long it took to add jobs, and the producer's CPU time."""

    jobs: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds


def ours_newer() -> list[Contender]:
    """This worker on a newer Python; nothing where there is none on this machine."""
    python = newer_python()
    if python is None:
        return []
    label = f"this worker, on Python {Path(python).name.removeprefix('python')}"
    one = Contender(
        key="ours-newer", label=label, program="ours.py", environment=NEWER, options={"log": True}
    )
    return [one]


class WorkerProcess(LineProcess):
    """A contender's worker in a process of its own, started and connected.

    ``options`` are the contender's own.
    """

    def __init__(
        self,
        contender: Contender,
        url: str,
        *queues: str,
        concurrency: int,
        options: Mapping[str, object] | None = None,
    ) -> None:
        command = [
            *_program(contender),
            url,
            ",".join(queues),
            str(concurrency),
            json.dumps({**contender.options, **(options or {})}),
        ]
        super().__init__(contender.label, command)

    def cpu_seconds(self) -> float:
        """User and system CPU seconds that the process has used since it started."""
        return float(self.ask({"op": "usage"})["cpu_seconds"])

    def kept(self) -> list[float]:
        """The waits in ms that its handler has kept since they were asked for last."""
        return [float(delay) for delay in self.ask({"op": "kept"})["delays_ms"]]

    def memory(self) -> int:
        """Resident memory in bytes, of the process alone."""
        return resident(self._process.pid)

    def next_start(self, *, timeout: float) -> float:
        """Wait for the next job that carries its sending time: ms from add to handler."""
        return float(self.expect("started", timeout=timeout)["delay_ms"])

    def poll_start(self, *, timeout: float) -> float | None:
        """Wait like ``next_start``, and give None when no job started in time."""
        line = self.poll("started", timeout=timeout)
        return None if line is None else float(line["delay_ms"])

    def poll_started(self, *, timeout: float) -> tuple[int, float] | None:
        """Wait like ``poll_start``, and give the job's number too."""
        line = self.poll("started", timeout=timeout)
        return None if line is None else (int(line["number"]), float(line["delay_ms"]))


class Producer(LineProcess):
    """Node's BullMQ as the application uses it: one process that adds to any server."""

    def __init__(self) -> None:
        """Start the producer; it connects when a queue is opened."""
        super().__init__("producer", node_program("producer.mjs"))

    def open(self, url: str, queue_name: str) -> None:
        """Connect to a queue, so that its first job pays for no connection."""
        self.ask({"op": "open", "url": url, "queue": queue_name})

    def bulk(
        self,
        url: str,
        queue_name: str,
        jobs: int,
        *,
        size: int = 0,
        sleep: int = 0,
        spread: bool = False,
    ) -> None:
        """Add ``jobs`` jobs, a thousand a call: ``size`` characters each, to sleep ``sleep`` ms.

        With ``spread``, half to one and a half times as long.
        """
        shape = {"count": jobs, "size": size, "sleep": sleep, "spread": spread}
        self.ask({"op": "bulk", "url": url, "queue": queue_name, **shape})

    def flow(self, url: str, queue_name: str, *, rate: float, jobs: int) -> None:
        """Add ``jobs`` jobs at an even rate a second; returns when all of them are there."""
        request = {"op": "flow", "url": url, "queue": queue_name, "rate": rate, "count": jobs}
        self.ask(request, timeout=300)

    def time(self, url: str, queue_name: str, *, jobs: int, bulk: bool, at_once: int) -> Added:
        """Time ``jobs`` calls of Node's add, ``at_once`` at a time, or one of its addBulk."""
        request = {"op": "time", "url": url, "queue": queue_name, "count": jobs}
        answer = self.ask({**request, "bulk": bulk, "at_once": at_once})
        return Added(jobs=jobs, seconds=answer["seconds"], cpu_seconds=float(answer["cpu_seconds"]))

    def add(self, url: str, queue_name: str, *, delay_ms: int = 0) -> None:
        """Add one job that carries its sending time; returns when the server has it."""
        self.ask({"op": "add", "url": url, "queue": queue_name, "delay": delay_ms})

    def batch(self, url: str, queue_name: str, jobs: Sequence[Mapping[str, int]]) -> None:
        """Add jobs in one call, each with a ``number`` of its own and its ``delay`` in ms.

        One to ``keep`` is not told of when it starts, and may ``sleep`` so many ms.
        """
        self.ask({"op": "batch", "url": url, "queue": queue_name, "jobs": list(jobs)})

    def pause(self, url: str, queue_name: str) -> None:
        """Pause the queue for all workers."""
        self.ask({"op": "pause", "url": url, "queue": queue_name})

    def resume(self, url: str, queue_name: str) -> None:
        """Let the queue's jobs be taken again."""
        self.ask({"op": "resume", "url": url, "queue": queue_name})

    def leave(self, url: str) -> None:
        """Close every queue that was opened on a server, before that server stops."""
        self.ask({"op": "leave", "url": url})


def resident(pid: int) -> int:
    """A process's resident memory in bytes, as Linux tells it."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    msg = f"process {pid} has ended"
    raise BenchmarkError(msg)


def _program(contender: Contender) -> list[str]:
    if not contender.program.endswith(".py"):
        return node_program(contender.program)
    module = f"examples.benchmarks.contenders.{contender.program.removesuffix('.py')}"
    return [python_of(contender.environment), "-m", module]


def node_program(file: str) -> list[str]:
    """The command of a program of contenders/."""
    return [node(), str(ROOT / "examples" / "benchmarks" / "contenders" / file)]


def node() -> str:
    """Where Node is; BenchmarkError if it is not there."""
    node = os.environ.get("NODE") or shutil.which("node")
    if node is None:
        msg = "node is not on the PATH: the benchmarks need Node 18 or later for bullmq"
        raise BenchmarkError(msg)
    return node
