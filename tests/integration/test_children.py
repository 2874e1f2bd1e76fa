"""Jobs of several parts: whose a part is, when its parent is called, how parts are added."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.bullmq.jobs.child_jobs import ChildIds
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import JobFailed
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

    from convolab_worker.embedded import EmbeddedServer
    from tests.support.proxy import TcpProxy

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio
SOON = 10.0
ROUND_TRIP_SECONDS = 0.02


def courses(parts: str, *, on_failure: Any = "fail") -> tuple[HandlerRegistry, list[Any]]:
    """Handlers of courses that ask for one part on the queue ``parts``; who was called."""
    handlers, calls = HandlerRegistry(), []

    @handlers.course("course")
    async def course(job: Job[Any]) -> Any:
        calls.append(job.id)
        done = await job.children_results()
        if "audio" not in done:
            part = Child("part", job.data, queue=parts, key="audio", on_failure=on_failure)
            await job.enqueue_children([part])
        return done["audio"]

    @handlers.audio("part")
    async def part(job: Job[Any]) -> Any:
        return job.data

    return handlers, calls


async def remove(redis: Redis, queue: str, job_id: str) -> None:
    """Remove a job that has ended, as ``removeOnComplete`` and ``removeOnFail`` do."""
    key = f"bull:{queue}:{job_id}"
    await redis.delete(key, *[f"{key}:{kind}" for kind in ("processed", "failed", "logs")])
    for state in ("completed", "failed"):
        await redis.zrem(f"bull:{queue}:{state}", job_id)


@pytest.mark.parametrize("first_is", ["there", "gone"])
async def test_two_parents_of_one_id_on_two_queues_have_parts_of_their_own(
    running: Running, redis: Redis, queue_name: str, first_is: str
) -> None:
    first, second, parts = (f"{queue_name}-{name}" for name in ("first", "second", "parts"))
    handlers, calls = courses(parts)

    async with running(handlers, queues=(first, second, parts)) as (_, client):
        one = await client.enqueue("course", "first", queue=first, job_id="lesson")
        results = [await client.result(one, SOON)]
        if first_is == "gone":
            await remove(redis, first, one)
        other = await client.enqueue("course", "second", queue=second, job_id="lesson")
        await wait_until(lambda: redis.zscore(f"bull:{second}:completed", other))
        results.append(await redis.hget(f"bull:{second}:{other}", "returnvalue"))

    assert results == ["first", '"second"']
    assert len(calls) == 4


@pytest.mark.parametrize("ended", ["completed", "failed"])
async def test_an_id_that_is_used_again_gets_parts_that_run_anew(
    running: Running, redis: Redis, queue_name: str, ended: str
) -> None:
    handlers, _ = courses(queue_name)

    @handlers.audio("part", queue=queue_name)
    async def part(job: Job[Any]) -> Any:
        if job.data == "bad":
            raise ValueError(job.data)
        return job.data

    async with running(handlers) as (_, client):
        first = "good" if ended == "completed" else "bad"
        lesson = await client.enqueue("course", first, job_id="lesson")
        if ended == "completed":
            assert await client.result(lesson, SOON) == "good"
        else:
            with pytest.raises(JobFailed, match="bad"):
                await client.result(lesson, SOON)
        await remove(redis, queue_name, lesson)
        await redis.delete(f"bull:{queue_name}:{lesson}:unsuccessful")
        await client.enqueue("course", "again", job_id="lesson")

        assert await client.result(lesson, SOON) == "again"


async def test_a_part_that_is_nobodys_and_never_ends_fails_its_parent(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """No child is pending and none has ended: the handler would be called for ever."""
    handlers, calls = courses(queue_name)
    settings, keys = make_settings(), QueueKeys("bull", queue_name)
    async with JobClient(settings) as client:
        lesson = await client.enqueue("course")
        added_at = await redis.hget(keys.job(lesson), "timestamp")
        parent = ActiveJob(queue_name, lesson, "", "course", b"", {}, timestamp=int(str(added_at)))
        taken = keys.job(ChildIds.of(keys, parent).id_of("audio"))
        await redis.hset(taken, mapping={"name": "part", "parentKey": "bull:gone:1"})

        async with Worker(handlers, settings):
            with pytest.raises(JobFailed, match=r"no child is pending, and none has ended"):
                await client.result(lesson, SOON)

    assert calls == [lesson]


async def test_a_part_that_ends_between_the_look_and_the_asking_calls_the_handler_once_more(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """Its parent was told that it is still to run, and could not know better."""
    handlers, seen = HandlerRegistry(), list[set[str]]()
    slow = asyncio.get_running_loop().create_future()
    may_end = asyncio.Event()

    @handlers.course("course")
    async def course(job: Job[Any]) -> int:
        seen.append({*await job.children_results()})
        if len(seen) == 1:
            await job.enqueue_children([Child("quick", on_failure="continue"), Child("slow")])
        if "slow" not in seen[-1]:
            may_end.set()
            await client.result(await slow, SOON)
            await job.enqueue_children([Child("slow")])
        return len(seen)

    @handlers.audio("quick")
    async def quick(_: Job[Any]) -> None:
        # A failure goes on with a parent that waits, and with no other.
        await wait_until(lambda: redis.zcard(f"bull:{queue_name}:waiting-children"))
        raise ValueError

    @handlers.audio("slow")
    async def slowly(job: Job[Any]) -> None:
        slow.set_result(job.id)
        await may_end.wait()

    async with running(handlers) as (_, client):
        lesson = await client.enqueue("course")
        assert await client.result(lesson, SOON) == 3

    assert seen == [set(), {"quick"}, {"quick", "slow"}]


async def test_a_part_that_fails_before_its_parent_waits_lets_it_go_on_at_once(
    make_settings: Callable[..., Settings],
    client: JobClient,
    queue_name: str,
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
) -> None:
    """BullMQ tells only a parent that waits already, and another worker is quicker than ours."""
    parents, parts = HandlerRegistry(), HandlerRegistry()
    queue, seen, may_end = f"{queue_name}-parts", list[set[str]](), asyncio.Event()

    @parents.course("course")
    async def course(job: Job[Any]) -> None:
        seen.append({*await job.children_results()})
        if "quick" in seen[-1]:
            may_end.set()
        quick = Child("quick", queue=queue, on_failure="continue")
        await job.enqueue_children([quick, Child("slow", queue=queue)])

    @parts.audio("quick")
    async def quick(_: Job[Any]) -> None:
        raise ValueError

    @parts.audio("slow")
    async def slowly(_: Job[Any]) -> None:
        await may_end.wait()

    far = far_away(make_settings, start_proxy(server), 0.3)
    async with Worker(parents, far), Worker(parts, make_settings(queues=(queue,))):
        await client.enqueue("course")
        async with asyncio.timeout(SOON):
            await may_end.wait()

    assert seen[:2] == [set(), {"quick"}]


async def test_a_part_that_was_removed_while_its_parent_waited_is_asked_for_again(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """As with Node's worker the parent goes on; its handler asks again, and gets it."""
    parts = f"{queue_name}-parts"
    handlers, calls = courses(parts, on_failure="remove")
    failing = [True]

    @handlers.audio("part", queue=parts)
    async def part(_: Job[Any]) -> str:
        if failing:
            failing.clear()
            raise ValueError
        return "spoken"

    async with running(handlers, queues=(queue_name, parts)) as (_, client):
        lesson = await client.enqueue("course", "text")
        assert await client.result(lesson, SOON) is None
        failed = await redis.zrange(f"bull:{parts}:failed", 0, -1)

    assert len(failed) == 1
    assert len(calls) <= 3


def far_away(
    make_settings: Callable[..., Settings], proxy: TcpProxy, round_trip: float
) -> Settings:
    """Settings of a worker that is so far from Redis, in seconds."""
    proxy.delay(round_trip / 2)
    return make_settings(redis_url=f"redis://127.0.0.1:{proxy.port}")


async def added_in(
    settings: Settings, client: JobClient, redis: Redis, children: int
) -> tuple[float, int]:
    """How long a worker takes to add so many children, and how many are there."""
    handlers, watch = HandlerRegistry(), Stopwatch()
    asked_at = 0.0

    @handlers.course("course")
    async def course(job: Job[Any]) -> None:
        nonlocal asked_at
        parts = [Child("part", n, queue="parts", key=f"line-{n}") for n in range(children)]
        asked_at = watch.seconds
        await job.enqueue_children(parts)

    keys = f"bull:{settings.queues[0]}"
    async with Worker(handlers, settings):
        with watch:
            job = await client.enqueue("course")
            await wait_until(lambda: redis.zcard(f"{keys}:waiting-children"), timeout=60)
        return watch.seconds - asked_at, await redis.scard(f"{keys}:{job}:dependencies")


async def test_children_are_added_in_pipelines(
    make_settings: Callable[..., Settings],
    client: JobClient,
    redis: Redis,
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
) -> None:
    """One by one, 100 of them would take 2 s at a round trip of 20 ms."""
    settings = far_away(make_settings, start_proxy(server), ROUND_TRIP_SECONDS)

    seconds, count = await added_in(settings, client, redis, 100)

    assert count == 100
    assert seconds < 1


@pytest.mark.long
async def test_three_thousand_children_take_less_than_a_second(
    make_settings: Callable[..., Settings],
    client: JobClient,
    redis: Redis,
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
) -> None:
    """Their parent waits for them a second after it has asked."""
    settings = far_away(make_settings, start_proxy(server), ROUND_TRIP_SECONDS)

    seconds, count = await added_in(settings, client, redis, 3000)

    assert count == 3000
    assert seconds < 1


async def test_a_stop_while_children_are_added_returns_their_parent(
    make_settings: Callable[..., Settings],
    client: JobClient,
    redis: Redis,
    queue_name: str,
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
) -> None:
    """The next worker adds the rest, and none twice."""
    handlers = HandlerRegistry()

    @handlers.course("course")
    async def course(job: Job[Any]) -> None:
        await job.enqueue_children(
            [Child("part", queue=parts, key=f"line-{n}") for n in range(1200)]
        )

    keys, parts = f"bull:{queue_name}", f"{queue_name}-parts"
    settings = far_away(make_settings, start_proxy(server), 0.3)
    async with Worker(handlers, settings) as worker:
        job = await client.enqueue("course")
        await wait_until(lambda: redis.llen(f"bull:{parts}:wait"))
        await worker.stop(grace=0)
    added = await redis.llen(f"bull:{parts}:wait")
    state = (await client.status(job)).state
    async with Worker(handlers, make_settings()):
        await wait_until(lambda: redis.zcard(f"{keys}:waiting-children"))

    assert added in {500, 1000}
    assert state == "waiting"
    assert await redis.llen(f"bull:{parts}:wait") == 1200
    assert await redis.scard(f"{keys}:{job}:dependencies") == 1200
