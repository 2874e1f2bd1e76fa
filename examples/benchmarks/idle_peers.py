"""What idle workers of nine libraries are billed for: commands a minute, and what that is a day.

Each has a private Valkey and its defaults, and all idle side by side. Every command is counted as
a bill does: `INFO commandstats` counts those inside scripts, too. The counts begin after a while
in which a worker starts, registers itself and waits for the first time.

This worker backs off for hours, so that minutes say nothing of its day: `idle.py` measures that.

    python examples/benchmarks/idle_peers.py --minutes 10 --json idle_peers.json
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks.benchkit.day import from_rate
from examples.benchmarks.benchkit.report import progress
from examples.benchmarks.benchkit.section import Section, add_contenders, run_alone
from examples.benchmarks.benchkit.server import PrivateServer
from examples.benchmarks.recovery import CONTENDERS, command_of, running

_SETTLED_SECONDS = 30.0
_THEIRS = [key for key in CONTENDERS if not key.startswith("ours")]
_OWN_COMMANDS = frozenset({"info", "client|list", "client|setinfo", "client|setname", "hello"})
"""What this program sends itself, and what a client says once when it connects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdlePeer:
    """What one idle worker was billed for, by command."""

    contender: str
    seconds: float
    billed: dict[str, int]
    billed_a_day: float
    versions: list[str]


def _counted(server: PrivateServer) -> dict[str, int]:
    stats = server.admin.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(fields["calls"]) for name, fields in stats.items()}
    return {name: count for name, count in calls.items() if name not in _OWN_COMMANDS}


def measure(options: argparse.Namespace) -> Section:
    """Let all of them idle side by side, and count."""
    contenders = [CONTENDERS[key] for key in options.contenders]
    commands = [command_of(contender) for contender in contenders]
    with ExitStack() as ends:
        servers = [ends.enter_context(PrivateServer()) for _ in contenders]
        for contender, command, server in zip(contenders, commands, servers, strict=True):
            environment = {**os.environ, **contender.settings, "RECOVERY_URL": server.url}
            ends.enter_context(running(command, environment))
        progress(f"all idle for {options.minutes:g} minutes")
        time.sleep(_SETTLED_SECONDS)
        began, before = time.monotonic(), [_counted(server) for server in servers]
        time.sleep(options.minutes * 60)
        seconds, after = time.monotonic() - began, [_counted(server) for server in servers]
    peers = []
    for contender, old, new in zip(contenders, before, after, strict=True):
        billed = {name: new[name] - old.get(name, 0) for name in new}
        billed = {name: count for name, count in billed.items() if count}
        peers.append(
            IdlePeer(
                contender=contender.label,
                seconds=seconds,
                billed=billed,
                billed_a_day=from_rate(sum(billed.values()), seconds),
                versions=contender.versions,
            )
        )
    peers.sort(key=lambda peer: peer.billed_a_day)
    return Section(
        title="Idle workers",
        note=f"Counted for {options.minutes:g} minutes, {_SETTLED_SECONDS:g} s after the start.",
        headings=("idle worker", "billed", "billed a day", "commands", "versions"),
        rows=[
            (
                peer.contender,
                sum(peer.billed.values()),
                round(peer.billed_a_day),
                " ".join(f"{name} {count}" for name, count in sorted(peer.billed.items())),
                ", ".join(peer.versions),
            )
            for peer in peers
        ],
        results=[asdict(peer) for peer in peers],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the program's flags."""
    parser.add_argument("--minutes", type=float, default=10.0, help="how long all of them idle")
    add_contenders(parser, _THEIRS)


if __name__ == "__main__":
    run_alone(__doc__, measure, add_options)
