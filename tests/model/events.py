"""Steps around a worker: other programs change its queue, the network fails, time passes."""

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

# A step that waits for something gives up after this.
_PATIENCE_SECONDS = 0.4


# other programs


@dataclass(frozen=True, repr=False)
class Pause(Step):
    """The queue is paused, or resumed."""

    on: bool = True

    async def take(self, world: World) -> None:
        world.was_stopped = True
        world.queue.pause(on=self.on)


@dataclass(frozen=True, repr=False)
class Limit(Step):
    """The queue gets a global concurrency, or loses it (None)."""

    value: str | None = "1"

    @property
    def hides_jobs(self) -> bool:
        """No marker announces that a limit was removed."""
        return self.value is None

    async def take(self, world: World) -> None:
        world.was_stopped = True
        world.queue.limit(self.value)


@dataclass(frozen=True, repr=False)
class RateLimit(Step):
    """BullMQ's rate limit is set: no job starts for a while."""

    seconds: float = 0.2

    async def take(self, world: World) -> None:
        world.was_stopped = True
        world.queue.rate_limit(self.seconds)


@dataclass(frozen=True, repr=False)
class LoseMarker(Step):
    """The markers are gone, as if a process had popped them and died."""

    @property
    def hides_jobs(self) -> bool:
        """No marker announces the jobs that are there."""
        return True

    async def take(self, world: World) -> None:
        for queue in world.queues:
            queue.redis.delete(queue.key("marker"))


@dataclass(frozen=True, repr=False)
class ForgetScripts(Step):
    """The server forgets its scripts."""

    async def take(self, world: World) -> None:
        world.bench.redis.script_flush()


@dataclass(frozen=True, repr=False)
class Flush(Step):
    """All keys of the queues are deleted, as by FLUSHALL or obliterate."""

    @property
    def is_rough(self) -> bool:
        """The jobs are gone."""
        return True

    @property
    def hides_jobs(self) -> bool:
        """The markers are gone, too."""
        return True

    async def take(self, world: World) -> None:
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
        """A stray id is taken as a job, and can't be run."""
        return self.what == "stray id"

    @property
    def hides_jobs(self) -> bool:
        """The marker may have been replaced."""
        return True

    async def take(self, world: World) -> None:
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
    """The network will fail at the ``nth`` command of a name; see tests/support/scripted.py."""

    what: What = "cut"
    command: str = ""
    after: bool = False
    nth: int = 1
    seconds: float = 0.0

    @property
    def harm(self) -> float:
        """A silent connection is given up after a command's time-out, or a handshake's."""
        return CONNECT_SECONDS if self.what == "silence" else self.seconds

    async def take(self, world: World) -> None:
        after = self.after and self.what != "error"
        world.proxy.arm(Trouble(self.what, self.command, after, self.nth, self.seconds))


@dataclass(frozen=True, repr=False)
class Cut(Step):
    """Every connection is reset."""

    async def take(self, world: World) -> None:
        world.proxy.cut()


@dataclass(frozen=True, repr=False)
class Stall(Step):
    """No byte passes for a while; then all of them do."""

    seconds: float = 0.3

    @property
    def harm(self) -> float:
        """It lasts as long."""
        return self.seconds

    async def take(self, world: World) -> None:
        world.proxy.stall(self.seconds)


@dataclass(frozen=True, repr=False)
class Refuse(Step):
    """Every connection is reset, and for a while every new one, too."""

    seconds: float = 0.3

    @property
    def harm(self) -> float:
        """It lasts as long."""
        return self.seconds

    async def take(self, world: World) -> None:
        world.proxy.refuse(self.seconds)


@dataclass(frozen=True, repr=False)
class Lag(Step):
    """Every chunk takes so much longer, each way, from now on."""

    seconds: float = 0.02

    @property
    def harm(self) -> float:
        """A worker needs several round trips to recover from anything."""
        return ROUND_TRIPS * self.seconds

    async def take(self, world: World) -> None:
        world.proxy.delay(self.seconds)


# time


@dataclass(frozen=True, repr=False)
class Freeze(Step):
    """The event loop stands still."""

    seconds: float = 0.3

    @property
    def harm(self) -> float:
        """The event loop does nothing for so long."""
        return self.seconds

    async def take(self, world: World) -> None:
        time.sleep(self.seconds)  # noqa: ASYNC251 - it has to block
        world.froze(self.seconds)


@dataclass(frozen=True, repr=False)
class Let(Step):
    """Time passes."""

    seconds: float = 0.05

    async def take(self, world: World) -> None:
        del world
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, repr=False)
class Until(Step):
    """Time passes until something has happened, but not for long."""

    what: Literal["running", "quiet", "trouble", "answered", "asleep"] = "running"

    async def take(self, world: World) -> None:
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
