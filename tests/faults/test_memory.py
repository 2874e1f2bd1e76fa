"""A worker's memory does not grow with the number of jobs that it has run."""

from __future__ import annotations

import pytest

from tests.faults.harness import Bench
from tests.faults.memory import ALLOWED, FIRST, growth, samples


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.timeout(300)
async def test_the_resident_set_stays_what_it_was(bench: Bench) -> None:
    """After six times as many no-op jobs a worker has within a tenth of the memory."""
    taken = [sample async for sample in samples(bench, bench.server.url, (FIRST, 6 * FIRST))]

    assert growth(taken) <= ALLOWED, taken
