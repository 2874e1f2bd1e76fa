"""From the start of the process to the first handler's end, beside bare imports.

A job waits; ``python -m convolab_worker run`` is started, and its handler says when it is done.
Beside it, in turns: an interpreter that does nothing, one that imports ``redis.asyncio`` and
``bullmq`` and does nothing with them, and Node's worker with the same job.

    python examples/benchmarks/cold_start.py --rounds 11 --json cold_start.json
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import Bench
from examples.benchmarks.benchkit.process import BULLMQ_NODE, WorkerPlan, WorkerProcess
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, run_alone

_APP = """
import os
from convolab_worker import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("noop")
async def noop(job):
    os.write(1, b"done")
"""
_BARE = "bare imports of redis.asyncio and bullmq"
_OURS = "convolab-worker run, to the first handler's end"
_MODULES = 12


def measure(options: argparse.Namespace) -> Section:
    """Start everything in turns; medians."""
    with Bench() as bench, tempfile.TemporaryDirectory() as folder:
        Path(folder, "cold_app.py").write_text(_APP, encoding="utf-8")
        contenders: dict[str, Callable[[], float]] = {
            "an interpreter that does nothing": lambda: _python("pass"),
            _BARE: lambda: _python("import redis.asyncio, bullmq"),
            _OURS: lambda: _ours(bench, folder),
            "bullmq Node, to the same": lambda: _node(bench),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(options.rounds + 1):
            for name, start in contenders.items():
                seconds = start()
                if number:  # the first fills the caches
                    times[name].append(seconds * 1000)
            progress(f"round {number} of {options.rounds}")
        imports = _imports(folder)
    base = median(times[_BARE])
    rows: list[tuple[object, ...]] = [
        (name, median(taken), f"{median(taken) / base:.2f}") for name, taken in times.items()
    ]
    rows += [(f"of ours: import {name}", ms, f"{ms / base:.2f}") for name, ms in imports]
    return Section(
        title="Cold start",
        note=f"Milliseconds from the start of the process, medians of {options.rounds} in turns. "
        "The imports are what `-X importtime` says of each module with all that it brings first, "
        "which takes longer while it is watched.",
        headings=("what", "ms", "× the bare imports"),
        rows=rows,
        results={"ms": times, "imports": imports},
        versions=bench.versions,
    )


def _python(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def _ours(bench: Bench, folder: str) -> float:
    queue, _ = bench.new_queue()
    bench.producer.bulk(bench.server.url, queue, 1)
    command = [sys.executable, "-m", "convolab_worker", "run", "--app", "cold_app:handlers"]
    arguments = ["--queue", queue, "--redis-url", bench.server.url, "--log-level", "warning"]
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, *arguments], cwd=folder, stdout=subprocess.PIPE, env=_environment()
    ) as process:
        if process.stdout is None or process.stdout.read(4) != b"done":
            msg = "the worker ended before its handler did"
            raise RuntimeError(msg)
        elapsed = time.perf_counter() - began
        process.kill()
    return elapsed


def _node(bench: Bench) -> float:
    queue, _ = bench.new_queue()
    bench.producer.bulk(bench.server.url, queue, 1)
    plan = WorkerPlan(contender=BULLMQ_NODE, url=bench.server.url, queues=[queue], concurrency=8)
    began = time.perf_counter()
    with WorkerProcess(plan) as worker:
        bench.until_finished(worker, queue, 1)
        return time.perf_counter() - began


def _imports(folder: str) -> list[tuple[str, float]]:
    """The modules that take longest to import, with what they bring, in ms."""
    code = (
        "import convolab_worker.cli.main, convolab_worker.cli.process, "
        "convolab_worker.cli.app_loader, convolab_worker.worker.worker, cold_app"
    )
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        env=_environment(),
    )
    found = []
    for line in done.stderr.splitlines():
        _, cumulative, module = line.removeprefix("import time:").split("|")
        if cumulative.strip().isdecimal() and not module.strip().startswith(("_", "encodings")):
            found.append((module.strip(), int(cumulative) / 1000))
    return sorted(found, key=lambda each: -each[1])[:_MODULES]


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("CONVOLAB_")}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=11, help="starts of each")


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
