"""``python -m tests.model``: runs random plans against a worker, and prints those that fail."""

from __future__ import annotations

import argparse
import random
import sys

from tests.model.processes import Search, search_in


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="(default %(default)s)")
    parser.add_argument("--seed", type=int, help="of the first plan (default: a random one)")
    parser.add_argument("--plans", type=int, help="how many at most, of each process")
    parser.add_argument("--processes", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--shrink", type=float, default=60.0, help="seconds for a plan that failed")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run, print the numbers; 0 if no plan failed."""
    options = _options(arguments)
    seed = random.randrange(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)  # noqa: T201
    wanted = Search(
        seed=seed,
        minutes=options.minutes,
        plans=options.plans,
        shrink_seconds=options.shrink,
    )
    report = search_in(options.processes, wanted)
    print(report)  # noqa: T201
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
