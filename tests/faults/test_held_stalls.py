"""Redis stalls while a hold, a drain or a worker ends: no slot, lock or job may stay behind."""

from __future__ import annotations

import asyncio

import pytest

from convolab_worker import JobClient, Worker
from convolab_worker.errors import RedisUnavailable
from tests.faults.harness import lasting
from tests.faults.stalls import SHORT_LOCK, STALL_SECONDS, Stage, slots
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio


# slots that are lost


async def test_progress_that_stalls_at_the_end_of_a_hold_costs_no_slot(stage: Stage) -> None:
    """A job that was told to end waits for its progress to be written, and is given up there."""
    async with stage.worker(lock_duration=SHORT_LOCK, wake_linger=10.0) as worker:
        first, _ = await stage.bench.add({"waits": True, "reports": True}, {})
        holding = asyncio.create_task(worker.hold(2.0))  # whose jobs are told to end after 1.5 s
        await stage.called(first)
        stage.proxy.hold()
        stage.work.gate.set()
        await lasting(3.5)
        stage.proxy.resume()
        await asyncio.gather(holding, return_exceptions=True)

        await stage.finish(worker)


async def test_progress_that_stalls_at_a_stop_costs_no_slot(stage: Stage) -> None:
    """A worker that has stopped has no job."""
    async with stage.worker("background") as worker:
        ids = await stage.bench.add({"waits": True, "reports": True})
        await stage.called(*ids)
        stage.proxy.hold()
        stage.work.gate.set()

    assert slots(worker) == (0, 1)


async def test_a_scheduler_that_stalls_at_the_end_of_a_hold_costs_no_slot(stage: Stage) -> None:
    """Its job has a slot, and waits there for the next run to be added before it is begun."""
    async with stage.worker(lock_duration=SHORT_LOCK, wake_linger=10.0) as worker:
        await stage.schedule()
        stage.work.gate.set()
        holding = asyncio.create_task(worker.hold(30))
        await stage.stall_at(b"hourly")
        await stage.hang_up(holding)

        await stage.finish(worker)


async def test_a_due_time_that_stalls_at_the_end_of_a_hold_costs_no_slot(stage: Stage) -> None:
    """A slot is reserved for the next job while the queue's next due time is asked for."""
    async with stage.worker(lock_duration=SHORT_LOCK, wake_linger=10.0) as worker:
        (first,) = await stage.bench.add({"waits": True})
        (second,) = await stage.bench.add({}, delay=500)
        holding = asyncio.create_task(worker.hold(30))
        await stage.called(first)
        await lasting(0.8)  # the second job falls due while the first one has the slot
        stage.work.gate.set()
        # Whoever does not ask for the due time here runs the second job, and stalls at its end.
        await stage.stall_at(b"ZRANGE", f"result of {second}".encode())
        await stage.hang_up(holding)

        await stage.finish(worker)


# jobs that are lost


async def test_a_look_at_other_queues_that_stalls_leaves_no_job_locked(stage: Stage) -> None:
    """A job has ended, and its outcome waits until it is known whether its slot is needed."""
    queues = (stage.bench.queue, f"{stage.bench.queue}-other")
    async with stage.worker(queues=queues, lock_duration=SHORT_LOCK, wake_linger=10.0) as worker:
        first, _ = await stage.bench.add({"waits": True}, {})
        holding = asyncio.create_task(worker.hold(30))
        await stage.called(first)
        stage.proxy.hold()
        stage.work.gate.set()
        await stage.hang_up(holding)

        await stage.finish(worker)


async def test_a_result_that_a_hold_could_not_write_is_written_by_the_next(stage: Stage) -> None:
    """The job has ended, what tells of it never reaches Redis, and it is not run again."""
    async with stage.worker() as worker:
        (first,) = await stage.bench.add({"waits": True})
        holding = asyncio.create_task(worker.hold(30))
        await stage.called(first)
        stage.proxy.hold()
        stage.work.gate.set()
        await wait_until(lambda: not stage.work.running, what="the end of the handler")
        holding.cancel()
        await lasting(STALL_SECONDS)
        stage.proxy.cut()
        stage.proxy.resume()

        await stage.finish(worker)

    assert stage.work.calls == [first]


async def test_a_job_whose_fetch_stalls_is_run_by_the_next_hold(stage: Stage) -> None:
    """The hold was over before the reply came; the connection was never lost."""
    async with stage.worker() as worker:
        await stage.bench.add({})
        holding = asyncio.create_task(worker.hold(30))
        await stage.stall_at(b"EVALSHA")
        await stage.hang_up(holding)

        await stage.finish(worker)


async def test_a_job_that_a_stalled_finish_fetched_is_run_by_the_next_hold(stage: Stage) -> None:
    """The script that writes one job's end takes the next job."""
    async with stage.worker() as worker:
        first, _ = await stage.bench.add({"waits": True}, {})
        holding = asyncio.create_task(worker.hold(30))
        await stage.called(first)
        stage.work.gate.set()
        await stage.stall_at(f"result of {first}".encode())
        await stage.hang_up(holding)

        await stage.finish(worker)


async def test_a_job_whose_fetch_stalls_goes_back_at_a_stop(stage: Stage) -> None:
    """Redis is back before the worker is told to stop."""
    async with stage.worker() as worker:
        ids = await stage.bench.add({})
        holding = asyncio.create_task(worker.hold(30))
        await stage.stall_at(b"EVALSHA")
        await stage.hang_up(holding)

    assert stage.bench.ids_in("wait") == ids


@pytest.mark.parametrize("name", ["work", "one-at-a-time"], ids=["running", "parked"])
async def test_jobs_that_could_not_be_returned_are_run_by_the_next_hold(
    stage: Stage, name: str
) -> None:
    """Redis was away when two jobs were to go back: this worker has locked both of them still."""
    async with stage.worker(concurrency=2) as worker:
        await stage.bench.add({"waits": True}, {"waits": True}, name=name)
        holding = asyncio.create_task(worker.hold(30))
        await wait_until(lambda: worker.stats()["running"] + worker.stats()["parked"] == 2)
        stage.proxy.cut(refuse=True)
        await stage.hang_up(holding)
        stage.work.gate.set()
        result = await worker.hold(15)

    assert (result.status, list(stage.bench.states())) == ("drained", ["completed"])


async def test_a_drain_counts_the_job_whose_fetch_stalls(stage: Stage) -> None:
    """The job is run, or is one of those that remain; or the drain says that it does not know."""
    await stage.load_scripts()
    await stage.bench.add({})
    settings = stage.bench.settings(**stage.settings())
    draining = asyncio.create_task(Worker(stage.work.handlers, settings).drain(2.0))
    await stage.stall_at(b"EVALSHA")
    await lasting(STALL_SECONDS)
    stage.proxy.resume()
    try:
        result = await draining
    except RedisUnavailable:
        return
    assert result.processed + result.remaining == 1, (result, stage.bench.states())


# jobs that are told something before their handler begins


async def test_a_handler_is_not_begun_after_all_were_told_to_end(stage: Stage) -> None:
    """The scheduler's next run is added while the worker stops: the job goes back to its queue."""
    async with stage.worker("background") as worker:
        stalled = asyncio.create_task(stage.stall_at(b"hourly"))
        await stage.schedule()
        await stalled
        stopping = asyncio.create_task(worker.stop(0.0))
        await lasting(0.3)  # the handlers that run have been told, and have half a second
        stage.proxy.resume()
        await stopping

    assert (stage.work.running, slots(worker)) == (0, (0, 1))


async def test_a_job_is_cancelled_before_its_handler_begins(stage: Stage) -> None:
    """The request is heard while the scheduler's next run is added, and holds after that."""
    async with (
        stage.worker("background", lock_duration=SHORT_LOCK),
        JobClient(stage.bench.settings()) as client,
    ):
        arrival = asyncio.create_task(stage.arrival(b"hourly"))
        await stage.schedule()
        link = await arrival
        link.set_mode("hold")
        stage.proxy.delay(0.0)
        (job_id,) = stage.bench.ids_in("active")
        lock = stage.bench.key(f"{job_id}:lock")
        token = stage.bench.redis.get(lock)
        await client.cancel(job_id, wait=False)
        await wait_until(lambda: stage.bench.redis.get(lock) == token, what="the request's taking")
        link.set_mode("pass")

        await stage.bench.all_in("failed", [job_id], within=3)


async def test_a_handler_is_not_begun_after_the_lock_was_lost(stage: Stage) -> None:
    """Another worker has the job before the scheduler's next run has been added."""
    async with stage.worker("background", lock_duration=SHORT_LOCK) as worker:
        arrival = asyncio.create_task(stage.arrival(b"hourly"))
        await stage.schedule()
        link = await arrival
        link.set_mode("hold")
        stage.proxy.delay(0.0)
        (job_id,) = stage.bench.ids_in("active")
        stage.bench.redis.set(stage.bench.key(f"{job_id}:lock"), "another", ex=60)
        await lasting(SHORT_LOCK * 3 / 4)  # a lock is renewed after half of its time at the latest
        link.set_mode("pass")
        await wait_until(lambda: stage.work.calls or slots(worker) == (0, 1), what="the reply")

    assert stage.work.calls == []
