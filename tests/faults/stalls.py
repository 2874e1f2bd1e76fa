"""A worker behind a proxy that stalls at a chosen request, and a handler that waits to be told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from bullmq import Queue

from convolab_worker import HandlerRegistry, Job, Worker
from tests.faults.harness import lasting
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.faults.harness import Bench
    from tests.support.proxy import Link, TcpProxy

# Longer than the end of a hold waits: for Redis, for handlers, and for outcomes to be written.
STALL_SECONDS = 2.5
# How long the network takes each way while a test looks for the moment to stall it.
_DELAY_SECONDS = 0.25
# A lock that runs out soon after the stall unless it is renewed, and one that outlasts the test.
SHORT_LOCK, LONG_LOCK = 4.0, 60.0


class Work:
    """A handler that waits at the gate in the first call for a job whose data says ``waits``.

    With ``reports`` the job then reports progress, and goes on until it is cancelled.
    """

    def __init__(self) -> None:
        self.handlers = HandlerRegistry()
        self.handlers.audio("work")(self.work)
        self.handlers.image("one-at-a-time", concurrency=1)(self.work)
        self.calls: list[str] = []
        self.running = 0
        self.gate = asyncio.Event()

    async def work(self, job: Job[Any]) -> str:
        """Note the call, and do what the data says."""
        is_first = job.id not in self.calls
        self.calls.append(job.id)
        self.running += 1
        try:
            if is_first and "waits" in job.data:
                await self.gate.wait()
            if is_first and "reports" in job.data:
                job.progress("half-way")
                await asyncio.Event().wait()
        finally:
            self.running -= 1
        return f"result of {job.id}"


class Stage:
    """A queue, a proxy before its server, and a worker behind the proxy with one slot."""

    def __init__(self, bench: Bench, proxy: TcpProxy) -> None:
        self.bench = bench
        self.proxy = proxy
        self.work = Work()

    def settings(self, **overrides: Any) -> dict[str, Any]:
        """Settings under which no command times out in a stall, and no job has any grace."""
        return {
            "redis_url": self.proxy.url,
            "concurrency": 1,
            "shutdown_grace": 0.0,
            "command_timeout": 10.0,
            "lock_duration": LONG_LOCK,
            "wake_linger": 0.0,
            **overrides,
        }

    @asynccontextmanager
    async def worker(self, wake_mode: str = "held", **overrides: Any) -> AsyncIterator[Worker]:
        """A worker that works only when held, unless told otherwise."""
        await self.load_scripts()
        settings = self.settings(wake_mode=wake_mode, **overrides)
        async with self.bench.worker(self.work.handlers, **settings) as worker:
            yield worker

    async def load_scripts(self) -> None:
        """Run a job, so that the server executes each script at its first call from here on."""
        await self.bench.add({})
        worker = Worker(self.work.handlers, self.bench.settings())
        assert (await worker.drain()).processed == 1
        self.work.calls.clear()

    async def called(self, *ids: str) -> None:
        """Wait until the handler was called for those jobs."""
        await wait_until(lambda: set(ids) <= set(self.work.calls), what=f"the start of {ids}")

    async def schedule(self) -> None:
        """Add a job that is repeated every hour and waits at the gate; its first run is due now."""
        queue = Queue(self.bench.queue, {"connection": self.bench.settings().redis_url})
        try:
            await queue.upsertJobScheduler("hourly", {"every": 3_600_000}, "work", {"waits": True})
        finally:
            await queue.close()

    async def arrival(self, *parts: bytes) -> Link:
        """The connection whose next request has one of ``parts``; its reply is still on the way."""
        before = {link.number: link.bytes_to_server for link in self.proxy.links}
        arrived: list[Link] = []

        def has_arrived() -> bool:
            arrived[:] = [
                link
                for link in self.proxy.links
                if link.bytes_to_server > before.get(link.number, 0)
                and any(part in link.last_request for part in parts)
            ]
            return bool(arrived)

        self.proxy.delay(_DELAY_SECONDS)
        await wait_until(has_arrived, what=f"a request with one of {parts}")
        return arrived[0]

    async def stall_at(self, *parts: bytes) -> None:
        """Stall when the next request with one of ``parts`` has arrived, before its reply has."""
        await self.arrival(*parts)
        self.proxy.hold()

    async def hang_up(self, holding: asyncio.Task[Any]) -> None:
        """Cancel the only hold, and have Redis back when that hold's drain has long ended."""
        holding.cancel()
        await asyncio.wait({holding})
        await lasting(STALL_SECONDS)
        self.proxy.resume()

    async def finish(self, worker: Worker) -> None:
        """Hold again: every job that is due ends, and ``drained`` is said only then."""
        result = await worker.hold(15)

        left = self.bench.states()
        assert (left.keys() - {"completed", "delayed"}, slots(worker)) == (set(), (0, 1)), left
        assert (result.status, result.remaining) == ("drained", self.bench.count("delayed"))


def slots(worker: Worker) -> tuple[int, int]:
    """How many slots are running, and how many are free."""
    stats = worker.stats()
    return stats["running"], stats["free"]
