"""Resident memory of a worker's process: idle, and with 500 jobs of 10 KB in flight.

python examples/benchmarks/memory.py --rounds 3 --json memory.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import Bench
from examples.benchmarks.benchkit.environments import PLAIN, python_of
from examples.benchmarks.benchkit.process import CONTENDERS, BenchmarkError, Contender, resident
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone
from examples.benchmarks.benchkit.server import free_port

_JOBS = 500
_SIZE = 10_000
_HANDLER_MS = 4000
_PATIENCE = 30.0
_MEGABYTE = 1 << 20
_COMMANDS = {"convolab-worker run": False, "convolab-worker run --wake": True}
_APP = """
from convolab_worker import HandlerRegistry
handlers = HandlerRegistry()
@handlers.audio("noop")
async def noop(job): ...
"""
_SETTLED_SECONDS = 1.0


def measure(options: argparse.Namespace) -> Section:
    """Start each contender anew for every round; medians."""
    sizes: dict[str, list[tuple[float, float]]] = {key: [] for key in options.contenders}
    with Bench(warm_up=10) as bench:
        for _ in range(options.rounds):
            for key, found in sizes.items():
                found.append(_sizes(bench, CONTENDERS[key]))
                progress(f"{key}: {found[-1][0]:.1f} MB idle, {found[-1][1]:.1f} MB in flight")
        commands = {
            command: median(_command(bench, wake=wake) for _ in range(options.rounds))
            for command, wake in _COMMANDS.items()
        }
    rows: list[tuple[object, ...]] = [(name, size, None) for name, size in commands.items()]
    rows += [
        (CONTENDERS[key].label, *(median(each) for each in zip(*found, strict=True)))
        for key, found in sizes.items()
    ]
    return Section(
        title="Memory",
        note="Resident megabytes (of 1,048,576 bytes) of the worker's process. The commands have "
        "started, answered a request where they serve any, and run no job; the workers below them "
        f"are idle after {bench.warm_up} jobs, and have {_JOBS} jobs of {_SIZE // 1000} KB in "
        f"their handlers. Medians of {options.rounds} starts.",
        headings=("worker", "idle", "500 jobs of 10 KB"),
        rows=rows,
        results={**sizes, **commands},
        versions=bench.versions,
    )


def _sizes(bench: Bench, contender: Contender) -> tuple[float, float]:
    queue, _ = bench.new_queue()
    with bench.started(contender, _JOBS, queue) as worker:
        idle = worker.memory() / _MEGABYTE
        bench.producer.bulk(bench.server.url, queue, _JOBS, size=_SIZE, sleep=_HANDLER_MS)
        deadline = time.monotonic() + _PATIENCE
        while bench.server.admin.llen(f"bull:{queue}:active") < _JOBS:
            if time.monotonic() > deadline:
                raise BenchmarkError(worker.told(f"never had {_JOBS} jobs at once"))
            time.sleep(0.01)
        return idle, worker.memory() / _MEGABYTE


def _command(bench: Bench, *, wake: bool) -> float:
    """Megabytes of the command, in an environment that holds the package and what it needs."""
    queue, before = bench.new_queue()
    port, flags = free_port(), ["--queue", queue, "--redis-url", bench.server.url]
    command = [python_of(PLAIN), "-m", "convolab_worker", "run", "--app", "jobs:handlers", *flags]
    if wake:
        command += ["--wake", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "jobs.py").write_text(_APP, encoding="utf-8")
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + _PATIENCE
            while bench.server.connections().keys() == before.keys():
                if time.monotonic() > deadline or process.poll() is not None:
                    msg = "the command has not connected"
                    raise BenchmarkError(msg)
                time.sleep(0.05)
            if wake:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as got:
                    got.read()
            time.sleep(_SETTLED_SECONDS)
            return resident(process.pid) / _MEGABYTE
        finally:
            process.terminate()
            process.wait(_PATIENCE)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=3, help="starts of each contender")
    add_contenders(parser, CONTENDERS)


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
