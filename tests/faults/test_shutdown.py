"""Workers that are told to stop, in every situation in which that is hard."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from convolab_worker import HandlerRegistry, Job, Worker
from convolab_worker.embedded import EmbeddedServer
from tests.faults.harness import Bench
from tests.support.proxy import TcpProxy
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

GRACE = 1.0
# Grace + 1 s is the contract; the rest is the interpreter's own end, on a busy machine.
ENDED_WITHIN = GRACE + 1.0 + 0.5


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
async def test_jobs_complete_within_the_grace_or_go_back(
    bench: Bench, number: signal.Signals
) -> None:
    """A job that ends within the grace completes, one that does not goes back, nothing is begun."""
    worker = bench.process(concurrency=2)
    await worker.says("worker.started")
    quick, slow, waiting = await bench.add({"do": "sleep", "seconds": 0.6}, {"do": "hold"}, {})
    await bench.started(quick, slow)

    worker.signal(number)
    code = await worker.ended(within=ENDED_WITHIN)

    assert code == 0
    assert bench.states() == {"wait": [slow, waiting], "completed": [quick]}
    assert bench.field(slow, "atm") in (None, "0")
    assert not bench.ledger.starts(waiting)


@pytest.mark.asyncio
async def test_a_second_signal_ends_the_grace(bench: Bench) -> None:
    """A second signal ends the worker at once, and the job is back in its queue all the same."""
    worker = bench.process(shutdown_grace=30)
    await worker.says("worker.started")
    ids = await bench.add({"do": "hold"})
    await bench.started(*ids)
    worker.signal(signal.SIGTERM)
    await worker.says("worker.stopping")

    worker.signal(signal.SIGTERM)

    assert await worker.ended(within=1.5) == 0
    assert bench.states() == {"wait": ids}


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["gone", "silent"])
async def test_a_second_signal_ends_the_process_while_redis_is_away(bench: Bench, how: str) -> None:
    """What was not written is found by the next worker, as after a crash."""
    worker = bench.process(shutdown_grace=25, command_timeout=0.5)
    await worker.says("worker.started")
    ids = await bench.add({"do": "hold"})
    await bench.started(*ids)
    if how == "gone":
        await asyncio.to_thread(bench.server.kill)
    else:
        bench.server.suspend()
    worker.signal(signal.SIGTERM)
    await worker.says("worker.stopping")
    if how == "gone":
        await worker.says("redis.unavailable")

    worker.signal(signal.SIGTERM)
    code = await worker.ended(within=1.0 if how == "gone" else 4.0)

    assert code == 128 + signal.SIGTERM
    assert worker.events("process.forced_exit")
    if how == "gone":
        await asyncio.to_thread(bench.server.start)
    else:
        bench.server.resume()
    assert bench.states() == {"active": ids}
    async with asyncio.timeout(20):
        bench.process()
        await wait_until(lambda: len(bench.ledger.starts(ids[0])) == 2, what="the next worker")


@pytest.mark.asyncio
async def test_parked_jobs_go_back_in_order(bench: Bench) -> None:
    """Jobs parked at a shutdown are back at the head of their queue, in order."""
    ids = await bench.add(*[{"do": "hold"}] * 5, name="one-at-a-time")
    worker = bench.process(park_limit=3)
    await bench.started(ids[0])
    await wait_until(lambda: len(bench.ids_in("active")) >= 4, what="three parked jobs")

    worker.signal(signal.SIGTERM)

    assert await worker.ended(within=ENDED_WITHIN) == 0
    assert bench.states() == {"wait": ids}


@pytest.mark.asyncio
@pytest.mark.parametrize("step", ["stubborn", pytest.param("offload", marks=pytest.mark.long)])
async def test_a_handler_that_does_not_end_does_not_keep_the_process(
    bench: Bench, step: str
) -> None:
    """A handler that ignores its cancellation, or waits for a thread, can't keep a worker alive."""
    worker = bench.process(shutdown_grace=0.2)
    await worker.says("worker.started")
    ids = await bench.add({"do": step})
    await bench.started(*ids)

    worker.signal(signal.SIGTERM)
    await worker.says("process.forced_exit")

    assert await worker.ended(within=ENDED_WITHIN) == 0
    assert bench.states() == {"wait": ids}


@pytest.mark.asyncio
async def test_a_thread_that_never_ends_does_not_keep_the_process(bench: Bench) -> None:
    """A plain function that never returns can't keep a worker alive, and its job goes back."""
    worker = bench.process(shutdown_grace=0.2)
    await worker.says("worker.started")
    ids = await bench.add({}, name="thread")
    await bench.started(*ids)

    worker.signal(signal.SIGTERM)

    assert await worker.ended(within=ENDED_WITHIN) == 0
    assert bench.states() == {"wait": ids}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "busy", [pytest.param(False, id="idle", marks=pytest.mark.long), pytest.param(True, id="busy")]
)
async def test_a_worker_stops_in_time_while_redis_is_away(
    bench: Bench,
    busy: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A worker that can't reach its server ends in time all the same."""
    worker = bench.process()
    await worker.says("worker.started")
    ids = await bench.add({"do": "hold"}, {"do": "hold"}) if busy else []
    await bench.started(*ids)
    await asyncio.to_thread(bench.server.stop)
    await worker.says("redis.unavailable")

    worker.signal(signal.SIGTERM)

    assert await worker.ended(within=ENDED_WITHIN) == 0


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_worker_with_parked_jobs_stops_in_time_while_redis_is_away(bench: Bench) -> None:
    """Parked jobs that can't be returned don't hold up the end, however many they are."""
    ids = await bench.add(*[{"do": "hold"}] * 20, name="one-at-a-time")
    worker = bench.process()
    await bench.started(ids[0])
    await wait_until(lambda: len(bench.ids_in("active")) == 20, what="parked jobs")
    await asyncio.to_thread(bench.server.stop)
    await worker.says("redis.unavailable")

    worker.signal(signal.SIGTERM)

    assert await worker.ended(within=ENDED_WITHIN) == 0


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_worker_stops_in_time_while_redis_refuses(bench: Bench) -> None:
    """A worker that pauses since its server refuses to serve ends in time all the same."""
    await bench.add({})
    bench.redis.config_set("min-replicas-to-write", 1)
    worker = bench.process()
    await worker.says("redis.refused")
    await wait_until(
        lambda: bench.refusals() >= 4, what="the fourth refusal, and a pause beyond the grace"
    )

    worker.signal(signal.SIGTERM)

    assert await worker.ended(within=ENDED_WITHIN) == 0


def _quick(ran: list[str]) -> HandlerRegistry:
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        ran.append(job.id)

    return handlers


@pytest.mark.asyncio
async def test_a_job_whose_take_was_under_way_goes_back(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """A job that the server has given to a worker that stops at that moment is returned at once."""
    proxy = start_proxy(bench.server)
    worker = Worker(_quick([]), bench.settings(redis_url=proxy.url))
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: worker.stats().get("connected"))
    proxy.delay(0.3)
    ids = await bench.add({})
    await wait_until(lambda: bench.ids_in("active"), what="the take")
    proxy.delay(0.0)  # from now on: the answer to the take is still on its way

    await worker.stop(GRACE)
    await asyncio.wait_for(running, 5)

    assert bench.states() == {"wait": ids}


@pytest.mark.asyncio
async def test_a_job_whose_marker_was_popped_is_announced_to_another_worker(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """A job announced to a worker that stops at that moment is picked up by its peer at once."""
    proxy = start_proxy(bench.server)
    ran: list[str] = []
    worker = Worker(_quick([]), bench.settings(redis_url=proxy.url))
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: bench.blocked() == 1, what="the first one's block")
    async with bench.worker(_quick(ran)):
        await wait_until(lambda: bench.blocked() == 2, what="the second block")
        proxy.delay(0.2)
        ids = await bench.add({})
        await wait_until(lambda: bench.blocked() == 1, what="the pop")

        await worker.stop(GRACE)
        await asyncio.wait_for(running, 5)

        await bench.all_in("completed", ids, within=2)
    assert ran == ids


@pytest.mark.long
@pytest.mark.asyncio
async def test_jobs_fetched_at_the_end_of_others_go_back_in_order_when_they_would_be_parked(
    bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """What a finish brings while the worker stops goes back, though its handler is at its limit."""
    proxy = start_proxy(bench.server)
    gate = asyncio.Event()
    handlers = _quick([])

    @handlers.image("one", concurrency=1)
    async def one(_: Job[Any]) -> None:
        await gate.wait()

    (first,) = await bench.add({}, name="one")
    worker = Worker(
        handlers, bench.settings(redis_url=proxy.url, concurrency=2, lock_duration=20.0)
    )
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: worker.stats().get("running") == 1)
    await bench.add({})
    (parked,) = await bench.add({}, name="one")
    await wait_until(lambda: worker.stats().get("parked") == 1)
    proxy.delay(0.1)
    (quick,) = await bench.add({})
    (late,) = await bench.add({}, name="one")
    await wait_until(lambda: late in bench.ids_in("active"), what="the fetch of the last")

    with Stopwatch() as stopping:
        await worker.stop(0.5)
        await asyncio.wait_for(running, 10)

    assert stopping.seconds < 3
    assert bench.states()["wait"] == [first, parked, late]
    assert quick in bench.ids_in("completed")
