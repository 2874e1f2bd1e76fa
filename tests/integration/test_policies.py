"""Retry policy and retention, of the handler and the worker, for jobs that say nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from convolab_worker import Child, Exponential, Fixed, HandlerRegistry, Job, JobClient, Worker
from convolab_worker.errors import JobFailed
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio
SOON = 10.0


def counting(**options: Any) -> tuple[HandlerRegistry, dict[str, int]]:
    """Handlers called "fails" and "works" with those options, and how often each job has run."""
    handlers = HandlerRegistry()
    runs: dict[str, int] = {}

    @handlers.audio("fails", **options)
    async def fails(job: Job[Any]) -> None:
        runs[job.id] = job.attempt
        assert job.max_attempts >= job.attempt
        msg = "no voice"
        raise RuntimeError(msg)

    @handlers.audio("works", **options)
    async def works(job: Job[Any]) -> None:
        runs[job.id] = job.attempt

    return handlers, runs


async def failed(client: JobClient, **options: Any) -> str:
    """The id of a job that has failed for good."""
    job_id = await client.enqueue("fails", **options)
    with pytest.raises(JobFailed, match="no voice"):
        await client.result(job_id, SOON)
    return job_id


async def test_the_handlers_attempts_are_for_jobs_that_say_nothing(running: Running) -> None:
    """What a job says of itself stands."""
    handlers, runs = counting(attempts=3, backoff=Fixed(0.01))

    async with running(handlers) as (_, client):
        silent = await failed(client)
        outspoken = await failed(client, attempts=1)

    assert runs == {silent: 3, outspoken: 1}


async def test_the_handlers_backoff_is_for_jobs_that_say_nothing_of_it(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """Even where they have attempts of their own; the longest wait is kept, and the job's opts."""
    handlers, _ = counting(attempts=9, backoff=Exponential(3600, longest=3600, jitter=0))
    any_redis: Any = redis

    async def delay_of(job_id: str) -> str:
        key = f"bull:{queue_name}:{job_id}"
        await wait_until(lambda: any_redis.zscore(f"bull:{queue_name}:delayed", job_id))
        delay: str = await any_redis.hget(key, "delay")
        return delay

    async with running(handlers) as (_, client):
        silent, outspoken = await client.enqueue("fails"), await client.enqueue("fails", attempts=2)
        delays = [await delay_of(job_id) for job_id in (silent, outspoken)]
        opts = await any_redis.hget(f"bull:{queue_name}:{silent}", "opts")

    assert delays == ["3600000", "3600000"]
    assert opts == '{"attempts":0}'


@pytest.mark.parametrize(
    ("handlers_own", "workers", "jobs_own", "remains"),
    [
        ({}, {}, {}, True),
        ({"keep_completed": "none"}, {}, {}, False),
        ({"keep_completed": "none"}, {}, {"keep_completed": "1h"}, True),
        ({}, {"keep_completed": "none"}, {}, False),
        ({"keep_completed": 10}, {"keep_completed": "none"}, {}, True),
        ({}, {"keep_completed": "none"}, {"keep_completed": "all"}, True),
        ({}, {}, {"keep_completed": "none"}, False),
    ],
)
async def test_the_job_goes_before_the_handler_and_that_before_the_worker(
    running: Running,
    redis: Redis,
    queue_name: str,
    handlers_own: dict[str, Any],
    workers: dict[str, Any],
    jobs_own: dict[str, Any],
    remains: bool,  # noqa: FBT001
) -> None:
    """As in Node, where a job's removeOnComplete goes before the worker's."""
    handlers, runs = counting(**handlers_own)
    any_redis: Any = redis

    async with running(handlers, **workers) as (worker, client):
        job_id = await client.enqueue("works", **jobs_own)
        await wait_until(lambda: worker.stats()["outcomes"] == {"completed": 1})
        is_there = await any_redis.exists(f"bull:{queue_name}:{job_id}")

    assert runs == {job_id: 1}
    assert bool(is_there) is remains


async def test_failed_jobs_have_a_retention_of_their_own(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """Of any number, and of a job that no handler takes too: the worker's is for that."""
    handlers, _ = counting(keep_failed=1)
    any_redis: Any = redis

    async with running(handlers, keep_failed="none") as (worker, client):
        ids = [await failed(client) for _ in range(3)]
        kept = await any_redis.zrange(f"bull:{queue_name}:failed", 0, -1)
        unknown = await client.enqueue("nobody's")
        await wait_until(lambda: worker.stats()["outcomes"]["failed"] == 4)
        is_there = await any_redis.exists(f"bull:{queue_name}:{unknown}")

    assert kept == ids[-1:]
    assert not is_there


async def test_a_child_has_options_of_its_own(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """As a job of enqueue has; where its data is too large for its limit, its parent fails."""
    handlers = HandlerRegistry()
    elsewhere = f"{queue_name}-parts"
    options: dict[str, Any] = {
        "queue": elsewhere, "keep_completed": "1h", "keep_failed": "none", "lifo": True,
        "keep_logs": 3, "stack_trace_limit": 1, "size_limit": 20, "attempts": 2,
        "backoff": Fixed(1),
    }  # fmt: skip

    @handlers.course("course")
    async def course(job: Job[str]) -> None:
        await job.enqueue_children([Child("part", job.data, **options)])

    any_redis: Any = redis
    async with running(handlers) as (_, client):
        await client.enqueue("course", "short")
        await wait_until(lambda: any_redis.llen(f"bull:{elsewhere}:wait"))
        (child,) = await any_redis.lrange(f"bull:{elsewhere}:wait", 0, -1)
        opts = json.loads(await any_redis.hget(f"bull:{elsewhere}:{child}", "opts"))
        with pytest.raises(JobFailed, match="the child 'part' has 32 bytes: .* size_limit, 20"):
            await client.result(await client.enqueue("course", "x" * 30), SOON)

    del opts["parent"]
    assert opts == {
        "fpof": True,
        "removeOnComplete": {"age": 3600},
        "removeOnFail": True,
        "lifo": True,
        "kl": 3,
        "stackTraceLimit": 1,
        "sizeLimit": 20,
        "attempts": 2,
        "backoff": {"type": "fixed", "delay": 1000, "jitter": 0.2},
    }
