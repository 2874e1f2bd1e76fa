"""The connection is lost at every command of a job's life: once, thrice and always.

Which commands there are is not listed here: a life without harm tells. So a command that is added
is tested, too.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
import structlog
from structlog.contextvars import bound_contextvars, get_contextvars

from convolab_worker import Child, Fixed, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import JobFailed
from tests.support.scripted import ScriptedProxy, Trouble
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

# What belongs to a job's life at least; more may come, and is tested without being named.
KNOWN = {
    "moveToActive", "moveToFinished", "finishWithSteps", "moveToDelayed", "retryJob",
    "moveToWaitingChildren", "addStandardJob", "updateProgress", "addLogs", "recordStep",
    "updateData", "extendLocks", "updateJobScheduler", "addToStallCount", "BZPOPMIN", "EXISTS",
    "CLIENT",
}  # fmt: skip
# What asks, after a loss, what became of a fetch or of an outcome; and the losses that it follows.
QUESTIONS = {"LRANGE", "MGET", "HGETALL", "HMGET", "GET", "getStateV2"}
LOSSES = ("moveToActive", "moveToFinished")
# So often, at most, a connection is lost at a command in the first four seconds: six times for each
# job; and so often in the last five of twenty.
MOST_EARLY, MOST_LATE = 60, 15
LONG_ONCE = pytest.param(1, False, marks=pytest.mark.long)
LONG_THRICE = [pytest.param(3, after, marks=pytest.mark.long) for after in (False, True)]
_names = itertools.count(1)


def _handlers() -> HandlerRegistry:
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> Any:
        await job.progress(50)
        job.log.info("half of it is done")
        await asyncio.sleep(0.05)
        return job.data

    @handlers.audio("progress")
    async def progress(job: Job[Any]) -> Any:
        await job.progress(50)
        await asyncio.sleep(0.05)
        return job.data

    @handlers.audio("steps")
    async def steps(job: Job[Any]) -> Any:
        paid = await job.step("pay", lambda: "paid")
        await job.update_data([paid])
        return await job.step("send", lambda: "sent")

    @handlers.audio("retried", attempts=2, backoff=Fixed(0))
    async def retried(job: Job[Any]) -> Any:
        return _second(job)

    @handlers.audio("later", attempts=2, backoff=Fixed(0.05))
    async def later(job: Job[Any]) -> Any:
        return _second(job)

    @handlers.audio("course")
    async def course(job: Job[Any]) -> Any:
        done = await job.children_results()
        if "part" not in done:
            await job.enqueue_children([Child("work", "part", key="part")])
        await job.children_failures()
        return done["part"]

    @handlers.audio("long", concurrency=1)  # the second one is parked
    async def long(job: Job[Any]) -> Any:
        await asyncio.sleep(0.9)
        return job.data

    return handlers


def _second(job: Job[Any]) -> Any:
    if job.attempt == 1:
        msg = "the first attempt fails"
        raise ValueError(msg)
    return job.data


WANTED = {
    "work": "work", "steps": "sent", "retried": "retried", "later": "later", "course": "part",
    "progress": "progress", "long": "long", "long again": "long again",
}  # fmt: skip


@dataclass(slots=True)
class Told:
    """The log lines of several lives at once; None for a thread, which belongs to no life."""

    lines: list[tuple[str | None, str, str]] = field(default_factory=list)

    def __call__(self, _: Any, level: str, line: Any) -> Any:
        """Note a line, and drop it."""
        self.lines.append((get_contextvars().get("life"), level, line["event"]))
        raise structlog.DropEvent

    def warnings(self, life: str) -> set[str]:
        """What was said of that life, or by a thread, above information."""
        return {
            event
            for whose, level, event in self.lines
            if whose in {life, None} and level in {"warning", "error"}
        }


@contextmanager
def _telling() -> Iterator[Told]:
    told, processors = Told(), structlog.get_config()["processors"]
    before = [*processors]
    processors[:] = [told]
    try:
        yield told
    finally:
        processors[:] = before


class Life:
    """A worker behind a proxy of its own, and one job of each kind, added on another way."""

    def __init__(self, server: EmbeddedServer, proxy: ScriptedProxy) -> None:
        self._proxy = proxy
        settings: dict[str, Any] = {
            "queues": (f"life-{next(_names)}-{time.time_ns()}",),
            "idle_min": 0.3,
            "idle_max": 0.6,
            "lock_duration": 2.0,
            "progress_interval": 0.02,
        }
        self.worker = Worker(_handlers(), Settings(redis_url=proxy.url, **settings))
        self.client = JobClient(Settings(redis_url=server.url, **settings))
        self.ids: dict[str, str] = {}

    async def begin(self) -> None:
        """Add the jobs, and a schedule that is due twice."""
        for name in WANTED:
            kind = name.partition(" ")[0]
            attempts = 2 if kind in {"retried", "later"} else 1
            self.ids[name] = await self.client.enqueue(kind, name, attempts=attempts)
        await self.client.schedule("tick", "work", "tick", every=0.3, limit=2)

    async def end(self, *, within: float) -> dict[str, Any]:
        """Wait for the end of all; gives results, and JobFailed for what has failed."""
        ends = await asyncio.gather(
            *[self.client.result(job_id, timeout=within) for job_id in self.ids.values()],
            return_exceptions=True,
        )
        await wait_until(self._is_over, timeout=within, what="the last job")
        return dict(zip(self.ids, ends, strict=True))

    async def _is_over(self) -> bool:
        counts = (await self.client.counts())[self.worker.settings.queues[0]]
        left = [counts[state] for state in ("waiting", "active", "waiting-children")]
        return not any(left) and self.worker.stats()["free"] == 8


@dataclass(frozen=True, slots=True)
class Command:
    """A command by its name, and the losses without which it is not sent."""

    name: str
    losses: tuple[str, ...] = ()


def _arm_losses(proxy: ScriptedProxy, losses: tuple[str, ...]) -> None:
    for name in losses:
        proxy.arm(Trouble("cut", name, nth=2, after=True))


async def _live(
    server: EmbeddedServer, command: Command, times: int, *, after: bool
) -> dict[str, Any]:
    """Live with the connection lost at the first commands of that name; gives the results."""
    with bound_contextvars(life=command.name), ScriptedProxy(server.port) as proxy:
        life = Life(server, proxy)
        async with life.client:
            _arm_losses(proxy, command.losses)
            for nth in range(1, times + 1):
                proxy.arm(Trouble("cut", command.name, nth=nth, after=after))
            async with life.worker:
                await life.begin()
                return await life.end(within=60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def commands(server: EmbeddedServer) -> list[Command]:
    """Every command that a worker sends in such a life, and what it asks after losses."""
    found: list[Command] = []
    for losses in ((), LOSSES):
        with ScriptedProxy(server.port) as proxy:
            _arm_losses(proxy, losses)
            life = Life(server, proxy)
            async with life.client, life.worker:
                await life.begin()
                assert await life.end(within=60) == WANTED
            new = set(proxy.seen) - {each.name for each in found}
            found += [Command(name, losses) for name in sorted(new)]
    assert {each.name for each in found if not each.losses} >= KNOWN
    assert {each.name for each in found} >= QUESTIONS
    return found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("times", "after"), [(1, True), LONG_ONCE, *LONG_THRICE])
async def test_a_connection_lost_at_any_command_costs_no_job_and_no_attempt(
    server: EmbeddedServer, commands: list[Command], times: int, *, after: bool
) -> None:
    """Before the server has the command, or in the place of its answer."""
    with _telling():
        ends = await asyncio.gather(*[_live(server, each, times, after=after) for each in commands])

    wrong = {each.name: end for each, end in zip(commands, ends, strict=True) if end != WANTED}
    assert not wrong


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("seconds", [4.0, pytest.param(20.0, marks=pytest.mark.long)])
async def test_a_connection_that_is_always_lost_at_a_command_is_met_with_calm(
    server: EmbeddedServer, commands: list[Command], seconds: float
) -> None:
    """Bounds, growing pauses and a word in the log; when it is over, every job ends.

    A job may have failed by then, for what could not be written, or not be read by its handler.
    """
    with _telling() as told:
        harms = await asyncio.gather(*[_endure(server, each, seconds) for each in commands])

    restless = [(harm.command, harm.early, harm.late) for harm in harms if not harm.is_calm]
    assert not restless
    silent = [harm.command for harm in harms if harm.early and not told.warnings(harm.command)]
    assert not silent
    blamed = [
        (harm.command, name, end)
        for harm in harms
        for name, end in harm.ends.items()
        if end != WANTED[name] and not _is_blamed(end)
    ]
    assert not blamed


def _is_blamed(end: Any) -> bool:
    return isinstance(end, JobFailed) and "connection" in end.reason


@dataclass(slots=True)
class Harm:
    """How often a connection was lost at a command, early and late, and the jobs' ends."""

    command: str
    early: int
    late: int
    ends: dict[str, Any]

    @property
    def is_calm(self) -> bool:
        """Whether it was tried seldom, and ever more seldom."""
        return self.early <= MOST_EARLY and self.late <= MOST_LATE


async def _endure(server: EmbeddedServer, command: Command, seconds: float) -> Harm:
    """Live with the connection lost each time for so long, and then without harm."""
    with bound_contextvars(life=command.name), ScriptedProxy(server.port) as proxy:
        life = Life(server, proxy)
        async with life.client:
            _arm_losses(proxy, command.losses)
            for nth in range(1, 1000):
                proxy.arm(Trouble("cut", command.name, nth=nth))
            async with life.worker:
                await life.begin()
                await asyncio.sleep(seconds)
                ended = time.monotonic()
                ages = [ended - at for at in proxy.done_at]
                proxy.heal()
                early = sum(age > seconds - 4 for age in ages)
                late = sum(age < 5 for age in ages) if seconds > 4 else 0
                return Harm(command.name, early, late, await life.end(within=60))
