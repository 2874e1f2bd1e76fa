"""``python -m tests.model``: plans without end, and those that failed, as short as they can be."""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from tests.model.bench import ModelBench
from tests.model.search import Failure, Report, search
from tests.support.server import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

# The seeds of one process are this far from those of the next.
_APART = 1_000_000


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="(default %(default)s)")
    parser.add_argument("--seed", type=int, help="of the first plan (default: a random one)")
    parser.add_argument("--plans", type=int, help="how many at most, of each process")
    parser.add_argument("--processes", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds for a plan that failed")
    return parser.parse_args(arguments)


def _seeds(first: int, most: int | None, minutes: float) -> Iterator[int]:
    ends_at = time.monotonic() + 60 * minutes
    number = first
    while time.monotonic() < ends_at and (most is None or number < first + most):
        yield number
        number += 1


def _tell(failure: Failure) -> None:
    print(f"{failure}\n", flush=True)  # noqa: T201


def _run(first: int, most: int | None, minutes: float, shrink: float) -> Report:
    with ServerProcess() as server, ModelBench(server) as bench:
        seeds = _seeds(first, most, minutes)
        return search(bench, seeds, shrink_seconds=shrink, tell=_tell)


def main(arguments: list[str]) -> int:
    """Run, print the numbers; 0 if no plan failed."""
    options = _options(arguments)
    seed = random.randrange(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)  # noqa: T201
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        running = [
            pool.submit(
                _run, seed + number * _APART, options.plans, options.minutes, options.shrink
            )
            for number in range(options.processes)
        ]
        report = reduce(add, [each.result() for each in running])
    print(report)  # noqa: T201
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
