"""A client whose calls fail half-way, that changes loops, is closed early, or reads nonsense."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import ConfigurationError, JobNotRunning, RedisUnavailable
from tests.faults.harness import lasting
from tests.support.kept import kept
from tests.support.proxy import Link, Swallow, TcpProxy
from tests.support.service import Service, says, service
from tests.support.waiting import wait_until

MakeSettings = Callable[..., Settings]
SOON = 5.0
# The last job of a list has it, and so the last write of the list's last pipeline.
LAST = b"the-last-of-them"


@pytest.fixture
def proxy(server: EmbeddedServer, start_proxy: Callable[[EmbeddedServer], TcpProxy]) -> TcpProxy:
    """The network between a client and its server; its links are the client's connections."""
    return start_proxy(server)


class ThenHold(Swallow):
    """Passes so many replies on, to requests that contain ``matching``; then the link stalls."""

    def __init__(self, link: Link, count: int, matching: bytes) -> None:
        super().__init__(count, matching, cut=False)
        self._link = link

    def takes(self, request: bytes) -> bool:
        """Keep nothing."""
        if super().takes(request) and self.done.is_set():
            self._link.apply("hold")
        return False


def hold_after_replies(
    proxy: TcpProxy, link: Link, count: int = 1, *, matching: bytes = b""
) -> Swallow:
    """Have the link stall once it has passed so many replies to such requests on."""
    order = ThenHold(link, count, matching)
    proxy.call(lambda: setattr(link, "swallow", order))
    return order


# adding, and waking


async def add_one(client: JobClient) -> None:
    """One job."""
    await client.enqueue("work", {"mark": LAST.decode()})


async def add_many(client: JobClient) -> None:
    """More jobs than one pipeline has; the last of them are in another than the first."""
    jobs = [{"name": "work", "data": {"number": number}} for number in range(600)]
    await client.enqueue_many([*jobs, {"name": "work", "data": {"mark": LAST.decode()}}])


async def add_before(settings: Settings) -> None:
    """A job that is there already, and with it the scripts that add jobs."""
    async with JobClient(settings) as client:
        await client.enqueue("work")


async def is_waked(there: Service) -> bool:
    """Whether the service is asked for work."""
    with suppress(TimeoutError):
        await asyncio.wait_for(there.asked(1), SOON / 2)
    return bool(there.requests)


@pytest.mark.asyncio
@pytest.mark.parametrize("adding", [add_one, add_many])
async def test_jobs_whose_answer_is_lost_wake_the_service(
    make_settings: MakeSettings,
    redis: Redis,
    queue_name: str,
    proxy: TcpProxy,
    adding: Callable[[JobClient], Awaitable[None]],
) -> None:
    """The call fails, and may be tried again; what it has added is run all the same."""
    await add_before(make_settings())
    async with service(says()) as there:
        client = JobClient(make_settings(redis_url=proxy.url, wake_url=there.url))
        proxy.swallow_replies(2, matching=LAST, cut=True)
        with pytest.raises(RedisUnavailable):
            await adding(client)
        waked = await is_waked(there)
        await client.close()

    assert await redis.llen(f"bull:{queue_name}:wait") > 1
    assert waked


@pytest.mark.asyncio
@pytest.mark.parametrize("adding", [add_one, add_many])
async def test_jobs_whose_caller_lost_patience_wake_the_service(
    make_settings: MakeSettings,
    redis: Redis,
    queue_name: str,
    proxy: TcpProxy,
    adding: Callable[[JobClient], Awaitable[None]],
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
        waked = await is_waked(there)
        await client.close()

    assert await redis.llen(f"bull:{queue_name}:wait") > 1
    assert waked


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
        waked = await is_waked(there)
        await client.close()

    assert await redis.llen(f"bull:{queue_name}:wait") == 1
    assert waked


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "command",
    [
        ("failed", "retry", "--all"),
        ("migrate", "--from", "{queue},{queue}-broken", "--to", "{queue}-new", "--yes"),
    ],
    ids=["retry", "migrate"],
)
async def test_a_command_that_fails_half_way_wakes_the_service(
    server_url: str, redis: Redis, queue_name: str, command: tuple[str, ...]
) -> None:
    """The jobs of the first queue are back or moved when the second one's are refused."""
    mapping: Any = {"name": "work", "data": "{}", "opts": "{}", "failedReason": "x", "atm": 1}
    await redis.hset(f"bull:{queue_name}:1", mapping=mapping)
    await redis.zadd(f"bull:{queue_name}:failed", {"1": time.time() * 1000})
    await redis.zadd(f"bull:{queue_name}-broken:failed", {"2": time.time() * 1000})
    await redis.set(f"bull:{queue_name}-broken:2", "no hash")
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
    """The earlier one was due in the loop that is closed: the later one is waked for here."""
    async with service(says()) as there:
        client = JobClient(make_settings(wake_url=there.url))
        await asyncio.to_thread(asyncio.run, client.enqueue("work", delay=0.9))
        await client.enqueue("work", delay=1.2)
        waked = await is_waked(there)
        await client.close()

    assert waked


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


async def add_a_list(client: JobClient) -> None:
    """As many jobs as need several pipelines."""
    await client.enqueue_many([{"name": "work"}] * 600)


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
    """What the call has failed with, if it has; fails the test where it is no answer."""
    await asyncio.wait({call}, timeout=SOON)
    assert call.done(), "the call did not end"
    assert not call.cancelled(), "the call was cancelled, by nobody"
    return call.exception()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "call", [add_one, add_a_list, look_at_a_job, count, wait_for_a_result, cancel_a_job]
)
async def test_calls_that_connect_fail_when_the_client_is_closed(
    make_settings: MakeSettings, proxy: TcpProxy, call: Callable[[JobClient], Awaitable[None]]
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
@pytest.mark.parametrize("call", [add_one, add_a_list, wait_for_a_result])
async def test_a_client_that_is_closed_during_a_call_stays_closed(
    make_settings: MakeSettings, redis: Redis, call: Callable[[JobClient], Awaitable[None]]
) -> None:
    """In whichever turn of the loop: the call is answered, or fails; none connects again."""
    before = {each["id"] for each in await redis.client_list()}

    async def all_closed() -> bool:
        return {each["id"] for each in await redis.client_list()} <= before

    for turns in range(1, 80):
        client = JobClient(make_settings())
        await client.enqueue("work", job_id="there")
        calling = asyncio.ensure_future(call(client))
        for _ in range(turns):
            await asyncio.sleep(0)

        await client.close()

        try:
            error = await ended(calling)
            assert error is None or isinstance(error, RedisUnavailable | JobNotRunning)
            await wait_until(all_closed, timeout=1.0, what="the end of every connection")
        finally:
            calling.cancel()
            await client.close()


# reading events


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


@pytest.mark.asyncio
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


@pytest.mark.asyncio
async def test_a_stream_that_is_watched_while_another_is_read_is_read_too(
    make_settings: MakeSettings, redis: Redis, queue_name: str, proxy: TcpProxy
) -> None:
    """The read of the one is on its way when the other one's watch begins."""
    queues = (queue_name, f"{queue_name}-2")
    settings, work = make_settings(queues=queues), Work()
    async with JobClient(settings.replace(redis_url=proxy.url)) as client:
        there = await client.enqueue("work", delay=3600)
        read = client.watch(there)
        first = asyncio.ensure_future(anext(read))
        await listening(redis)
        reader = proxy.links[1]
        hold_after_replies(proxy, reader, matching=b"XREAD")
        told: Any = {"event": "progress", "jobId": there, "data": "1"}
        await redis.xadd(f"bull:{queue_name}:events", told)
        await first

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
        await read.aclose()

    assert result.result() == "done"


@pytest.mark.asyncio
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


@pytest.mark.asyncio
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
