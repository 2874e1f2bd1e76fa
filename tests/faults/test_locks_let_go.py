"""Whatever keeps the locks of jobs keeps nothing else: no connection, no job that has ended."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from tests.support.kept import kept
from tests.support.proxy import TcpProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

MakeSettings = Callable[..., Settings]
SOON = 10.0
# A look at the locks is due after an eighth of it, which no test waits for.
LOCK_SECONDS = 60.0
PAYLOAD = 100_000


class Jobs:
    """A handler that waits until it is told to go on, and what it has seen."""

    def __init__(self) -> None:
        self.handlers = HandlerRegistry()
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()

        @self.handlers.audio("wait")
        async def wait(_: Job[Any]) -> None:
            self.started.set()
            await self.go_on.wait()


@asynccontextmanager
async def running(
    jobs: Jobs, settings: Settings, proxy: TcpProxy, **overrides: Any
) -> AsyncIterator[tuple[Worker, JobClient]]:
    """A worker behind the proxy, and a client that is not."""
    behind = settings.replace(
        **{"redis_url": proxy.url, "lock_duration": LOCK_SECONDS, **overrides}
    )
    async with JobClient(settings) as client, Worker(jobs.handlers, behind) as worker:
        yield worker, client


@pytest.mark.parametrize("mode", ["background", "held"])
async def test_a_worker_that_sleeps_has_no_connection(
    make_settings: MakeSettings, proxy: TcpProxy, mode: str
) -> None:
    """Nor one for the locks: a process that sleeps may be frozen, and could not close it then."""
    jobs = Jobs()
    sleeping = {"sleep_after": 0.2, "wake_mode": mode}
    async with running(jobs, make_settings(), proxy, **sleeping) as (worker, client):
        job_id = await client.enqueue("wait")
        hold = asyncio.create_task(worker.hold(SOON))
        await asyncio.wait_for(jobs.started.wait(), SOON)
        await client.cancel(job_id, timeout=SOON)  # the lock is looked at, and has a connection
        await hold

        await wait_until(lambda: not worker.stats()["connected"], what="the worker's sleep")
        await wait_until(lambda: not proxy.links, timeout=1.0, what="the last connection's end")


async def test_locks_that_nobody_holds_have_no_connection(
    make_settings: MakeSettings, proxy: TcpProxy
) -> None:
    """It is closed soon after the last job, and not only said to be."""
    jobs = Jobs()
    async with running(jobs, make_settings(), proxy, lock_duration=1.0) as (_, client):
        job_id = await client.enqueue("wait")
        await asyncio.wait_for(jobs.started.wait(), SOON)
        links = proxy.links
        await client.cancel(job_id, timeout=SOON)

        await wait_until(lambda: len(proxy.links) == len(links), timeout=2.0, what="its end")


async def test_a_job_that_ends_while_its_lock_is_looked_at_is_forgotten(
    make_settings: MakeSettings, proxy: TcpProxy
) -> None:
    """Its cancellation is heard of, and it ends by itself before its lock is reached."""
    jobs = Jobs()
    marker = uuid.uuid4().hex
    async with running(jobs, make_settings(), proxy, concurrency=2) as (worker, client):
        job_id = await client.enqueue("wait", f"{marker} ".ljust(PAYLOAD, "."))
        await asyncio.wait_for(jobs.started.wait(), SOON)
        links = proxy.links
        proxy.hold()  # for the connection that is still to come
        for link in links:
            link.set_mode("pass")

        await client.cancel(job_id, wait=False)
        await wait_until(lambda: len(proxy.links) > len(links), what="the look at the lock")
        jobs.go_on.set()
        await wait_until(lambda: worker.stats()["outcomes"], what="the job's end")
        proxy.resume()

        await wait_until(
            lambda: kept(marker, longer_than=PAYLOAD // 2) == 0,
            timeout=5.0,  # sooner than the next look at the locks
            what="that nothing has the job's data",
        )
