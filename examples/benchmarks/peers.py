"""This worker beside other Python queues, each in an environment of its own: no-op jobs a second.

Each has its own protocol, so each adds its jobs itself, and the time is from the first handler to
the last. This worker logs as it does by default, as JSON into a file.

    python examples/benchmarks/peers.py --rounds 3 --json peers.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.child import LineProcess
from examples.benchmarks.benchkit.environments import PLAIN, python_of
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, run_alone
from examples.benchmarks.benchkit.server import PrivateServer
from examples.benchmarks.contenders.peers import PEERS

_PATIENCE = 60.0


def measure(options: argparse.Namespace) -> Section:
    """Run every peer that is installed, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PEERS}
    with PrivateServer() as server:
        for _ in range(options.rounds):
            for name, rounds in found.items():
                server.admin.flushall()
                done = _round(server.url, name, options)
                if done is None:
                    progress(f"{name} is not installed")
                    continue
                rounds.append(done)
                progress(f"{name}: {done['rate']:,.0f} jobs/s")
        versions = {"valkey": server.version}
    versions |= {
        "convolab-worker" if name == "ours" else name: str(each[0]["version"])
        for name, each in found.items()
        if each
    }
    rows, best = [], median(each["rate"] for each in found["ours"])
    for name, rounds in found.items():
        if rounds:
            rate = median(each["rate"] for each in rounds)
            cpu = median(each["cpu"] for each in rounds)
            label = "this worker" if name == "ours" else name
            rows.append((label, rate, f"{rate / best:.2f}", f"{cpu:.2f}"))
    return Section(
        title="Other Python queues",
        note=f"{options.jobs:,} no-op jobs at concurrency {options.concurrency}, from the first "
        f"handler to the last, medians of {options.rounds} rounds in turns; CPU seconds of the "
        "process for 10,000 jobs. Celery runs its jobs in threads.",
        headings=("queue", "jobs/s", "× this worker", "CPU s/10k"),
        rows=rows,
        results=found,
        versions=versions,
    )


def _round(url: str, name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    python = python_of(PLAIN if name == "ours" else name)
    program = [python, "-m", "examples.benchmarks.contenders.peers"]
    command = [*program, name, url, str(options.concurrency), str(options.jobs)]
    with LineProcess(name, command) as peer:
        line = peer.expect("done", "missing", timeout=_PATIENCE)
        return line if line["event"] == "done" else None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each queue")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs in a round")
    parser.add_argument("--concurrency", type=int, default=10)


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
