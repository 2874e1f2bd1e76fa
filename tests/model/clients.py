"""Steps of clients: they add jobs, wait for them, cancel them, and hang up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bullmq import Queue

from tests.model.jobs import Kind
from tests.model.plan import Step
from tests.model.world import CONNECT_SECONDS, LATE_SECONDS

if TYPE_CHECKING:
    from tests.model.jobs import Known
    from tests.model.world import World


@dataclass(frozen=True, repr=False)
class Add(Step):
    """A client adds ``count`` jobs; ``together`` with one call of ``enqueue_many``.

    Each run of a handler takes ``takes`` seconds; None: until a step opens the gate. The first
    ``later`` runs raise RetryLater, and the first ``failures`` attempts fail.
    """

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
    together: bool = False

    async def take(self, world: World) -> None:
        known = [world.jobs.new(self.data, self.attempts) for _ in range(self.count)]
        within = CONNECT_SECONDS + world.settings.command_timeout + LATE_SECONDS
        for some in [known] if self.together else [[each] for each in known]:
            world.call(f"enqueue({some[0].id})", self._add(world, some), within)
        await asyncio.sleep(0)

    @property
    def data(self) -> dict[str, Any]:
        """What tells the handler what to do."""
        names = ("kind", "takes", "failures", "later", "reports", "stubborn", "children")
        data = {name: getattr(self, name) for name in names}
        return data | {"child_fails": self.child_fails and self.children > 0}

    async def _add(self, world: World, known: list[Known]) -> None:
        options: dict[str, Any] = {
            "queue": world.queues[self.queue % len(world.queues)].name,
            "attempts": self.attempts,
            "backoff": self.backoff or None,
            "delay": self.delay or None,
            "priority": self.priority or None,
        }
        if self.together:
            jobs = [{"name": self.kind, "data": k.data, "job_id": k.id, **options} for k in known]
            await world.client.enqueue_many(jobs)
        else:
            await world.client.enqueue(self.kind, known[0].data, job_id=known[0].id, **options)
        for each in known:
            world.sure(each)


@dataclass(frozen=True, repr=False)
class Open(Step):
    """The handlers that wait at the gate go on; later ones wait again."""

    async def take(self, world: World) -> None:
        world.jobs.open()


@dataclass(frozen=True, repr=False)
class Cancel(Step):
    """A client cancels a job, which fails or, without ``fails``, returns to its queue.

    One that has not started is removed.
    """

    which: int = 0
    fails: bool = True

    async def take(self, world: World) -> None:
        if not world.jobs.known:
            return
        known = [*world.jobs.known.values()][self.which % len(world.jobs.known)]
        known.is_disturbed = True
        known.may_end_anyhow |= self.fails
        known.may_vanish |= self.fails
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
            if waited > LATE_SECONDS / 2 + world.slack and world.plan.is_gentle:
                world.wrong("result-late", f"result({job_id}) waited {waited:.2f} s in vain")


@dataclass(frozen=True, repr=False)
class CloseClient(Step):
    """The client is closed, even in the middle of calls, and replaced by another one."""

    async def take(self, world: World) -> None:
        world.close_client()
        world.make_client()


@dataclass(frozen=True, repr=False)
class Look(Step):
    """A client asks for counts and a job's status."""

    async def take(self, world: World) -> None:
        within = CONNECT_SECONDS + world.settings.command_timeout + LATE_SECONDS
        world.call("counts()", world.client.counts(), within)
        for job_id in [*world.jobs.known][-1:]:
            world.call(f"status({job_id})", world.client.status(job_id), within)
        await asyncio.sleep(0)


@dataclass(frozen=True, repr=False)
class Schedule(Step):
    """A job scheduler is added, as Node's BullMQ does it; it repeats a job a few times."""

    every: float = 0.2
    limit: int = 2
    takes: float | None = 0.0

    async def take(self, world: World) -> None:
        queue = Queue(world.queue.name, {"connection": world.bench.url})
        data = Add(takes=self.takes).data
        repeat = {"every": round(self.every * 1000), "limit": self.limit}
        try:
            await queue.upsertJobScheduler("again", repeat, "wide", data)
        finally:
            await queue.close()


@dataclass(frozen=True, repr=False)
class HangUp(Step):
    """The oldest call of a kind (or all of them) is cancelled."""

    whom: Literal["hold", "result", "cancel", "enqueue", "drain", "stop"] = "hold"
    all: bool = False

    async def take(self, world: World) -> None:
        waiting = [call for call in world.calls if call.name.startswith(self.whom)]
        for call in waiting if self.all else waiting[:1]:
            call.task.cancel()
            call.ends_by = min(call.ends_by, time.monotonic() + LATE_SECONDS)
        await asyncio.sleep(0)
