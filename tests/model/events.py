"""What happens around a worker: to its queue by other hands, to the network, and in time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tests.model.bench import STRAY_ID
from tests.model.plan import ROUND_TRIPS, Step
from tests.model.world import CONNECT_SECONDS
from tests.support.scripted import Trouble, What

if TYPE_CHECKING:
    from tests.model.world import World

# A step that waits for something goes on without it after this.
_PATIENCE_SECONDS = 0.4


# other hands


@dataclass(frozen=True, repr=False)
class Pause(Step):
    """The queue is paused, or resumed."""

    on: bool = True

    async def take(self, world: World) -> None:
        """Do as Node's pause and resume do."""
        world.was_stopped = True
        world.queue.pause(on=self.on)


@dataclass(frozen=True, repr=False)
class Limit(Step):
    """The queue gets a concurrency of its own, or none; it has it to the end."""

    value: str | None = "1"

    @property
    def hides_jobs(self) -> bool:
        """Nothing announces that a limit was lifted."""
        return self.value is None

    async def take(self, world: World) -> None:
        """Write what Node's setGlobalConcurrency would, whatever it is given."""
        world.was_stopped = True
        world.queue.limit(self.value)


@dataclass(frozen=True, repr=False)
class RateLimit(Step):
    """No job starts for a while."""

    seconds: float = 0.2

    async def take(self, world: World) -> None:
        """Do as BullMQ's rateLimit does."""
        world.was_stopped = True
        world.queue.rate_limit(self.seconds)


@dataclass(frozen=True, repr=False)
class LoseMarker(Step):
    """A marker was popped by a process that died."""

    @property
    def hides_jobs(self) -> bool:
        """Nobody else will say that there is a job."""
        return True

    async def take(self, world: World) -> None:
        """Delete it."""
        for queue in world.queues:
            queue.redis.delete(queue.key("marker"))


@dataclass(frozen=True, repr=False)
class ForgetScripts(Step):
    """The server forgets its scripts."""

    async def take(self, world: World) -> None:
        """Flush its cache."""
        world.bench.redis.script_flush()


@dataclass(frozen=True, repr=False)
class Flush(Step):
    """All keys of the queues are deleted."""

    @property
    def is_rough(self) -> bool:
        """Its jobs vanish."""
        return True

    @property
    def hides_jobs(self) -> bool:
        """The markers too."""
        return True

    async def take(self, world: World) -> None:
        """Delete them."""
        world.was_stopped = True
        for known in world.jobs.known.values():
            known.may_vanish = True
        for queue in world.queues:
            queue.flush()


@dataclass(frozen=True, repr=False)
class Spoil(Step):
    """Another program writes what BullMQ never would."""

    what: Literal["event", "stray id", "marker"] = "event"

    @property
    def is_rough(self) -> bool:
        """A stray id is a job that can't be run, and is lost."""
        return self.what == "stray id"

    @property
    def hides_jobs(self) -> bool:
        """The marker may be gone."""
        return True

    async def take(self, world: World) -> None:
        """Write it."""
        queue = world.queue
        if self.what == "event":
            queue.redis.xadd(queue.key("events"), {"event": b"\xff\xfe", "jobId": b"j1"})
        elif self.what == "stray id":
            queue.redis.rpush(queue.key("wait"), STRAY_ID)
            queue.redis.zadd(queue.key("marker"), {"0": 0})
        else:
            queue.redis.zadd(queue.key("marker"), {"what is this": 12})


# the network


@dataclass(frozen=True, repr=False)
class Arm(Step):
    """Trouble waits for the n-th command of a name."""

    what: What = "cut"
    command: str = ""
    after: bool = False
    nth: int = 1
    seconds: float = 0.0

    @property
    def harm(self) -> float:
        """What falls silent is given up when a command's time is over, or a handshake's."""
        return CONNECT_SECONDS if self.what == "silence" else self.seconds

    async def take(self, world: World) -> None:
        """Arm it."""
        after = self.after and self.what != "error"
        world.proxy.arm(Trouble(self.what, self.command, after, self.nth, self.seconds))


@dataclass(frozen=True, repr=False)
class Cut(Step):
    """Every connection is reset."""

    async def take(self, world: World) -> None:
        """Reset them."""
        world.proxy.cut()


@dataclass(frozen=True, repr=False)
class Stall(Step):
    """Nothing passes for a while, and then all of it."""

    seconds: float = 0.3

    @property
    def harm(self) -> float:
        """As long as it lasts."""
        return self.seconds

    async def take(self, world: World) -> None:
        """Begin it."""
        world.proxy.stall(self.seconds)


@dataclass(frozen=True, repr=False)
class Refuse(Step):
    """Every connection is reset, and for a while every new one."""

    seconds: float = 0.3

    @property
    def harm(self) -> float:
        """As long as it lasts."""
        return self.seconds

    async def take(self, world: World) -> None:
        """Begin it."""
        world.proxy.refuse(self.seconds)


@dataclass(frozen=True, repr=False)
class Lag(Step):
    """Every chunk takes longer from now on."""

    seconds: float = 0.02

    @property
    def harm(self) -> float:
        """Some round trips."""
        return ROUND_TRIPS * self.seconds

    async def take(self, world: World) -> None:
        """Begin it."""
        world.proxy.delay(self.seconds)


# time


@dataclass(frozen=True, repr=False)
class Freeze(Step):
    """The event loop stands still."""

    seconds: float = 0.3

    @property
    def harm(self) -> float:
        """A loop that stands still does not say what it has."""
        return self.seconds

    async def take(self, world: World) -> None:
        """Block it."""
        time.sleep(self.seconds)  # noqa: ASYNC251 - that is what it is for
        world.froze(self.seconds)


@dataclass(frozen=True, repr=False)
class Let(Step):
    """Time passes."""

    seconds: float = 0.05

    async def take(self, world: World) -> None:
        """Wait."""
        del world
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, repr=False)
class Until(Step):
    """Time passes until something is so, or for a while."""

    what: Literal["running", "quiet", "trouble", "answered", "asleep"] = "running"

    async def take(self, world: World) -> None:
        """Wait."""
        begun = len(world.proxy.done)
        ends_at = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < ends_at and not self._is_so(world, begun):  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    def _is_so(self, world: World, troubles: int) -> bool:
        if self.what == "running":
            return bool(world.jobs.running())
        if self.what == "trouble":
            return len(world.proxy.done) > troubles
        if self.what == "answered":
            return all(call.task.done() for call in world.calls)
        if world.life is None:
            return True
        told = world.life.worker.stats()
        return told.get("phase") == "asleep" if self.what == "asleep" else not told.get("running")
