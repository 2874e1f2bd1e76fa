"""Searches in several processes at once, since a plan mostly waits."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

from tests.model.bench import ModelBench
from tests.model.search import Failure, Report, search
from tests.support.server import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

# The first seeds of two processes are so far apart.
_APART = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Search:
    """What each process does: ``plans`` plans, or what ``minutes`` allow, from ``seed`` on."""

    seed: int
    minutes: float
    plans: int | None = None
    shrink_seconds: float = 60.0

    def seeds(self, process: int) -> Iterator[int]:
        """Yield the seeds of one process, until its time is over."""
        ends_at = time.monotonic() + 60 * self.minutes
        first = number = self.seed + process * _APART
        while time.monotonic() < ends_at and (self.plans is None or number < first + self.plans):
            yield number
            number += 1


def search_in(processes: int, wanted: Search) -> Report:
    """Search in so many processes, each with a server of its own; failures are printed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = [pool.submit(_search, wanted, number) for number in range(processes)]
        return reduce(add, [each.result() for each in running])


def _search(wanted: Search, process: int) -> Report:
    with ServerProcess() as server, ModelBench(server) as bench:
        return search(
            bench, wanted.seeds(process), shrink_seconds=wanted.shrink_seconds, tell=_tell
        )


def _tell(failure: Failure) -> None:
    print(f"{failure}\n", flush=True)  # noqa: T201
