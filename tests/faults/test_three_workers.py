"""Three worker processes of ours on one server share the work through BullMQ alone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.harness import Bench

JOBS = 3000


@pytest.mark.asyncio
async def test_three_processes_run_each_of_three_thousand_jobs_once(bench: Bench) -> None:
    """Each job is started once and completed, and each of the processes has had a share."""
    workers = [bench.process(lock_duration=30.0) for _ in range(3)]
    for worker in workers:
        await worker.says("worker.started")

    ids = await bench.add(*[{}] * JOBS)

    await bench.all_in("completed", ids, within=60)
    starts = bench.ledger.starts()
    runs = Counter(start["id"] for start in starts)
    assert runs == dict.fromkeys(ids, 1)
    assert len({start["pid"] for start in starts}) == len(workers)
