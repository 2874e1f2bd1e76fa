"""A client that waits for results, whatever comes in between; and what it remembers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import ConfigurationError
from tests.faults.harness import lasting
from tests.support.kept import kept
from tests.support.proxy import TcpProxy
from tests.support.stall import hold_after_replies
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

MakeSettings = Callable[..., Settings]
SOON = 5.0


class Work:
    """A handler that waits until it is told to go on."""

    def __init__(self) -> None:
        self.handlers = HandlerRegistry()
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()

        @self.handlers.audio("work")
        async def work(_: Job[Any]) -> str:
            self.started.set()
            await self.go_on.wait()
            return "done"


async def listening(redis: Redis) -> None:
    """Return once somebody waits for events."""

    async def reads() -> bool:
        return any(each["cmd"] == "xread" for each in await redis.client_list())

    await wait_until(reads, what="a blocked read of events")


@pytest.mark.parametrize(
    "entry",
    [
        {b"event": b"\xff\xfe", b"jobId": b"%s"},
        {b"event": b"progress", b"\xff": b"data", b"jobId": b"%s"},
    ],
    ids=["event", "field"],
)
async def test_an_event_that_is_not_utf8_keeps_no_result_back(
    make_settings: MakeSettings, redis: Redis, queue_name: str, entry: dict[bytes, bytes]
) -> None:
    """Nor any later one: whoever reads the stream passes over what it can't read."""
    settings, work = make_settings(), Work()
    async with JobClient(settings) as client, Worker(work.handlers, settings):
        job_id = await client.enqueue("work")
        result = asyncio.create_task(client.result(job_id, SOON))
        await work.started.wait()
        await listening(redis)
        fields: Any = {key: value.replace(b"%s", job_id.encode()) for key, value in entry.items()}
        await redis.xadd(f"bull:{queue_name}:events", fields)
        work.go_on.set()
        results = [await result, await client.result(await client.enqueue("work"), SOON)]

    assert results == ["done", "done"]


async def note_events(client: JobClient, job_id: str, seen: asyncio.Queue[object]) -> None:
    """Put each event of the job into the queue."""
    async for event in client.watch(job_id):
        seen.put_nowait(event)


async def test_a_stream_that_is_watched_while_another_is_read_is_read_too(
    make_settings: MakeSettings, redis: Redis, queue_name: str, proxy: TcpProxy
) -> None:
    """The read of the one is on its way when the other one's watch begins."""
    queues = (queue_name, f"{queue_name}-2")
    settings, work = make_settings(queues=queues), Work()
    async with JobClient(settings.replace(redis_url=proxy.url)) as client:
        there = await client.enqueue("work", delay=3600)
        seen: asyncio.Queue[object] = asyncio.Queue()
        watching = asyncio.create_task(note_events(client, there, seen))
        await listening(redis)
        reader = proxy.links[1]
        hold_after_replies(proxy, reader, matching=b"XREAD")
        told: Any = {"event": "progress", "jobId": there, "data": "1"}
        await redis.xadd(f"bull:{queue_name}:events", told)
        await asyncio.wait_for(seen.get(), SOON)

        async with Worker(work.handlers, settings):
            result = asyncio.create_task(
                client.result(await client.enqueue("work", queue=queues[1]), SOON)
            )
            await work.started.wait()
            await lasting(0.3)  # the next read of the first stream is held up so long
            reader.set_mode("pass")
            await lasting(0.1)
            work.go_on.set()
            await asyncio.wait({result})
        watching.cancel()

    assert result.result() == "done"


async def test_a_job_that_is_removed_at_its_end_gives_its_result_all_the_same(
    make_settings: MakeSettings, redis: Redis, queue_name: str, proxy: TcpProxy
) -> None:
    """It ends after it was looked at, and before its stream is."""
    settings, work = make_settings(), Work()
    work.go_on.set()
    async with JobClient(settings.replace(redis_url=proxy.url)) as client:
        job_id = await client.enqueue("work")
        await redis.hset(f"bull:{queue_name}:{job_id}", "opts", '{"removeOnComplete":true}')
        looked = hold_after_replies(proxy, proxy.links[0], matching=b"HGETALL")
        result = asyncio.create_task(client.result(job_id, SOON))
        await wait_until(looked.done.is_set, what="the look at the job")
        async with Worker(work.handlers, settings):
            await wait_until(
                lambda: gone(redis, f"bull:{queue_name}:{job_id}"), what="the job's end"
            )
            proxy.resume()
            await asyncio.wait({result})

    assert result.result() == "done"


async def gone(redis: Redis, key: str) -> bool:
    """Whether there is no such key."""
    return not await redis.exists(key)


# names


async def test_names_of_queues_are_not_kept_for_ever(make_settings: MakeSettings) -> None:
    """A queue for each customer, and there are many; nothing is sent here, but all is checked."""
    marker = uuid.uuid4().hex
    client = JobClient(make_settings())

    async def remembered(first: int) -> int:
        names = [f"{marker}-{number}" for number in range(first, first + 2000)]
        jobs = [{"name": "work", "queue": name} for name in names]
        with pytest.raises(ConfigurationError):
            await client.enqueue_many([*jobs, {"name": "work", "priority": -1}])
        del names, jobs
        return kept(marker, longer_than=len(marker))

    first = await remembered(0)

    assert await remembered(2000) <= first
