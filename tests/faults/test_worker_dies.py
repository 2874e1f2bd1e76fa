"""Workers that are killed, frozen, killed by their jobs, or whose clock is set."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job
from tests.faults.harness import Bench, eventually, lasting
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

# Lock duration 1 s; the contract is the lock's duration + 10 s.
RECOVERED_WITHIN = 1.0 + 10.0


@pytest.fixture
def bench(safe_bench: Bench) -> Bench:
    """None of these faults is the server's."""
    return safe_bench


@pytest.mark.asyncio
async def test_a_new_worker_runs_the_jobs_of_a_killed_one(bench: Bench) -> None:
    """Jobs of a worker that was killed run on one that starts then, no attempt used up."""
    victim = bench.process()
    await victim.says("worker.started")
    ids = await bench.add({"do": "first-hold"}, {"do": "first-hold"}, {})
    await bench.started(*ids[:2])
    await bench.all_in("completed", ids[2:])

    with Stopwatch() as since_killed:
        victim.kill()
        bench.process()

        await bench.settled(ids, within=RECOVERED_WITHIN)
    assert since_killed.seconds < RECOVERED_WITHIN
    for job_id in ids:
        assert bench.field(job_id, "atm") == "1"


@pytest.mark.long
@pytest.mark.asyncio
async def test_an_idle_peer_runs_the_jobs_of_a_killed_worker(bench: Bench) -> None:
    """Jobs of a killed worker run on one that was idle all the time."""
    peer = bench.process()
    await peer.says("worker.started")
    peer.signal(signal.SIGSTOP)  # so that the other one has the job
    ids = await bench.add({"do": "first-hold"})
    victim = bench.process()
    await bench.started(*ids)
    peer.signal(signal.SIGCONT)

    victim.kill()

    await bench.settled(ids, within=RECOVERED_WITHIN)
    assert bench.ledger.ends(ids[0])[0]["pid"] == peer.pid


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_peer_that_has_worked_before_runs_the_jobs_of_a_killed_worker(
    bench: Bench,
) -> None:
    """Jobs of a killed worker run on an idle one that had jobs of the queue some time ago."""
    workers = {worker.pid: worker for worker in (bench.process(), bench.process())}
    for worker in workers.values():
        await worker.says("worker.started")
    await wait_until(lambda: bench.blocked() == 2, what="two idle workers")
    before: list[str] = []
    while {entry["pid"] for entry in bench.ledger.ends()} != workers.keys():
        assert len(before) < 40, "one worker has all the jobs"
        before += await bench.add({})
        await bench.all_in("completed", before)
    await lasting(1.5)  # until what is remembered of locks (1 s) is over
    ids = await bench.add({"do": "first-hold"})
    await bench.started(*ids)

    workers[bench.ledger.starts(ids[0])[0]["pid"]].kill()

    await bench.settled([*before, *ids], within=RECOVERED_WITHIN)


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_busy_peer_runs_the_jobs_of_a_killed_worker(bench: Bench) -> None:
    """Jobs of a killed worker run on a peer that has jobs of its own all the time."""
    victim = bench.process()
    await victim.says("worker.started")
    ids = await bench.add({"do": "first-hold"}, {"do": "first-hold"})
    await bench.started(*ids)
    victim.signal(signal.SIGSTOP)
    peer = bench.process(concurrency=1)
    await peer.says("worker.started")
    others = await bench.add(*[{"do": "sleep", "seconds": 0.2}] * 10)
    await bench.started(others[0])

    victim.kill()

    await bench.settled([*ids, *others], within=RECOVERED_WITHIN)


@pytest.mark.asyncio
async def test_a_job_that_kills_its_worker_each_time_fails_for_good(bench: Bench) -> None:
    """A poison job ends in the failed set, with a reason that says why, after BullMQ's limit."""
    poison, good = await bench.add({"do": "die"}, {})

    for _ in range(2):
        worker = bench.process(concurrency=1)
        assert await worker.ended(within=10) == 66
    bench.process(concurrency=1)

    await bench.all_in("failed", [poison], within=RECOVERED_WITHIN)
    await bench.all_in("completed", [good])
    assert "stalled more than allowable limit" in str(bench.field(poison, "failedReason"))
    assert len(bench.ledger.starts(poison)) == 2
    assert bench.states().keys() == {"failed", "completed"}


@pytest.mark.asyncio
async def test_parked_jobs_of_killed_workers_never_count_as_stalled(bench: Bench) -> None:
    """A job that was parked by worker after worker, each of them killed, runs in the end."""
    ids = await bench.add(*[{"do": "hold"}] * 6, name="one-at-a-time")

    def counted() -> tuple[int, int]:
        stalls = sum(int(bench.field(job_id, "stc") or 0) for job_id in ids)
        return len(bench.ledger.starts()), stalls

    for earlier in range(3):
        worker = bench.process(lock_duration=20.0)
        # One job has been started, and all others are parked: each has one stall to spare.
        expected = earlier + 1, earlier - 5
        await wait_until(
            lambda: counted() == expected,  # noqa: B023 - awaited at once
            timeout=RECOVERED_WITHIN,
            what="one start more, and five parked jobs",
        )
        worker.kill()
        bench.end_locks()
    never_started = [job_id for job_id in ids if not bench.ledger.starts(job_id)]
    bench.ledger.open_gate()
    bench.process()

    await bench.all_in("completed", never_started, within=RECOVERED_WITHIN)
    await wait_until(lambda: not bench.states().keys() & {"active", "wait"}, what="the end")
    assert len(never_started) >= 3
    for job_id in bench.states().get("failed", []):
        assert len(bench.ledger.starts(job_id)) > 1


@pytest.mark.asyncio
async def test_a_frozen_worker_does_not_write_what_another_has_taken_over(bench: Bench) -> None:
    """A worker that was stopped for two lock durations finds its lock gone, and writes nothing."""
    frozen = bench.process()
    await frozen.says("worker.started")
    (job_id,) = await bench.add({"do": "hold"})
    await bench.started(job_id)

    frozen.signal(signal.SIGSTOP)
    peer = bench.process()
    await bench.started(job_id, times=2, within=RECOVERED_WITHIN)
    frozen.signal(signal.SIGCONT)

    lost = await frozen.says("job.lost", within=5)
    assert lost["job_id"] == job_id
    assert bench.ids_in("active") == [job_id]
    bench.ledger.open_gate()
    await bench.settled([job_id])
    assert bench.ledger.ends(job_id)[0]["pid"] == peer.pid
    (extra,) = await bench.add({})
    await eventually(lambda: extra in bench.ids_in("completed"), within=2)


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_lone_worker_that_was_frozen_runs_its_job_again_soon(bench: Bench) -> None:
    """Jobs whose locks ran out while their only worker stood still are not left waiting."""
    worker = bench.process(lock_duration=4.0)
    await worker.says("worker.started")
    (job_id,) = await bench.add({"do": "first-hold"})
    await bench.started(job_id)
    worker.signal(signal.SIGSTOP)
    bench.redis.delete(bench.key(f"{job_id}:lock"))
    await lasting(3.5)  # by the locks' own measure, the process has stood still

    worker.signal(signal.SIGCONT)

    await worker.says("job.lost")
    await bench.started(job_id, times=2, within=2.5)
    await bench.settled([job_id])


@pytest.mark.asyncio
@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
async def test_a_clock_that_is_set_delays_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A job that runs keeps its lock and ends once; those after it come at once, or when due."""
    gate = asyncio.Event()
    seen: list[str] = []
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        bench.ledger.start(job.id)
        seen.append(job.id)
        await gate.wait()
        bench.ledger.end(job.id)

    true_time = time.time
    with capture_logs() as logs:
        async with bench.worker(handlers, lock_duration=1.0) as worker:
            first = await bench.add({})
            await bench.started(*first)
            monkeypatch.setattr(time, "time", lambda: true_time() + seconds)
            worker.wake()
            await wait_until(lambda: _events(logs, "clock.jumped"), what="the log line")
            gate.set()
            rest = await bench.add({}) + await bench.add({}, delay=300)

            took = await eventually(lambda: len(seen) == 3, within=5)

            assert took < 2.0
            await bench.settled([*first, *rest])
    assert not _events(logs, "job.lost")


def _events(logs: Any, name: str) -> list[Any]:
    return [line for line in logs if line["event"] == name]
