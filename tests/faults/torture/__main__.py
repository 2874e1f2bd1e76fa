"""``python -m tests.faults.torture``: jobs, workers, and a gremlin; an account of every job."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from convolab_worker.embedded import EmbeddedServer
from tests.faults.harness import Bench, Ledger
from tests.faults.torture.pair import Pair
from tests.faults.torture.run import SERVER_OPTIONS, Options, Report, Torture
from tests.faults.torture.table import tables
from tests.support.node import NodeScripts

# Fewer than two cores manage, so that what a fault holds up is made up for.
_JOBS_PER_SECOND = 150.0


def _options(arguments: list[str]) -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.torture", description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, help="of everything random (default: a random one)")
    parser.add_argument("--seconds", type=float, help="over which jobs are added and harm is done")
    parser.add_argument("--workers", type=int, default=4, help="processes (default %(default)s)")
    parser.add_argument("--held", type=int, default=2, help="how many of these work when held")
    parser.add_argument("--pause", type=float, default=0.7, help="mean seconds between two deeds")
    parser.add_argument("--stories", action="store_true", help="tell of each job that ended twice")
    given = parser.parse_args(arguments)
    missing = NodeScripts.missing()
    if missing is not None:
        print(f"without a producer in Node: {missing}", file=sys.stderr)  # noqa: T201
    options = Options(
        jobs=given.jobs,
        seed=random.randrange(2**32) if given.seed is None else given.seed,
        seconds=given.seconds or given.jobs / _JOBS_PER_SECOND,
        pause=given.pause,
        workers=given.workers,
        held=given.held,
        node=missing is None,
    )
    return options, given.stories


def _torture(options: Options, folder: Path) -> Report:
    with (
        EmbeddedServer() as quiet,
        Pair(folder, SERVER_OPTIONS) as pair,
        Bench(pair, Ledger(quiet.url, "torture"), "torture", folder) as bench,
    ):
        return asyncio.run(Torture(bench, pair, options).run())


def main(arguments: list[str]) -> int:
    """Run, print the tables; 0 if every job has finished as it may."""
    options, tell = _options(arguments)
    print(f"seed {options.seed}", flush=True)  # noqa: T201
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    report = _torture(options, folder)
    print(tables(report))  # noqa: T201
    if tell:
        print("", *report.account.again, sep="\n")  # noqa: T201
    if report.is_good:
        return 0
    print(f"\nthe workers' logs and the server's data are in {folder}")  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
