"""Workers that differ, on one queue: Node's and ours, and ours with other settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Bench
from tests.support.node import NodeProcess, NodeScripts

HERE = Path(__file__).parent
VERSIONS = ["bullmq", pytest.param("bullmq5", marks=pytest.mark.long)]


@pytest.fixture
def bench(safe_bench: Bench) -> Bench:
    """None of these faults is the server's."""
    return safe_bench


@asynccontextmanager
async def node_worker(bench: Bench, bullmq: str, **options: Any) -> AsyncIterator[NodeProcess]:
    """A worker of that npm package on the bench's queue; ``options`` are its own."""
    task = {
        "bullmq": bullmq,
        "port": bench.port,
        "queue": bench.queue,
        "ledgerUrl": bench.ledger.url,
        "ledgerName": bench.ledger.name,
        "options": {"concurrency": 4, "lockDuration": 1000, "stalledInterval": 500, **options},
    }
    async with await NodeScripts(HERE).start("worker.mjs") as process:
        await process.send(task)
        assert await process.receive() == {"ready": True}
        yield process


def shares(bench: Bench) -> Counter[int]:
    """How many jobs each process has run."""
    return Counter(entry["pid"] for entry in bench.ledger.ends())


@pytest.mark.asyncio
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("bullmq", VERSIONS)
async def test_a_node_worker_and_ours_share_the_jobs(bench: Bench, bullmq: str) -> None:
    """Of 500 jobs for both, each is run once, by one or the other."""
    worker = bench.process(lock_duration=30.0)
    await worker.says("worker.started")
    async with node_worker(bench, bullmq, lockDuration=30_000) as nodes:
        jobs = [{"do": "sleep", "seconds": 0.005 * (number % 5)} for number in range(500)]

        ids = await bench.add(*jobs)

        await bench.settled(ids, within=30)
        assert len(bench.ledger.starts()) == 500
        assert set(shares(bench)) == {worker.pid, nodes.pid}
        assert min(shares(bench).values()) > 50


@pytest.mark.asyncio
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("bullmq", VERSIONS)
async def test_our_worker_runs_the_jobs_of_a_killed_node_worker(bench: Bench, bullmq: str) -> None:
    """Jobs of a Node worker that was killed run on ours, no attempt used up."""
    async with node_worker(bench, bullmq) as nodes:
        ids = await bench.add({"do": "first-hold"}, {"do": "first-hold"})
        await bench.started(*ids)
        worker = bench.process()
        await worker.says("worker.started")

        nodes.kill()

        await bench.settled(ids, within=11)
        assert set(shares(bench)) == {worker.pid}
        assert [bench.field(job_id, "atm") for job_id in ids] == ["1", "1"]


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("bullmq", ["bullmq", "bullmq5"])
async def test_a_node_worker_runs_the_jobs_of_ours_when_it_is_killed(
    bench: Bench, bullmq: str
) -> None:
    """Jobs of our worker that was killed run on Node's, no attempt used up."""
    worker = bench.process()
    await worker.says("worker.started")
    ids = await bench.add({"do": "first-hold"}, {"do": "first-hold"})
    await bench.started(*ids)
    async with node_worker(bench, bullmq) as nodes:
        worker.kill()

        await bench.settled(ids, within=11)
        assert set(shares(bench)) == {nodes.pid}
        assert [bench.field(job_id, "atm") for job_id in ids] == ["1", "1"]


@pytest.mark.asyncio
async def test_workers_with_other_settings_share_the_jobs(bench: Bench) -> None:
    """A worker with short locks and one with long ones run each job once, and keep their own."""
    short = bench.process(lock_duration=2.5, concurrency=2, max_stalled_count=0)
    long = bench.process(lock_duration=30.0, concurrency=5, idle_min=0.1, idle_max=1.0)
    for worker in (short, long):
        await worker.says("worker.started")
    # Some of them last longer than the short locks.
    jobs = [{"do": "sleep", "seconds": 0.01 if number % 10 else 2.7} for number in range(80)]

    ids = await bench.add(*jobs)

    await bench.settled(ids, within=30)
    assert len(bench.ledger.starts()) == 80
    assert set(shares(bench)) == {short.pid, long.pid}
    assert not [line for worker in (short, long) for line in worker.events("jobs.stalled")]
