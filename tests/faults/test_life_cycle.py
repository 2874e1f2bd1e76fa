"""A worker that is stopped or cancelled at an awkward moment ends, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from convolab_worker import Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import NotRunning, RedisUnavailable
from tests.faults.harness import Bench, lasting
from tests.faults.stage import (
    ENDED_WITHIN,
    LONG,
    Census,
    Manner,
    Moment,
    Stage,
    cancelled,
    connecting,
    every_turn,
    finishing_a_job,
    held,
    once,
    reconnecting,
    running_jobs,
    sleeping,
    stopping,
    thrice,
    twice,
    waiting_for_work,
)
from tests.support.proxy import TcpProxy

StartProxy = Callable[[EmbeddedServer], TcpProxy]


@pytest.fixture
def stage(bench: Bench, start_proxy: StartProxy) -> Stage:
    """Handlers that wait, in front of a server of the test's own."""
    return Stage(bench, start_proxy(bench.server))


# cancelled, more than once

MANNERS = pytest.mark.parametrize("manner", [once, twice, thrice, every_turn])
TWO_JOBS = ("wait", "thread")


@pytest.mark.asyncio
@MANNERS
@pytest.mark.parametrize(
    ("moment", "jobs", "overrides"),
    [
        (connecting, (), {}),
        (waiting_for_work, (), {}),
        (reconnecting, (), {}),
        (running_jobs, TWO_JOBS, {}),
        (finishing_a_job, ("stall",), {}),
        (stopping, TWO_JOBS, {}),
        (held, TWO_JOBS, {"wake_mode": "held"}),
        (sleeping, ("quick",), {"sleep_after": 0.2}),
    ],
)
async def test_a_cancelled_run_leaves_nothing(
    stage: Stage, moment: Moment, manner: Manner, jobs: tuple[str, ...], overrides: dict[str, Any]
) -> None:
    """Whatever the worker does, and however often it is cancelled."""
    await stage.add(*jobs)
    census, worker = Census(stage.bench), stage.worker(**overrides)
    if moment is connecting:
        stage.proxy.hold()
    run = asyncio.create_task(worker.run(), name="run()")
    await moment(stage, worker)

    await cancelled(run, manner)

    assert sorted(stage.ended) == sorted(stage.started)
    stage.proxy.resume()
    assert await census.is_empty(), census.left()
    assert stage.bench.count("active") == 0 or moment is finishing_a_job
    assert stage.bench.count("wait") == jobs.count("wait")


@pytest.mark.asyncio
@MANNERS
async def test_a_run_that_is_cancelled_while_it_opens_leaves_nothing(
    stage: Stage, manner: Manner
) -> None:
    """A lifespan that has been entered is left."""
    entered = asyncio.Event()

    @stage.handlers.lifespan
    async def life() -> AsyncIterator[None]:
        stage.started.append("lifespan")
        entered.set()
        try:
            await asyncio.Event().wait()
            yield
        finally:
            await lasting(0.05)
            stage.ended.append("lifespan")

    census, worker = Census(stage.bench), stage.worker()
    run = asyncio.create_task(worker.run(), name="run()")
    await entered.wait()

    await cancelled(run, manner)

    assert stage.ended == stage.started
    assert await census.is_empty(), census.left()


@pytest.mark.asyncio
@MANNERS
@pytest.mark.parametrize("budget", [None, 300.0])
async def test_a_cancelled_drain_leaves_nothing(
    stage: Stage, budget: float | None, manner: Manner
) -> None:
    """A drain has a life of its own, which ends with it."""
    await stage.add(*TWO_JOBS)
    census, worker = Census(stage.bench), stage.worker()
    drain = asyncio.create_task(worker.drain(budget), name="drain()")
    await running_jobs(stage, worker)

    await cancelled(drain, manner)

    assert sorted(stage.ended) == sorted(stage.started)
    assert await census.is_empty(), census.left()
    assert stage.bench.count("wait") == 1


@pytest.mark.asyncio
@MANNERS
async def test_a_cancelled_host_leaves_nothing(stage: Stage, manner: Manner) -> None:
    """``async with worker`` is over when nothing of the worker is left."""
    await stage.add(*TWO_JOBS)
    census, worker = Census(stage.bench), stage.worker(shutdown_grace=0.2)

    async def host() -> None:
        async with worker:
            await asyncio.Event().wait()

    hosting = asyncio.create_task(host(), name="host")
    await running_jobs(stage, worker)

    await cancelled(hosting, manner)

    assert sorted(stage.ended) == sorted(stage.started)
    assert await census.is_empty(), census.left()
    assert stage.bench.count("wait") == 1


@pytest.mark.asyncio
async def test_a_task_group_that_fails_while_the_worker_stops_leaves_nothing(stage: Stage) -> None:
    """The group cancels ``run()`` and who called ``stop()``; the grace is over then."""
    await stage.add(*TWO_JOBS)
    census, worker = Census(stage.bench), stage.worker()

    async def fail() -> None:
        await stopping(stage, worker)
        msg = "the host's own failure"
        raise ValueError(msg)

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run())
            tasks.create_task(fail())

    with pytest.raises(ExceptionGroup, match="TaskGroup"):
        await asyncio.wait_for(group(), ENDED_WITHIN)

    assert sorted(stage.ended) == sorted(stage.started)
    assert await census.is_empty(), census.left()
    assert stage.bench.count("wait") == 1


def test_the_end_of_a_loop_leaves_nothing(stage: Stage) -> None:
    """``asyncio.run`` cancels every task when it ends; a handler in a thread is told by us."""

    async def main() -> Census:
        await stage.add(*TWO_JOBS)
        census, worker = Census(stage.bench), stage.worker()
        stage.caller = asyncio.create_task(worker.run())
        await running_jobs(stage, worker)
        return census

    async def left() -> list[str]:
        return [] if await census.is_empty() else census.left()

    census = asyncio.run(main())

    assert asyncio.run(left()) == []


# stopped while coming to rest

SLEEP_AFTER = 0.8
# From before the worker is tired until after it has fallen asleep.
MOMENTS = [SLEEP_AFTER - 0.1 + number / 100 for number in range(50)]


async def just_stop(worker: Worker, _: asyncio.Task[None]) -> None:
    """Nobody wakes it."""
    await worker.stop(0.0)


async def wake_and_stop(worker: Worker, _: asyncio.Task[None]) -> None:
    """A wake is the last thing that comes before the stop."""
    worker.wake()
    await worker.stop(0.0)


async def stop_and_wake(worker: Worker, _: asyncio.Task[None]) -> None:
    """A wake is the first thing that comes after the stop."""
    stopping = asyncio.ensure_future(worker.stop(0.0))
    await asyncio.sleep(0)
    worker.wake()
    await stopping


async def wake_and_soon_stop(worker: Worker, _: asyncio.Task[None]) -> None:
    """It is on its way back to work."""
    worker.wake()
    await lasting(0.03)
    await worker.stop(0.0)


async def hold_and_stop(worker: Worker, _: asyncio.Task[None]) -> None:
    """Somebody holds a request just before the stop, and is answered."""
    holding = asyncio.create_task(worker.hold(LONG), name="hold()")
    await asyncio.sleep(0)
    await worker.stop(0.0)
    await asyncio.wait({holding}, timeout=ENDED_WITHIN)
    assert holding.done(), "hold() was not answered"
    with suppress(NotRunning, RedisUnavailable):
        holding.result()


async def cancel_twice(_: Worker, run: asyncio.Task[None]) -> None:
    """Nobody stops it."""
    await twice(run)


Action = Callable[[Worker, asyncio.Task[None]], Awaitable[object]]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("mode", "action"),
    [
        ("background", just_stop),
        ("background", wake_and_stop),
        ("background", stop_and_wake),
        ("background", wake_and_soon_stop),
        ("background", hold_and_stop),
        ("background", cancel_twice),
        ("held", just_stop),
        ("held", wake_and_stop),
        ("held", hold_and_stop),
        ("held", cancel_twice),
    ],
)
async def test_a_worker_that_comes_to_rest_can_be_ended(
    stage: Stage, mode: str, action: Action
) -> None:
    """At each moment from its last work until it sleeps, with a network that takes its time."""
    stage.proxy.delay(0.03)
    census = Census(stage.bench)

    async def live(moment: float) -> bool:
        worker = stage.worker(sleep_after=SLEEP_AFTER, wake_mode=mode)
        run = asyncio.create_task(worker.run(), name=f"run() until {moment:g}")
        if mode == "held":
            await worker.hold(LONG)
        await lasting(moment)
        await action(worker, run)
        await asyncio.wait({run}, timeout=ENDED_WITHIN)
        return run.done()

    ended = await asyncio.gather(*[live(moment) for moment in MOMENTS])

    never = [moment for moment, has_ended in zip(MOMENTS, ended, strict=True) if not has_ended]
    assert never == []
    stage.proxy.resume()
    assert await census.is_empty(), census.left()
