"""The contenders and the producer: processes that speak lines of JSON with the benchmark."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_ROOT = Path(__file__).resolve().parents[3]
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


class BenchmarkError(RuntimeError):
    """A process of the benchmark did not do its part; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A kind of worker: its label in tables, and the program in contenders/ that runs it."""

    key: str
    label: str
    program: str
    options: Mapping[str, object] = field(default_factory=dict)


OURS = Contender(key="ours", label="this worker", program="ours.py")
OURS_LOGGING = Contender(
    key="ours-logging",
    label="this worker, its log at info",
    program="ours.py",
    options={"log": True},
)
BULLMQ_PYTHON = Contender(key="bullmq-python", label="bullmq Python", program="bullmq_python.py")
BULLMQ_NODE = Contender(key="bullmq-node", label="bullmq Node", program="bullmq_node.mjs")
CONTENDERS: Mapping[str, Contender] = {
    contender.key: contender for contender in (OURS, BULLMQ_PYTHON, BULLMQ_NODE)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What a contender's process is started with; ``options`` are the contender's own."""

    contender: Contender
    url: str
    queues: Sequence[str]
    concurrency: int
    options: Mapping[str, object] = field(default_factory=dict)


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


class LineProcess:
    """A child process that answers lines of JSON on its standard output."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Start ``command``; its first line says that it is ready, and its versions."""
        self.name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, name=f"{name}-output", daemon=True).start()
        self.ready = self.expect("ready", timeout=_START_SECONDS)

    def __enter__(self) -> Self:
        """Give the running process."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process: by end of input first, by force if it does not follow."""
        self.close()

    def ask(self, request: Mapping[str, object], *, timeout: float = 120.0) -> dict[str, Any]:
        """Send one request and give its answer, which carries the same ``op``."""
        if self._process.stdin is None:  # pragma: no cover - PIPE was asked for
            raise BenchmarkError(self.name)
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise BenchmarkError(self.told("is gone")) from error
        return self.expect(str(request["op"]), timeout=timeout)

    def expect(self, *events: str, timeout: float) -> dict[str, Any]:
        """Wait up to ``timeout`` seconds for the next line about one of ``events``."""
        line = self.poll(*events, timeout=timeout)
        if line is None:
            said = " or ".join(events)
            raise BenchmarkError(self.told(f"said nothing of {said} in {timeout:g} s"))
        return line

    def poll(self, *events: str, timeout: float) -> dict[str, Any] | None:
        """Wait like ``expect``, and give None when nothing came; other lines are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                raise BenchmarkError(self.told(f"ended before it said {' or '.join(events)}"))
            if line.get("event") in events:
                return line

    def close(self) -> None:
        """End the process and wait until it is gone."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def told(self, what: str) -> str:
        """Make a message of ``what`` that has the process's name and what it said of errors."""
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        return f"{self.name} {what}" + (f"; it said:\n{said[-2000:]}" if said else "")

    def _read(self) -> None:
        if self._process.stdout is None:  # pragma: no cover - PIPE was asked for
            return
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                message = {"event": "noise", "text": line}
            self._lines.put(message)
        self._lines.put(None)


class WorkerProcess(LineProcess):
    """A contender's worker in a process of its own."""

    def __init__(self, plan: WorkerPlan) -> None:
        """Start the worker that ``plan`` describes and wait until it is connected."""
        command = [
            *_program(plan.contender.program),
            plan.url,
            ",".join(plan.queues),
            str(plan.concurrency),
            json.dumps({**plan.contender.options, **plan.options}),
        ]
        super().__init__(plan.contender.label, command)

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
        super().__init__("producer", _program("producer.mjs"))

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


def _program(file: str) -> list[str]:
    if file.endswith(".py"):
        return [sys.executable, "-m", f"examples.benchmarks.contenders.{file.removesuffix('.py')}"]
    return [node(), str(_ROOT / "examples" / "benchmarks" / "contenders" / file)]


def node() -> str:
    """Where Node is; BenchmarkError if it is not there."""
    node = os.environ.get("NODE") or shutil.which("node")
    if node is None:
        msg = "node is not on the PATH: the benchmarks need Node 18 or later for bullmq"
        raise BenchmarkError(msg)
    return node
