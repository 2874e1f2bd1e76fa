"""After kill -9: seconds until the job of a killed worker runs again on a new one.

Each contender has a private Valkey. A worker starts, one job is added, the job runs; then its
worker is killed with all its children, and a new one is started at once. The queue is empty
otherwise. Contenders wait side by side, all at their defaults unless their label says so.

    python examples/benchmarks/recovery.py --rounds 3 --cap 1300 --json recovery.json
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.child import ROOT
from examples.benchmarks.benchkit.environments import PLAIN, TASKIQ, python_of, versions_of
from examples.benchmarks.benchkit.process import BenchmarkError, node
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone
from examples.benchmarks.benchkit.server import PrivateServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_START_SECONDS = 60.0
_PACKAGE = "examples.benchmarks.recovering"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovering:
    """A kind of worker: its program in recovering/, and the ``environment`` that has its library.

    ``settings`` are variables that its process has.
    """

    label: str
    program: str
    environment: str = PLAIN
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def versions(self) -> list[str]:
        """The releases of its library, where that has an environment of its own."""
        return [] if self.environment == PLAIN else versions_of(self.environment)


CONTENDERS = {
    "ours": Recovering(label="this worker", program="ours"),
    "ours-10s": Recovering(
        label="this worker, locks of 10 s",
        program="ours",
        settings={"CONVOLAB_LOCK_DURATION": "10s"},
    ),
    "bullmq-node": Recovering(label="bullmq Node", program="bullmq_node.mjs"),
    "bullmq-python": Recovering(label="bullmq Python, mended", program="bullmq_python"),
    "streaq": Recovering(label="streaq", program="streaq", environment="streaq"),
    "arq": Recovering(label="arq", program="arq", environment="arq"),
    "docket": Recovering(label="docket", program="docket", environment="docket"),
    "saq": Recovering(label="SAQ", program="saq", environment="saq"),
    "taskiq": Recovering(label="taskiq", program="taskiq", environment=TASKIQ),
    "dramatiq": Recovering(label="Dramatiq", program="dramatiq", environment="dramatiq"),
    "celery": Recovering(label="Celery, acks late", program="celery", environment="celery"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What was seen of one contender: seconds by round, and when it was given up, if it was."""

    contender: str
    seconds: list[float]
    given_up_after: float | None
    versions: list[str]


class Words:
    """Where jobs tell that they run: a datagram with the process's id."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])

    def wait(self, timeout: float) -> int | None:
        """Give the process that runs the job, or None if none said so in time."""
        self._socket.settimeout(timeout)
        try:
            return int(self._socket.recv(32))
        except TimeoutError:
            return None

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()


def measure(options: argparse.Namespace) -> Section:
    """Kill a worker of each contender, side by side."""
    chosen = [CONTENDERS[key] for key in options.contenders]
    for contender in chosen:
        python_of(contender.environment)  # made before anything is timed
    with ThreadPoolExecutor(len(chosen)) as threads:
        pending = [
            threads.submit(_recovered, contender, options.rounds, options.cap)
            for contender in chosen
        ]
        results = [result for each in pending if (result := _seen(each))]
    return Section(
        title="Recovery",
        note=f"At most {options.rounds} kills of each; given up after {options.cap:,.0f} s.",
        headings=("killed worker", "s until its job runs again", "versions"),
        rows=[
            (
                result.contender,
                ", ".join(f"{seconds:.1f}" for seconds in result.seconds)
                or f"not within {result.given_up_after:,.0f}",
                ", ".join(result.versions),
            )
            for result in results
        ],
        results=[asdict(result) for result in results],
    )


def _recovered(contender: Recovering, rounds: int, cap: float) -> Recovery:
    """Kill that many workers, unless one round takes longer than ``cap`` seconds."""
    seconds: list[float] = []
    given_up = None
    for _ in range(rounds):
        took = _one_round(contender, cap)
        if took is None:
            given_up = cap
            break
        seconds.append(took)
        progress(f"{contender.label}: {took:.1f} s")
        # Rounds of slow contenders would take hours together.
        if sum(seconds) + took > cap:
            break
    return Recovery(
        contender=contender.label,
        seconds=seconds,
        given_up_after=given_up,
        versions=contender.versions,
    )


def _one_round(contender: Recovering, cap: float) -> float | None:
    with ExitStack() as ends:
        server = ends.enter_context(PrivateServer())
        words = Words()
        ends.callback(words.close)
        environment = {
            **os.environ,
            **contender.settings,
            "RECOVERY_URL": server.url,
            "RECOVERY_PORT": str(words.port),
        }
        command = command_of(contender)
        victim = ends.enter_context(running(command, environment))
        subprocess.run([*command, "add"], cwd=ROOT, env=environment, check=True, timeout=60)
        first = words.wait(_START_SECONDS)
        if first is None:
            raise BenchmarkError(victim.told(f"{contender.label}: its job did not start"))
        victim.kill()
        killed = time.monotonic()
        ends.enter_context(running(command, environment))
        again = words.wait(cap)
        return None if again is None else time.monotonic() - killed


class _Worker:
    """A worker and the processes that it starts, in a group of their own."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill()
        self._process = subprocess.Popen(
            [*command, "work"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
        )

    def kill(self) -> None:
        """End all of them as kill -9 does."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._said.close()

    def told(self, what: str) -> str:
        self._said.seek(0)
        return f"{what}; its worker said:\n{self._said.read().decode(errors='replace')[-2000:]}"


@contextmanager
def running(command: list[str], environment: Mapping[str, str]) -> Iterator[_Worker]:
    """Run a contender; at the end it is killed with its children."""
    worker = _Worker(command, environment)
    try:
        yield worker
    finally:
        worker.kill()


def command_of(contender: Recovering) -> list[str]:
    """Say what starts the contender; "work" or "add" goes behind it."""
    if contender.program.endswith(".mjs"):
        return [node(), str(ROOT / "examples" / "benchmarks" / "recovering" / contender.program)]
    return [python_of(contender.environment), "-m", f"{_PACKAGE}.{contender.program}"]


def _seen(pending: Future[Recovery]) -> Recovery | None:
    """Give the result, or say what went wrong: it took the others too long to lose theirs."""
    try:
        return pending.result()
    except (BenchmarkError, subprocess.SubprocessError) as error:
        progress(str(error))
        return None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=1, help="kills, as long as --cap allows them")
    parser.add_argument("--cap", type=float, default=1300.0, metavar="SECONDS", help="give up then")
    add_contenders(parser, CONTENDERS)


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
