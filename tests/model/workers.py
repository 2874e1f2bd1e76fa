"""Steps of a worker's host: it starts, wakes, holds, stops and cancels the worker."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker import Worker
from tests.model.plan import Step
from tests.model.rest import check_held_answer
from tests.model.world import LATE_SECONDS, STOP_SECONDS

if TYPE_CHECKING:
    from tests.model.world import World


@dataclass(frozen=True, repr=False)
class Wake(Step):
    """The worker is woken."""

    async def take(self, world: World) -> None:
        if world.life is not None:
            world.life.worker.wake()


@dataclass(frozen=True, repr=False)
class Hold(Step):
    """``calls`` requests are held, each ``turns`` turns of the loop after the one before."""

    budget: float = 0.6
    calls: int = 1
    turns: int = 1

    async def take(self, world: World) -> None:
        for number in range(self.calls):
            if number:
                for _ in range(self.turns):
                    await asyncio.sleep(0)
            within = self.budget + LATE_SECONDS
            world.call(f"hold({self.budget})", _hold(world, self.budget), within)


@dataclass(frozen=True, repr=False)
class HoldNext(Step):
    """A request comes in the turn of the event loop in which the last held one is answered."""

    budget: float = 0.6

    async def take(self, world: World) -> None:
        within = 2 * (self.budget + LATE_SECONDS)
        world.call(f"hold({self.budget})", self._hold(world), within)

    async def _hold(self, world: World) -> None:
        ends_at = time.monotonic() + self.budget + LATE_SECONDS
        while time.monotonic() < ends_at and _held(world):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await _hold(world, self.budget)


def _held(world: World) -> bool:
    life = world.life
    return life is not None and bool(life.worker.stats().get("held"))


async def _hold(world: World, budget: float) -> None:
    life = world.life
    if life is not None:
        check_held_answer(world, life, await life.worker.hold(budget))


@dataclass(frozen=True, repr=False)
class Stop(Step):
    """The worker is stopped; with ``waits``, the next step comes when ``run`` has returned."""

    grace: float = 0.0
    waits: bool = True

    async def take(self, world: World) -> None:
        life = world.life
        if life is None or life.running.done():
            return
        life.is_ending = True
        within = self.grace + STOP_SECONDS
        world.call(f"stop({self.grace})", life.worker.stop(self.grace), within)
        if self.waits:
            await life.ended(within)
        else:
            await asyncio.sleep(0)


@dataclass(frozen=True, repr=False)
class CancelRun(Step):
    """``run`` is cancelled, ``times`` times: anyio's task groups cancel more than once."""

    times: int = 1
    apart: float = 0.0

    @property
    def is_rough(self) -> bool:
        """A worker that is cancelled twice need not return its jobs."""
        return self.times > 1

    async def take(self, world: World) -> None:
        life = world.life
        if life is None:
            return
        life.is_ending = True
        for _ in range(self.times):
            life.running.cancel()
            await asyncio.sleep(self.apart)
        await life.ended(STOP_SECONDS)


@dataclass(frozen=True, repr=False)
class Start(Step):
    """Another worker is started, unless one is running."""

    async def take(self, world: World) -> None:
        await world.fresh_life()


@dataclass(frozen=True, repr=False)
class Drain(Step):
    """A second worker drains the queues."""

    budget: float = 0.5

    async def take(self, world: World) -> None:
        world.drains += 1
        settings = world.settings.replace(wake_mode="background", sleep_after=None)
        worker = Worker(world.jobs.handlers(-world.drains), settings)
        within = self.budget + LATE_SECONDS
        world.call(f"drain({self.budget})", worker.drain(self.budget), within)
