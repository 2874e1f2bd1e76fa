"""Another program's value where a job's hash belongs: that job fails, and the next one runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job
from tests.faults.harness import Bench
from tests.support.waiting import wait_until


@pytest.fixture
def bench(safe_bench: Bench) -> Bench:
    """None of these faults is the server's."""
    return safe_bench


def _overwrite(bench: Bench, job_id: str) -> None:
    bench.redis.set(bench.key(job_id), "another program's")


def _kept(bench: Bench, job_id: str) -> list[str]:
    """What was kept of the values that stood where the job's hash belongs."""
    return [
        bench.redis.get(key) for key in bench.redis.scan_iter(bench.key(f"{job_id}:not-a-job:*"))
    ]


def _handlers(gate: asyncio.Event) -> HandlerRegistry:
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> str:
        return job.id

    @handlers.audio("hold")
    async def hold(job: Job[Any]) -> str:
        await gate.wait()
        return job.id

    return handlers


@pytest.mark.asyncio
@pytest.mark.parametrize("place", ["first", "next"])
async def test_a_job_that_was_overwritten_fails_and_the_next_one_runs(
    bench: Bench, place: str
) -> None:
    """Taken alone or at the end of another job, it fails with a reason that says where what is."""
    jobs = await bench.add({}, {}, {})
    bad = jobs[0] if place == "first" else jobs[1]
    good = [job_id for job_id in jobs if job_id != bad]
    _overwrite(bench, bad)
    with capture_logs() as logs:
        async with bench.worker(_handlers(asyncio.Event()), concurrency=1) as worker:
            await bench.all_in("completed", good)
            await bench.all_in("failed", [bad])
            await wait_until(lambda: worker.stats()["free"] == 1, what="the free slot")

    assert f"{bad}:not-a-job:" in str(bench.field(bad, "failedReason"))
    assert _kept(bench, bad) == ["another program's"]
    assert bench.states().keys() == {"completed", "failed"}
    assert [line["job_id"] for line in logs if line["event"] == "job.wrong_key_type"] == [bad]


@pytest.mark.asyncio
async def test_a_job_that_is_overwritten_while_it_runs_is_written_whole(bench: Bench) -> None:
    """Its worker knows what it was: it is completed like any other, and the value is kept."""
    gate = asyncio.Event()
    async with bench.worker(_handlers(gate)) as worker:
        (job_id,) = await bench.add({"text": "hello"}, name="hold", attempts=2)
        await wait_until(lambda: worker.stats()["running"] == 1, what="the start")
        _overwrite(bench, job_id)
        gate.set()

        await bench.all_in("completed", [job_id])

    fields = bench.redis.hgetall(bench.key(job_id))
    assert (fields["name"], fields["data"], fields["atm"]) == ("hold", '{"text":"hello"}', "1")
    assert fields["returnvalue"] == f'"{job_id}"'
    assert _kept(bench, job_id) == ["another program's"]


@pytest.mark.asyncio
async def test_a_job_that_was_overwritten_while_its_worker_died_takes_no_other_with_it(
    bench: Bench,
) -> None:
    """Of a dead worker's jobs, those that are whole run again, and the other one fails."""
    jobs = await bench.add({}, {}, {})
    bench.redis.rename(bench.key("wait"), bench.key("active"))
    _overwrite(bench, jobs[1])

    async with bench.worker(_handlers(asyncio.Event())):
        await bench.all_in("completed", [jobs[0], jobs[2]])
        await bench.all_in("failed", [jobs[1]])

    assert bench.states().keys() == {"completed", "failed"}
