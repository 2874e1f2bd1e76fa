"""A client whose calls fail half-way, that changes loops, or is closed in the middle of a call."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from convolab_worker import JobClient, ScheduleOptions, Settings
from convolab_worker.errors import RedisUnavailable
from tests.support.proxy import TcpProxy
from tests.support.service import Service, says, service
from tests.support.waiting import wait_until

MakeSettings = Callable[..., Settings]
Call = Callable[[JobClient], Awaitable[None]]
SOON = 5.0
# The last job of a list has it, and so the last write of the list's last pipeline.
LAST = b"the-last-of-them"


# adding, and waking


async def add_one(client: JobClient) -> None:
    """One job."""
    await client.enqueue("work", {"mark": LAST.decode()})


async def add_many(client: JobClient) -> None:
    """More jobs than one pipeline has; the last of them are in another than the first."""
    jobs = [{"name": "work", "job_id": f"one-of-many-{number}"} for number in range(600)]
    await client.enqueue_many([*jobs, {"name": "work", "data": {"mark": LAST.decode()}}])


async def schedule(client: JobClient) -> None:
    """A schedule whose first job is due at once."""
    await client.schedule("tick", "work", {"mark": LAST.decode()}, every=3600)


async def add_before(settings: Settings) -> None:
    """A job that is there already, and with it the scripts that add jobs and schedules."""
    async with JobClient(settings) as client:
        await client.enqueue("work")
        await client.schedule("other", "work", every=3600)
        await client.unschedule("other")


async def is_woken(there: Service) -> bool:
    """Whether the service is asked for work."""
    with suppress(AssertionError):
        await wait_until(lambda: there.requests, timeout=SOON / 2)
    return bool(there.requests)


@pytest.mark.asyncio
@pytest.mark.parametrize("adding", [add_one, add_many, schedule])
async def test_jobs_whose_answer_is_lost_wake_the_service(
    make_settings: MakeSettings, redis: Redis, queue_name: str, proxy: TcpProxy, adding: Call
) -> None:
    """The call fails, and may be tried again; what it has added is run all the same."""
    await add_before(make_settings())
    async with service(says()) as there:
        client = JobClient(make_settings(redis_url=proxy.url, wake_url=there.url))
        proxy.swallow_replies(2, matching=LAST, cut=True)
        with pytest.raises(RedisUnavailable):
            await adding(client)
        woken = await is_woken(there)
        await client.close()

    assert await redis.llen(f"bull:{queue_name}:wait") > 1
    assert woken


@pytest.mark.asyncio
@pytest.mark.parametrize("adding", [add_one, add_many, schedule])
async def test_jobs_whose_caller_lost_patience_wake_the_service(
    make_settings: MakeSettings, redis: Redis, queue_name: str, proxy: TcpProxy, adding: Call
) -> None:
    """A request's time-out ends the call, not the jobs that it has added."""
    await add_before(make_settings())
    async with service(says()) as there:
        client = JobClient(make_settings(redis_url=proxy.url, wake_url=there.url))
        lost = proxy.swallow_replies(matching=LAST)
        call = asyncio.ensure_future(adding(client))
        await wait_until(lost.done.is_set, what="the loss of the answer")
        call.cancel()
        await asyncio.wait({call})
        woken = await is_woken(there)
        await client.close()

    assert await redis.llen(f"bull:{queue_name}:wait") > 1
    assert woken


@pytest.mark.asyncio
@pytest.mark.parametrize("when", [{"every": 3600}, {"cron": "0 6 1 1 *"}], ids=str)
async def test_a_schedule_whose_answer_is_lost_is_written_once(
    make_settings: MakeSettings,
    redis: Redis,
    queue_name: str,
    proxy: TcpProxy,
    when: ScheduleOptions,
) -> None:
    """It is written again, in its own place: it has one next job, the same one."""
    await add_before(make_settings())
    before = {*await redis.keys(f"bull:{queue_name}:repeat:*")}
    async with JobClient(make_settings(redis_url=proxy.url)) as client:
        lost = proxy.swallow_replies(1, matching=LAST, cut=True)
        job_id = await client.schedule("tick", "work", LAST.decode(), **when)
        (written,) = await client.schedules()
        jobs = {*await redis.keys(f"bull:{queue_name}:repeat:*:*")} - before

    assert lost.done.is_set()
    assert (written.id, written.count) == ("tick", 1)
    assert jobs == {f"bull:{queue_name}:{job_id}"}


@pytest.mark.asyncio
async def test_jobs_beside_one_that_is_refused_wake_the_service(
    make_settings: MakeSettings, redis: Redis, queue_name: str
) -> None:
    """Of a list some are added and one is not: the call says so, and those run."""
    broken = f"{queue_name}-broken"
    await redis.set(f"bull:{broken}:wait", "no list")
    async with service(says()) as there:
        client = JobClient(make_settings(wake_url=there.url))
        with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
            await client.enqueue_many([{"name": "work"}, {"name": "work", "queue": broken}])
        woken = await is_woken(there)
        await client.close()

    assert await redis.llen(f"bull:{queue_name}:wait") == 1
    assert woken


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("broken", "command"),
    [
        ("wait", ("failed", "retry", "--all")),
        ("active", ("migrate", "--from", "{queue},{queue}-broken", "--to", "{queue}-new", "--yes")),
    ],
    ids=["retry", "migrate"],
)
async def test_a_command_that_fails_half_way_wakes_the_service(
    server_url: str, redis: Redis, queue_name: str, broken: str, command: tuple[str, ...]
) -> None:
    """The jobs of the first queue are back or moved when the second one's are refused."""
    mapping: Any = {"name": "work", "data": "{}", "opts": "{}", "failedReason": "x", "atm": 1}
    for queue, job_id in ((queue_name, "1"), (f"{queue_name}-broken", "2")):
        await redis.hset(f"bull:{queue}:{job_id}", mapping=mapping)
        await redis.zadd(f"bull:{queue}:failed", {job_id: time.time() * 1000})
    await redis.set(f"bull:{queue_name}-broken:{broken}", "no list")
    async with service(says()) as there:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "convolab_worker"),
            *(part.format(queue=queue_name) for part in command),
            env={
                **os.environ,
                "REDIS_URL": server_url,
                "CONVOLAB_QUEUES": f"{queue_name},{queue_name}-broken",
                "CONVOLAB_WAKE_URL": there.url,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await process.communicate()

    assert process.returncode == 1, told.decode()
    assert not await redis.exists(f"bull:{queue_name}:failed"), told.decode()
    assert len(there.requests) == 1


# another loop


@pytest.fixture
def _dropped_connections() -> Iterator[None]:
    """Drop here what was connected in a loop that is closed, which Python warns of."""
    yield
    gc.collect()


@pytest.mark.asyncio
@pytest.mark.usefixtures("_dropped_connections")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_wakes_go_on_in_the_next_loop(make_settings: MakeSettings) -> None:
    """Each ``asyncio.run`` has a loop of its own; a wake waits in that of its job."""
    async with service(says()) as there:
        client = JobClient(make_settings(wake_url=there.url))

        async def add() -> bool:
            await client.enqueue("work")
            return await client.wake_heard(SOON)

        heard = [await asyncio.to_thread(asyncio.run, add()), await add()]
        await client.close()

    assert heard == [True, True]
    assert len(there.requests) == 2


@pytest.mark.asyncio
@pytest.mark.usefixtures("_dropped_connections")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_wake_for_a_delayed_job_does_not_count_on_a_loop_that_is_gone(
    make_settings: MakeSettings,
) -> None:
    """The earlier one was due in the loop that is closed: the later one is woken for here."""
    async with service(says()) as there:
        client = JobClient(make_settings(wake_url=there.url))
        await asyncio.to_thread(asyncio.run, client.enqueue("work", delay=0.9))
        await client.enqueue("work", delay=1.2)
        woken = await is_woken(there)
        await client.close()

    assert woken


@pytest.mark.asyncio
@pytest.mark.usefixtures("_dropped_connections")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_wake_that_was_under_way_in_a_closed_loop_holds_up_no_other(
    make_settings: MakeSettings,
) -> None:
    """A loop that is closed after a call is closed in the middle of the wake."""

    def add_in_a_loop_of_its_own() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(client.enqueue("work"))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    async with service(says()) as there:
        client = JobClient(make_settings(wake_url=there.url))
        await asyncio.to_thread(add_in_a_loop_of_its_own)
        before = len(there.requests)
        await client.enqueue("work")
        with suppress(TimeoutError):
            await asyncio.wait_for(there.asked(before + 1), SOON / 2)
        await client.close()

    assert len(there.requests) == before + 1


# closed early


async def look_at_a_job(client: JobClient) -> None:
    """One that is there."""
    await client.status("there")


async def count(client: JobClient) -> None:
    """The jobs of every state."""
    await client.counts()


async def wait_for_a_result(client: JobClient) -> None:
    """Of a job that does not end."""
    await client.result("there")


async def cancel_a_job(client: JobClient) -> None:
    """One that is there."""
    await client.cancel("there")


async def ended(call: asyncio.Task[None]) -> BaseException | None:
    """What the call has failed with, if it has; fails the test where it is not an answer."""
    await asyncio.wait({call}, timeout=SOON)
    assert call.done(), "the call did not end"
    assert not call.cancelled(), "the call was cancelled, by nobody"
    return call.exception()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "call", [add_one, add_many, look_at_a_job, count, wait_for_a_result, cancel_a_job]
)
async def test_calls_that_connect_fail_when_the_client_is_closed(
    make_settings: MakeSettings, proxy: TcpProxy, call: Call
) -> None:
    """The server has not answered yet: they are told so, and not cancelled."""
    client = JobClient(make_settings(redis_url=proxy.url))
    proxy.hold()
    calling = asyncio.ensure_future(call(client))
    await wait_until(lambda: proxy.links, what="a connection")

    await client.close()
    proxy.resume()

    assert isinstance(await ended(calling), RedisUnavailable)
    await wait_until(lambda: not proxy.links, timeout=1.0, what="the end of every connection")


@pytest.mark.asyncio
@pytest.mark.parametrize("call", [add_one, add_many, wait_for_a_result])
async def test_a_client_that_is_closed_during_a_call_stays_closed(
    make_settings: MakeSettings, server_url: str, redis: Redis, call: Call
) -> None:
    """In whichever turn of the loop it is closed, the call is answered or fails."""
    with BlockingRedis.from_url(server_url) as fence:
        fence.ping()
        before = {each["id"] for each in await redis.client_list()}

        async def all_closed() -> bool:
            return {each["id"] for each in await redis.client_list()} <= before

        for turns in [*range(1, 20)] * 5:
            client = JobClient(make_settings())
            await client.enqueue("work", job_id="there")
            calling = asyncio.ensure_future(call(client))
            for _ in range(turns):
                await asyncio.sleep(0)
                fence.ping()  # the answers to what was sent before the first of them
                fence.ping()  # are on their way to us before that to the second

            await client.close()

            try:
                error = await ended(calling)
                assert error is None or isinstance(error, RedisUnavailable)
                await wait_until(all_closed, timeout=1.0, what="the end of every connection")
            finally:
                calling.cancel()
                await client.close()
