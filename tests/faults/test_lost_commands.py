"""Commands after which the connection is lost: the job ends with a reason, and no other notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import ConfigurationError, JobFailed, RedisUnavailable
from tests.support.scripted import ScriptedProxy, Trouble
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

MEGABYTE = 2**20
LARGE = 3 * MEGABYTE


@pytest.fixture
def tight_server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    """A server that closes a connection on which it is sent more than a megabyte at once."""
    return start_server(options={"client-query-buffer-limit": "1mb"})


def _handlers() -> HandlerRegistry:
    handlers = HandlerRegistry()

    @handlers.audio("result")
    async def result(job: Job[Any]) -> Any:
        return "x" * job.data

    @handlers.audio("failure")
    async def failure(job: Job[Any]) -> None:
        raise ValueError("no such voice " + "x" * job.data)

    @handlers.audio("progress")
    async def progress(job: Job[Any]) -> str:
        for _ in range(10):
            await job.progress("x" * job.data)
            await asyncio.sleep(0.05)
        return "done"

    @handlers.audio("children")
    async def children(job: Job[Any]) -> None:
        await job.enqueue_children([Child("result", "x" * job.data)])

    @handlers.audio("data")
    async def data(job: Job[Any]) -> None:
        await job.update_data("x" * job.data)

    @handlers.audio("step")
    async def step(job: Job[Any]) -> None:
        async def synthesize() -> str:
            return "x" * int(job.data)

        await job.step("speech", synthesize)

    @handlers.audio("short")
    async def short(job: Job[Any]) -> Any:
        await asyncio.sleep(0.02 if job.data else 1.5)  # the first is renewed
        return job.data

    return handlers


@asynccontextmanager
async def _working(url: str, queue: str, **more: Any) -> AsyncIterator[tuple[Worker, JobClient]]:
    given: dict[str, Any] = {
        "redis_url": url,
        "queues": (queue,),
        "idle_min": 0.5,
        "idle_max": 1.0,
        "progress_interval": 0.05,
        "lock_duration": 30.0,
    }
    settings = Settings(**{**given, **more})
    async with Worker(_handlers(), settings) as worker, JobClient(settings) as client:
        yield worker, client


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("result", r"its result of 3145\d+ bytes was sent 4 times.*query-buffer-limit"),
        ("failure", r"no such voice x+ … \(\d+ bytes with its stack"),
        ("children", rf"data of its children, up to {LARGE + 2} bytes.*query-buffer-limit"),
    ],
)
async def test_what_the_server_does_not_take_fails_its_job_and_no_other(
    tight_server: ServerProcess, queue_name: str, name: str, reason: str
) -> None:
    """After a few tries on a connection of its own; before, it was sent for ever."""
    with capture_logs() as logs:
        async with _working(tight_server.url, queue_name) as (_, client):
            large = await client.enqueue(name, LARGE, attempts=1)
            others = await client.enqueue_many([{"name": "short", "data": n} for n in range(1, 51)])

            with pytest.raises(JobFailed, match=f"(?s){reason}"):
                await client.result(large, timeout=10)
            assert [await client.result(one, timeout=10) for one in others] == [*range(1, 51)]
    given_up = [line for line in logs if line["event"] == "job.write_given_up"]
    assert [line["job_id"] for line in given_up] == [large]
    lost = [line["job_id"] for line in logs if line["event"] == "job.write_lost"]
    assert lost.count(large) == 3
    assert all(lost.count(one) <= 1 for one in others)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("data", r"the job's new data of 3145\d+ bytes was sent 4 times.*query-buffer-limit"),
        ("step", r"the result of step 'speech' of 3145\d+ bytes was sent 4 times.*buffer-limit"),
    ],
)
async def test_what_a_handler_writes_and_the_server_does_not_take_fails_its_job_and_no_other(
    tight_server: ServerProcess, queue_name: str, name: str, reason: str
) -> None:
    """It was sent eleven times with all that others sent, for longer and longer."""
    more = {"step_size_limit": 2**23, "concurrency": 2}
    async with _working(tight_server.url, queue_name, **more) as (worker, client):
        large = await client.enqueue(name, LARGE, attempts=1)
        others = await client.enqueue_many([{"name": "short", "data": n} for n in range(1, 51)])

        with pytest.raises(JobFailed, match=f"(?s){reason}"):
            await client.result(large, timeout=10)
        assert [await client.result(one, timeout=10) for one in others] == [*range(1, 51)]
    assert worker.stats()["outcomes"] == {"completed": 50, "failed": 1}


@pytest.mark.parametrize("name", ["data", "step"])
async def test_what_a_handler_writes_is_not_sent_where_it_may_not_be(
    server: EmbeddedServer, queue_name: str, name: str
) -> None:
    async with _working(server.url, queue_name, max_command_size=2**16) as (_, client):
        job_id = await client.enqueue(name, 2**16, attempts=1)

        with pytest.raises(JobFailed, match="no more than 65536 bytes are sent"):
            await client.result(job_id, timeout=10)


async def test_what_the_server_refuses_for_its_size_fails_its_job(
    server: EmbeddedServer, queue_name: str
) -> None:
    """By an error reply, as Upstash does it; before, it was sent six times, ever more seldom."""
    with ScriptedProxy(server.port) as proxy:
        async with _working(proxy.url, queue_name) as (_, client):
            reply = "ERR max request size exceeded. Limit: 10485760 bytes"
            proxy.arm(Trouble("error", "moveToFinished", reply=reply))
            job_id = await client.enqueue("result", LARGE, attempts=1)

            with pytest.raises(JobFailed, match=rf"its result of 3145\d+ bytes.*{reply}"):
                await client.result(job_id, timeout=10)


async def test_progress_that_the_server_does_not_take_is_given_up(
    tight_server: ServerProcess, queue_name: str
) -> None:
    """It is news, and not the job; the job completes."""
    with capture_logs() as logs:
        async with _working(tight_server.url, queue_name) as (_, client):
            job_id = await client.enqueue("progress", LARGE)
            assert await client.result(job_id, timeout=10) == "done"
    lost = [line["error"] for line in logs if line["event"] == "job.report_lost"]
    # A write that finds no connection is lost too, and is not to blame for that.
    blamed = [error for error in lost if not error.startswith("not connected")]
    assert 1 <= len(blamed) <= 3, lost


async def test_a_job_that_the_server_does_not_take_is_an_error_that_says_so(
    tight_server: ServerProcess, queue_name: str
) -> None:
    """The client's other calls go on; a known limit is checked before anything is sent."""
    async with _working(tight_server.url, queue_name) as (_, client):
        adding = asyncio.create_task(client.enqueue("short", "x" * LARGE))
        others = await asyncio.gather(*[client.enqueue("short", n) for n in range(1, 21)])

        with pytest.raises(RedisUnavailable, match=rf"data of short was sent, {LARGE + 2} bytes"):
            await adding
        assert [await client.result(one, timeout=10) for one in others] == [*range(1, 21)]
    async with _working(tight_server.url, queue_name, max_command_size=MEGABYTE) as (_, client):
        before = client.counter.client_sent
        with pytest.raises(ConfigurationError, match="CONVOLAB_MAX_COMMAND_SIZE"):
            await client.enqueue("short", "x" * LARGE)
        assert client.counter.client_sent == before
        with pytest.raises(JobFailed, match=r"no more than 1048576 bytes"):
            await client.result(await client.enqueue("result", LARGE), timeout=10)


# The commands of a job's life, by the name that the proxy knows them by.
COMMANDS = ("moveToActive", "moveToFinished", "extendLocks", "BZPOPMIN", "EXISTS", "CLIENT")


def _lose(proxy: ScriptedProxy, command: str, times: int) -> None:
    for nth in range(1, times + 1):
        proxy.arm(Trouble("cut", command, nth=nth))


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_connection_that_is_lost_at_a_command_costs_no_job(
    server: EmbeddedServer, queue_name: str, command: str, times: int
) -> None:
    """Once or thrice: all jobs complete."""
    data = range(0 if command == "extendLocks" else 1, 6)
    with ScriptedProxy(server.port) as proxy:
        async with _working(proxy.url, queue_name, lock_duration=2.0) as (worker, client):
            await client.counts()  # it is connected
            _lose(proxy, command, times)
            ids = await client.enqueue_many([{"name": "short", "data": n} for n in data])
            got = [await client.result(one, timeout=20) for one in ids]
            free = worker.stats()["free"]
    assert got == [*data]
    assert free == 8


LONG = [
    pytest.param(command, marks=pytest.mark.long)
    for command in ("moveToActive", "BZPOPMIN", "EXISTS", "CLIENT")
]


@pytest.mark.parametrize("command", ["moveToFinished", *LONG])
async def test_a_connection_that_is_always_lost_at_a_command_is_met_with_calm(
    server: EmbeddedServer, queue_name: str, command: str
) -> None:
    """A growing pause between the attempts, and a word in the log; when it is over, it works."""
    with capture_logs() as logs, ScriptedProxy(server.port) as proxy:
        async with _working(proxy.url, queue_name) as (_, client):
            job_id = await client.enqueue("first", 1)  # which nobody handles
            _lose(proxy, command, 1000)
            job_id = await client.enqueue("short", 1)
            await asyncio.sleep(2)
            tried = len(proxy.done)
            proxy.heal()

            try:
                assert await client.result(job_id, timeout=30) == 1
            except JobFailed as failed:
                assert "the connection was lost" in failed.reason  # noqa: PT017 - or it completes
    assert tried < 30
    assert {"job.write_lost", "redis.unstable", "redis.unavailable"} & {
        line["event"] for line in logs
    }


async def test_renewals_that_are_lost_each_time_come_ever_more_seldom(
    server: EmbeddedServer, queue_name: str
) -> None:
    """Every eighth of a lock, as long as that may save it; once it has run out, less often."""
    with capture_logs() as logs, ScriptedProxy(server.port) as proxy:
        async with _working(proxy.url, queue_name, lock_duration=1.0) as (_, client):
            _lose(proxy, "extendLocks", 1000)
            await client.enqueue("short", 0)
            await wait_until(lambda: proxy.done, what="a loss")
            await asyncio.sleep(0.5)
            await client.enqueue("short", 0)  # so that there is always a lock to renew
            await asyncio.sleep(0.5)
            early = len(proxy.done)
            await client.enqueue("short", 0)
            await asyncio.sleep(1.6)
            late = len(proxy.done) - early
            proxy.heal()
    assert 1 <= late <= 6
    assert "locks.not_renewed" in {line["event"] for line in logs}
