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
from examples.benchmarks.benchkit.report import progress, say, table, write_json
from examples.benchmarks.benchkit.server import PrivateServer
from examples.benchmarks.recovery import (
    CONTENDERS,
    command_of,
    interpreter,
    running,
    versions_of,
)

_ROOT = Path(__file__).resolve().parents[2]
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


def measure(keys: list[str], environments: Path, minutes: float) -> list[IdlePeer]:
    """Let all of them idle side by side, and count."""
    contenders = [CONTENDERS[key] for key in keys]
    pythons = [interpreter(contender, environments) for contender in contenders]
    with ExitStack() as ends:
        servers = [ends.enter_context(PrivateServer()) for _ in contenders]
        for contender, python, server in zip(contenders, pythons, servers, strict=True):
            environment = {**os.environ, **contender.environment, "RECOVERY_URL": server.url}
            ends.enter_context(running(command_of(contender, python), environment))
        progress(f"all idle for {minutes:g} minutes")
        time.sleep(_SETTLED_SECONDS)
        began, before = time.monotonic(), [_counted(server) for server in servers]
        time.sleep(minutes * 60)
        seconds, after = time.monotonic() - began, [_counted(server) for server in servers]
    peers = []
    for contender, python, old, new in zip(contenders, pythons, before, after, strict=True):
        billed = {name: new[name] - old.get(name, 0) for name in new}
        billed = {name: count for name, count in billed.items() if count}
        peers.append(
            IdlePeer(
                contender=contender.label,
                seconds=seconds,
                billed=billed,
                billed_a_day=from_rate(sum(billed.values()), seconds),
                versions=versions_of(contender, python),
            )
        )
    return sorted(peers, key=lambda peer: peer.billed_a_day)


def report(peers: list[IdlePeer]) -> str:
    """Lay the results out as a table."""
    rows = [
        (
            peer.contender,
            sum(peer.billed.values()),
            round(peer.billed_a_day),
            " ".join(f"{name} {count}" for name, count in sorted(peer.billed.items())),
            ", ".join(peer.versions),
        )
        for peer in peers
    ]
    return table(("idle worker", "billed", "billed a day", "commands", "versions"), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long all of them idle")
    parser.add_argument("--contenders", nargs="+", choices=_THEIRS, default=_THEIRS)
    parser.add_argument(
        "--environments",
        type=Path,
        default=_ROOT / ".venvs",
        metavar="FOLDER",
        help="where the other libraries are installed",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, and write the JSON where asked."""
    options = _options()
    peers = measure(options.contenders, options.environments, options.minutes)
    say(report(peers))
    if options.json:
        write_json(options.json, {"peers": [asdict(peer) for peer in peers]})


if __name__ == "__main__":
    main()
