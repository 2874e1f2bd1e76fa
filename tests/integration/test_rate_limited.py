"""``RateLimited``: a handler limits its queue, as Node's ``queue.rateLimit`` does."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import RateLimited
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio
SOON = 10.0
LIMIT_SECONDS = 0.5


async def test_no_job_of_the_queue_starts_until_the_time_is_over(running: Running) -> None:
    """The job is the first to run then, in its first attempt."""
    handlers, starts = HandlerRegistry(), list[tuple[str, float]]()
    limited_at = 0.0

    @handlers.audio("work")
    async def work(job: Job[Any]) -> list[int]:
        nonlocal limited_at
        starts.append((job.data, time.monotonic()))
        if not limited_at:
            limited_at = time.monotonic()
            raise RateLimited(LIMIT_SECONDS)
        return [job.attempt, job.starts]

    async with running(handlers, concurrency=1) as (worker, client):
        jobs = [await client.enqueue("work", name) for name in "abc"]
        results = [await client.result(job, SOON) for job in jobs]
        outcomes = worker.stats()["outcomes"]

    assert [name for name, _ in starts] == ["a", "a", "b", "c"]
    assert all(at - limited_at >= LIMIT_SECONDS for _, at in starts[1:])
    assert results == [[1, 2], [1, 1], [1, 1]]
    assert outcomes == {"rate_limited": 1, "completed": 3}


async def test_other_queues_go_on_meanwhile(running: Running, queue_name: str) -> None:
    handlers, starts = HandlerRegistry(), list[str]()
    other = f"{queue_name}-other"

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        starts.append(job.data)
        if job.data == "limited":
            raise RateLimited(3600)

    async with running(handlers, queues=(queue_name, other), concurrency=1) as (worker, client):
        await client.enqueue("work", "limited")
        await wait_until(lambda: worker.stats()["outcomes"])
        for name in ("elsewhere", "elsewhere again"):
            await client.result(await client.enqueue("work", name, queue=other), SOON)

    assert starts == ["limited", "elsewhere", "elsewhere again"]


async def test_the_workers_own_free_slots_heed_it_at_once(running: Running) -> None:
    """The job's return sets the marker that their blocking read waits for."""
    handlers, starts = HandlerRegistry(), list[float]()

    @handlers.audio("work")
    async def work(_job: Job[Any]) -> None:
        starts.append(time.monotonic())
        if len(starts) < 12:
            raise RateLimited(0.05)

    async with running(handlers) as (_, client):
        await client.result(await client.enqueue("work"), SOON)

    assert min(later - start for start, later in itertools.pairwise(starts)) >= 0.05


async def test_another_worker_with_a_limiter_heeds_it(
    make_settings: Callable[..., Settings], client: JobClient
) -> None:
    """As Node's workers do: they ask Redis at each fetch."""
    handlers, others = HandlerRegistry(), HandlerRegistry()
    runs: list[float] = []
    stopping: list[asyncio.Future[None]] = []  # with the job, before its limit can be over

    @handlers.audio("work")
    async def work(_job: Job[Any]) -> None:
        stopping.append(asyncio.ensure_future(worker.stop(grace=SOON)))
        runs.append(time.monotonic())
        raise RateLimited(LIMIT_SECONDS)

    @others.audio("work")
    async def work_elsewhere(_job: Job[Any]) -> float:
        return time.monotonic()

    async with Worker(handlers, make_settings()) as worker:
        job = await client.enqueue("work")
        await wait_until(lambda: stopping)
        await stopping[0]
    async with Worker(others, make_settings(rate_limit="1000/1s")):
        ran_at = await client.result(job, SOON)

    assert ran_at - runs[0] >= LIMIT_SECONDS
    assert len(runs) == 1


@pytest.mark.parametrize("delay", [-1, float("nan"), 1e11])
async def test_a_delay_that_can_not_be_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match="RateLimited\\(delay=.*: expected a number of seconds"):
        RateLimited(delay)
