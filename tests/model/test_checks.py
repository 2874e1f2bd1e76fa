"""Tests of the model: each invariant can fail, and plans that fail are shrunk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from tests.model import rest, world as world_of_plans
from tests.model.bench import ModelBench
from tests.model.plan import Plan, Step
from tests.model.run import run_plan
from tests.model.search import try_plan
from tests.model.steps import Add, Hold, Let, Until, Wake
from tests.model.world import Finding, World

Wrong = Callable[[World], Coroutine[Any, Any, None]]
_forever = threading.Event()
# A task that nobody refers to may be destroyed before it is looked for.
_kept: list[asyncio.Task[Any]] = []


@dataclass(frozen=True, repr=False)
class Sabotage(Step):
    """A test breaks an invariant on purpose."""

    wrong: Wrong

    async def take(self, world: World) -> None:
        await self.wrong(world)


def _key(world: World, part: str) -> str:
    return world.queue.key(part)


async def leaves_logs(world: World) -> None:
    """Log rows of a job that is not there."""
    world.bench.redis.rpush(_key(world, "gone:logs"), "row")


async def leaves_half_a_job(world: World) -> None:
    """A hash that was made by a count."""
    world.bench.redis.hset(_key(world, "j9"), "stc", 1)


async def leaves_a_lock(world: World) -> None:
    """A lock that nobody gives back."""
    world.bench.redis.set(_key(world, "j1:lock"), "nobody's")


async def loses_a_job(world: World) -> None:
    """A job is in no list."""
    world.bench.redis.zrem(_key(world, "completed"), "j1")


async def counts_a_stall(world: World) -> None:
    """A job that was never missed is counted as stalled."""
    world.bench.redis.hset(_key(world, "j1"), "stc", 1)


async def counts_an_attempt(world: World) -> None:
    """A job has used an attempt too many."""
    world.bench.redis.hset(_key(world, "j1"), "atm", 2)


async def starts_a_task(_: World) -> None:
    """A task that nobody ends."""
    _kept.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))


async def connects(world: World) -> None:
    """Somebody keeps a connection that is not the worker's."""
    _kept.append(asyncio.create_task(_stay_connected(world.proxy.port), name="connected"))


async def _stay_connected(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.Event().wait()
    finally:
        writer.close()


async def starts_a_thread(_: World) -> None:
    """A thread that nobody ends."""
    threading.Thread(target=_forever.wait, name="forgotten", daemon=True).start()


async def ends_the_worker(world: World) -> None:
    """The worker ends, and no step has asked for it."""
    assert world.life is not None
    await world.life.worker.stop(0.0)
    await world.life.running


async def hangs(world: World) -> None:
    """A call never ends."""
    world.call("a call", asyncio.Event().wait(), 0.1)


async def is_late(world: World) -> None:
    """A call ends after its time."""
    world.call("a call", asyncio.sleep(0.2), 0.1)


async def raises(world: World) -> None:
    """A call raises what is not an error of the library."""

    async def call() -> None:
        raise ZeroDivisionError

    world.call("a call", call(), 0.1)


async def goes_unheard(world: World) -> None:
    """A job is put where no marker tells of it."""
    world.bench.redis.hset(_key(world, "j2"), mapping={"name": "wide", "data": "{}"})
    world.bench.redis.zadd(_key(world, "delayed"), {"j2": 1 << 53})


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (leaves_logs, "garbage"),
        (leaves_half_a_job, "garbage"),
        (leaves_a_lock, "locks"),
        (loses_a_job, "wrong-end"),
        (counts_a_stall, "stalled"),
        (counts_an_attempt, "attempts"),
        (starts_a_task, "tasks-left"),
        (starts_a_thread, "threads-left"),
        (connects, "connections-left"),
        (ends_the_worker, "run-ends"),
        (hangs, "call-hangs"),
        (is_late, "call-late"),
        (raises, "call-raises"),
        (goes_unheard, "not-ended"),
    ],
)
def test_what_is_wrong_is_found(
    bench: ModelBench, monkeypatch: pytest.MonkeyPatch, wrong: Wrong, kind: str
) -> None:
    """Each invariant can fail."""
    monkeypatch.setattr(rest, "PATIENCE_SECONDS", 0.5)
    # What a job may be is checked only where no pause of the machine can have cost it its lock.
    for module in (rest, world_of_plans):
        monkeypatch.setattr(module, "LOCK_SECONDS", 20.0)
    plan = Plan(steps=(Add(), Until("answered"), Let(0.1), Sabotage(wrong)))

    try:
        found = run_plan(plan, bench)
    finally:
        _forever.set()
        _forever.clear()
        _kept.clear()

    assert kind in {finding.kind for finding in found}


def test_a_worker_that_is_well_is_found_well(bench: ModelBench) -> None:
    """Without sabotage, nothing is found."""
    assert run_plan(Plan(steps=(Add(), Until("answered"), Let(0.1))), bench) == []
    assert run_plan(Plan(steps=(Add(), Hold(), Let(0.1)), held=True), bench) == []


@pytest.mark.timeout(300)
def test_a_plan_that_fails_becomes_as_short_as_it_can_be(bench: ModelBench) -> None:
    """Only the step remains that makes it fail."""
    fault = Sabotage(leaves_logs)
    plan = Plan(steps=(Wake(), Add(takes=0.02, count=3), fault, Let(), Wake()), concurrency=3)

    failure = try_plan(bench, plan, shrink_seconds=200.0)

    assert failure is not None
    assert failure.plan == Plan(steps=(fault,))
    assert failure.findings == [Finding("garbage", "keys of no job: ['gone:logs without its job']")]


def test_a_plan_can_be_pasted() -> None:
    """Its text is the call that makes it."""
    plan = Plan(steps=(Add(takes=None), Hold(0.2)), held=True)

    assert eval(str(plan)) == plan  # noqa: S307
