"""From the start of the process to the first handler's end, beside bare imports.

A job waits; ``python -m convolab_worker run`` is started, and its handler says when it is done.
Beside it, in turns: an interpreter that does nothing, those that import what a worker of this kind
is made of and do nothing with it, and Node's worker with the same job. ``run --wake`` is started as
Cloud Run does: the request that wakes it is sent until the port takes it, and is held. All of
Python's run in an environment that holds the package and what it needs.

    python examples/benchmarks/cold_start.py --rounds 11 --json cold_start.json
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.bench import Bench
from examples.benchmarks.benchkit.environments import PLAIN, installed, python_of
from examples.benchmarks.benchkit.process import BULLMQ_NODE, WorkerProcess
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, run_alone
from examples.benchmarks.benchkit.server import free_port

_APP = """
import os
from convolab_worker import HandlerRegistry

handlers = HandlerRegistry()

@handlers.audio("noop")
async def noop(job):
    os.write(1, b"done")
"""
_BARE = "bare imports of redis.asyncio, bullmq and structlog"
_BARE_WEB = "bare import of aiohttp.web"
_OURS = "convolab-worker run"
_OURS_WAKE = "convolab-worker run --wake, woken by a request"
_MODULES = 12
_WAKE = b"POST /wake HTTP/1.1\r\nHost: worker\r\nContent-Length: 0\r\n\r\n"
_AGAIN_SECONDS = 0.002


def measure(options: argparse.Namespace) -> Section:
    """Start everything in turns; medians."""
    with Bench() as bench, tempfile.TemporaryDirectory() as folder:
        Path(folder, "cold_app.py").write_text(_APP, encoding="utf-8")
        contenders: dict[str, Callable[[], float]] = {
            "an interpreter that does nothing": lambda: _python("pass"),
            _BARE: lambda: _python("import redis.asyncio, bullmq, structlog"),
            _BARE_WEB: lambda: _python("import aiohttp.web"),
            _OURS: lambda: _ours(bench, folder, wake=False),
            _OURS_WAKE: lambda: _ours(bench, folder, wake=True),
            "bullmq Node": lambda: _node(bench),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(options.rounds + 1):
            for name, start in contenders.items():
                seconds = start()
                if number:  # the first fills the caches
                    times[name].append(seconds * 1000)
            progress(f"round {number} of {options.rounds}")
        imports = _imports(folder)
    rows: list[tuple[object, ...]] = [
        (name, median(taken), _ratio(taken, times[_BARE]), _ratio(taken, times[_BARE_WEB]))
        for name, taken in times.items()
    ]
    rows += [(f"of ours: import {name}", ms, None, None) for name, ms in imports]
    return Section(
        title="Cold start",
        note="Milliseconds from the start of the process, of a worker to its first handler's end: "
        f"medians of {options.rounds} in turns; the ratios are medians within each turn. Imports "
        "of ours are what `-X importtime` says of each module with all that it brings first, "
        "which takes longer while it is watched. Installed were, and nothing else: "
        f"{', '.join(installed(PLAIN))}.",
        headings=("what", "ms", "× imports of redis, bullmq, structlog", "× import of aiohttp.web"),
        rows=rows,
        results={"ms": times, "imports": imports},
        versions=bench.versions,
    )


def _ratio(taken: list[float], base: list[float]) -> str:
    return f"{median(one / other for one, other in zip(taken, base, strict=True)):.2f}"


def _python(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([python_of(PLAIN), "-c", code], check=True)
    return time.perf_counter() - began


def _ours(bench: Bench, folder: str, *, wake: bool) -> float:
    queue, _ = bench.new_queue()
    bench.producer.bulk(bench.server.url, queue, 1)
    command = [python_of(PLAIN), "-m", "convolab_worker", "run", "--app", "cold_app:handlers"]
    command += ["--queue", queue, "--redis-url", bench.server.url]
    environment, port = _environment(), free_port()
    if wake:
        command += ["--wake", "--port", str(port)]
        environment["K_SERVICE"] = "worker"
    began = time.perf_counter()
    with (
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        ) as process,
        _waking(port) if wake else contextlib.nullcontext(),
    ):
        if process.stdout is None or process.stdout.read(4) != b"done":
            msg = "the worker ended before its handler did"
            raise RuntimeError(msg)
        elapsed = time.perf_counter() - began
        process.kill()
    return elapsed


@contextlib.contextmanager
def _waking(port: int) -> Iterator[None]:
    """Send a request as soon as the port takes it, and hold the connection."""
    has_ended = threading.Event()

    def call() -> None:
        while not has_ended.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as to:
                to.sendall(_WAKE)
                to.recv(1)
                return
            has_ended.wait(_AGAIN_SECONDS)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        has_ended.set()
        caller.join()


def _node(bench: Bench) -> float:
    queue, _ = bench.new_queue()
    bench.producer.bulk(bench.server.url, queue, 1)
    began = time.perf_counter()
    with WorkerProcess(BULLMQ_NODE, bench.server.url, queue, concurrency=8) as worker:
        bench.until_finished(worker, queue, 1)
        return time.perf_counter() - began


def _imports(folder: str) -> list[tuple[str, float]]:
    """The modules that take longest to import, with what they bring, in ms."""
    code = (
        "import convolab_worker.cli.main, convolab_worker.cli.process.process, "
        "convolab_worker.cli.process.app_loader, convolab_worker.worker.worker, cold_app"
    )
    done = subprocess.run(
        [python_of(PLAIN), "-X", "importtime", "-c", code],
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
