"""What clients and operators do: to jobs, and to the worker."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker import Worker
from tests.model.jobs import Kind
from tests.model.plan import Step
from tests.model.rest import check_held_answer
from tests.model.world import CONNECT_SECONDS, LATE_SECONDS, STOP_SECONDS

if TYPE_CHECKING:
    from tests.model.jobs import Known
    from tests.model.world import World

# jobs and clients


@dataclass(frozen=True, repr=False)
class Add(Step):
    """A client adds jobs; ``takes`` seconds, or until the gate is opened."""

    kind: Kind = "wide"
    takes: float | None = 0.0
    count: int = 1
    failures: int = 0
    attempts: int = 1
    backoff: float = 0.0
    later: int = 0
    delay: float = 0.0
    priority: int = 0
    reports: bool = False
    stubborn: bool = False
    children: int = 0
    child_fails: bool = False
    queue: int = 0

    async def take(self, world: World) -> None:
        """Begin to add them."""
        data = {
            name: getattr(self, name)
            for name in ("kind", "takes", "failures", "later", "reports", "stubborn", "children")
        } | {"child_fails": self.child_fails and self.children > 0}
        within = CONNECT_SECONDS + world.settings.command_timeout + LATE_SECONDS
        for _ in range(self.count):
            known = world.jobs.new(data, self.attempts)
            world.call(f"enqueue({known.id})", self._add(world, known), within)
        await asyncio.sleep(0)

    async def _add(self, world: World, known: Known) -> None:
        await world.client.enqueue(
            self.kind,
            known.data,
            job_id=known.id,
            queue=world.queues[self.queue % len(world.queues)].name,
            attempts=self.attempts,
            backoff=self.backoff or None,
            delay=self.delay or None,
            priority=self.priority or None,
        )
        world.sure(known)


@dataclass(frozen=True, repr=False)
class Open(Step):
    """The handlers that wait at the gate go on."""

    async def take(self, world: World) -> None:
        """Open the gate, and close it."""
        world.jobs.open()


@dataclass(frozen=True, repr=False)
class Cancel(Step):
    """A client cancels a job, so that it fails or (without ``fails``) goes back to its queue."""

    which: int = 0
    fails: bool = True

    async def take(self, world: World) -> None:
        """Begin to ask for it."""
        if not world.jobs.known:
            return
        known = [*world.jobs.known.values()][self.which % len(world.jobs.known)]
        known.is_disturbed = True
        known.may_end_anyhow |= self.fails
        asked = world.client.cancel(
            known.id, reason="by the plan" if self.fails else None, timeout=1.0
        )
        within = CONNECT_SECONDS + 1.0 + LATE_SECONDS
        world.call(f"cancel({known.id})", asked, within)


@dataclass(frozen=True, repr=False)
class Result(Step):
    """A client waits for a job's result."""

    which: int = 0
    timeout: float = 0.5

    async def take(self, world: World) -> None:
        """Begin to wait."""
        if world.jobs.known:
            job_id = [*world.jobs.known][self.which % len(world.jobs.known)]
            asked = self._result(world, job_id)
            world.call(f"result({job_id})", asked, self.timeout + LATE_SECONDS)

    async def _result(self, world: World, job_id: str) -> None:
        try:
            await world.client.result(job_id, timeout=self.timeout)
        except TimeoutError:
            runs = world.jobs.of(job_id)
            ended = runs[-1].ended if runs and runs[-1].how == "returned" else None
            waited = 0.0 if ended is None else time.monotonic() - ended
            if waited > LATE_SECONDS / 2 + world.max_lag and world.plan.is_gentle:
                world.wrong("result-late", f"result({job_id}) waited {waited:.2f} s in vain")


@dataclass(frozen=True, repr=False)
class CloseClient(Step):
    """The client is closed, whatever it does at the moment, and another one made."""

    async def take(self, world: World) -> None:
        """Begin to close it."""
        world.close_client()
        world.make_client()


# the worker


@dataclass(frozen=True, repr=False)
class Wake(Step):
    """The worker is waked."""

    async def take(self, world: World) -> None:
        """Wake it."""
        if world.life is not None:
            world.life.worker.wake()


@dataclass(frozen=True, repr=False)
class Hold(Step):
    """Requests are held: ``calls`` of them, each so many turns of the loop after the one before."""

    budget: float = 0.6
    calls: int = 1
    turns: int = 1

    async def take(self, world: World) -> None:
        """Begin to hold them."""
        for number in range(self.calls):
            if number:
                for _ in range(self.turns):
                    await asyncio.sleep(0)
            within = self.budget + LATE_SECONDS
            world.call(f"hold({self.budget})", _hold(world, self.budget), within)


@dataclass(frozen=True, repr=False)
class HoldNext(Step):
    """A request comes in the very turn of the loop in which nobody is held any more."""

    budget: float = 0.6

    async def take(self, world: World) -> None:
        """Begin to watch for that turn."""
        within = 2 * (self.budget + LATE_SECONDS)
        world.call(f"hold({self.budget})", self._hold(world), within)

    async def _hold(self, world: World) -> None:
        ends_at = time.monotonic() + self.budget + LATE_SECONDS
        while time.monotonic() < ends_at and _held(world):
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
class HangUp(Step):
    """Whoever holds for longest (or all of them) is cancelled."""

    all: bool = False

    async def take(self, world: World) -> None:
        """Cancel them."""
        held = [call for call in world.calls if call.name.startswith("hold")]
        for call in held if self.all else held[:1]:
            call.task.cancel()
        await asyncio.sleep(0)


@dataclass(frozen=True, repr=False)
class Stop(Step):
    """The worker is stopped; whoever ``waits`` goes on when it has ended."""

    grace: float = 0.0
    waits: bool = True

    async def take(self, world: World) -> None:
        """Ask for it."""
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
    """``run`` is cancelled, ``times`` often, as anyio's task groups do."""

    times: int = 1
    apart: float = 0.0

    @property
    def is_rough(self) -> bool:
        """Whoever is in such a hurry may not return what it has."""
        return self.times > 1

    async def take(self, world: World) -> None:
        """Cancel it, and wait for its end."""
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
    """Another worker is started, unless one runs."""

    async def take(self, world: World) -> None:
        """Wait for the end of one that is stopping, and start the next."""
        await world.fresh_life()


@dataclass(frozen=True, repr=False)
class Drain(Step):
    """A worker of another process, as it were, drains the queues."""

    budget: float = 0.5

    async def take(self, world: World) -> None:
        """Begin to drain."""
        world.drains += 1
        settings = world.settings.replace(wake_mode="background", sleep_after=None)
        worker = Worker(world.jobs.handlers(-world.drains), settings)
        within = self.budget + LATE_SECONDS
        world.call(f"drain({self.budget})", worker.drain(self.budget), within)
