"""A worker on a server of its own, moments of its life, ways to cancel it, and what it leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from convolab_worker import HandlerRegistry, Job, Worker
from tests.faults.harness import Bench, lasting
from tests.support.proxy import TcpProxy
from tests.support.waiting import wait_until

ENDED_WITHIN = 5.0
# What was closed or told to end may take a moment to be gone: at the server, or in a thread.
GONE_WITHIN = 1.0
# A grace that no test waits for: whatever lasts so long was not ended.
LONG = 60.0


class Census:
    """The tasks, threads and connections that came after it was taken."""

    def __init__(self, bench: Bench) -> None:
        self._redis = bench.redis
        self._tasks = asyncio.all_tasks()
        self._threads = {*threading.enumerate()}
        self._clients = {each["id"] for each in self._redis.client_list()}

    def left(self) -> list[str]:
        """What is still there, by name."""
        here = asyncio.current_task()
        tasks = [t.get_name() for t in asyncio.all_tasks() - self._tasks if t is not here]
        threads = [t.name for t in threading.enumerate() if t not in self._threads]
        clients = [f"connection {each['id']}: {each['cmd']}" for each in self._clients_left()]
        # The pool that asyncio resolves host names in belongs to the loop.
        return sorted([*tasks, *(n for n in threads if not n.startswith("asyncio_")), *clients])

    def _clients_left(self) -> list[dict[str, Any]]:
        return [each for each in self._redis.client_list() if each["id"] not in self._clients]

    async def is_empty(self) -> bool:
        """Whether nothing is left, within a moment."""
        try:
            await wait_until(lambda: not self.left(), timeout=GONE_WITHIN)
        except AssertionError:
            return False
        return True


@dataclass
class Stage:
    """A worker's handlers, what they saw, and the network between the worker and its server."""

    bench: Bench
    proxy: TcpProxy
    handlers: HandlerRegistry = field(default_factory=HandlerRegistry)
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    caller: asyncio.Task[Any] | None = None

    def __post_init__(self) -> None:
        @self.handlers.audio("wait")
        async def wait(job: Job[Any]) -> None:
            self.started.append(job.id)
            try:
                await asyncio.Event().wait()
            finally:
                await lasting(0.05)  # its own clean-up
                self.ended.append(job.id)

        @self.handlers.audio("thread")
        def in_thread(job: Job[Any]) -> None:
            self.started.append(job.id)
            while not job.cancelled.is_set():
                time.sleep(0.01)
            self.ended.append(job.id)

        @self.handlers.audio("stall")
        async def stall(job: Job[Any]) -> None:
            self.started.append(job.id)
            self.proxy.hold()
            self.ended.append(job.id)

        @self.handlers.audio("quick")
        async def quick(job: Job[Any]) -> None:
            self.started.append(job.id)
            self.ended.append(job.id)

    async def add(self, *names: str) -> None:
        """Add one job for each of the handlers."""
        for name in names:
            await self.bench.add({}, name=name)

    def worker(self, **overrides: Any) -> Worker:
        """A worker whose jobs may take as long as they like when it is stopped."""
        names = [self.bench.queue, *(f"{self.bench.queue}-{number}" for number in (2, 3))]
        settings = {"queues": names, "shutdown_grace": LONG, **overrides}
        settings["redis_url"] = self.proxy.url
        return Worker(self.handlers, self.bench.settings(**settings))


# moments

Moment = Callable[[Stage, Worker], Awaitable[object]]


async def connecting(stage: Stage, _: Worker) -> None:
    """The server does not answer the first connection."""
    await wait_until(lambda: stage.proxy.links, what="a connection")


async def waiting_for_work(stage: Stage, _: Worker) -> None:
    """Nothing is there to do."""
    await wait_until(stage.bench.blocked, what="the wait for work")


async def reconnecting(stage: Stage, worker: Worker) -> None:
    """The server is away."""
    await waiting_for_work(stage, worker)
    stage.proxy.cut(refuse=True)
    await wait_until(lambda: not worker.stats()["connected"], what="the loss of the connection")


async def running_jobs(stage: Stage, _: Worker) -> None:
    """One job runs in the loop, and one in a thread."""
    await wait_until(lambda: len(stage.started) == 2, what="the start of two jobs")


async def finishing_a_job(stage: Stage, _: Worker) -> None:
    """The server does not answer that the job is completed."""
    await wait_until(lambda: stage.ended, what="the end of a job")


async def stopping(stage: Stage, worker: Worker) -> None:
    """It was told to stop, and gives its jobs their grace."""
    await running_jobs(stage, worker)
    stage.caller = asyncio.create_task(worker.stop(), name="a caller of stop()")
    await wait_until(lambda: worker.stats()["state"] == "stopping", what="the stop")


async def held(stage: Stage, worker: Worker) -> None:
    """It works while a request is held."""
    stage.caller = asyncio.create_task(worker.hold(LONG), name="a caller of hold()")
    await running_jobs(stage, worker)


async def sleeping(stage: Stage, worker: Worker) -> None:
    """After a job it had nothing to do for long, and has closed its connections."""
    await wait_until(lambda: stage.ended, what="the end of a job")
    await wait_until(lambda: not worker.stats()["connected"], what="sleep")


# manners of cancelling

Manner = Callable[[asyncio.Task[Any]], Awaitable[object]]


async def once(task: asyncio.Task[Any]) -> None:
    """As a time-out does."""
    task.cancel()


async def twice(task: asyncio.Task[Any]) -> None:
    """As a caller does whose own time-out ends while it is cancelled."""
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()


async def thrice(task: asyncio.Task[Any]) -> None:
    """As somebody does who loses patience."""
    await twice(task)
    await lasting(0.02)
    task.cancel()


async def every_turn(task: asyncio.Task[Any]) -> None:
    """As anyio's cancel scopes do: in each turn of the loop, until the task is over."""
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[Any], manner: Manner) -> None:
    """Cancel the task in that manner, and wait for its end."""
    cancelling = asyncio.ensure_future(manner(task))
    await asyncio.wait({task}, timeout=ENDED_WITHIN)
    cancelling.cancel()
    assert task.cancelled(), f"{task.get_name()} did not end within {ENDED_WITHIN:g} s"
