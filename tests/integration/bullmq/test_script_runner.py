"""How scripts reach a server: each text once, however many calls want it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import JobClient, Settings
from convolab_worker.bullmq.protocol import client_calls
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.script_runner import run_pipeline, run_script
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.connection import Connection
from convolab_worker.errors import RedisRefused, ReplyLost
from tests.support.commandstats import CommandCounts, counted_commands
from tests.support.server import ServerProcess

pytestmark = pytest.mark.asyncio
KEYS = QueueKeys("bull", "q")
MANY = 3000


class ColdServer:
    """A server that knows no script yet, and connections to it."""

    def __init__(self, url: str, redis: Any, stack: AsyncExitStack) -> None:
        self.url = url
        self.redis = redis
        self._stack = stack

    async def connect(self, url: str | None = None, timeout: float = 10.0) -> Connection:
        """Open a connection."""
        address = Address.parse(url or self.url)
        connection = Connection(address, timeout=timeout, counter=CommandCounter())
        await connection.open()
        self._stack.push_async_callback(connection.close)
        return connection

    async def waiting(self) -> list[str]:
        """The ids of the jobs that wait, the first to be fetched first."""
        ids: list[str] = await self.redis.lrange(KEYS["wait"], 0, -1)
        return ids[::-1]

    async def bytes_received(self) -> int:
        """What all clients have sent so far."""
        stats = await self.redis.info("stats")
        return int(stats["total_net_input_bytes"])


@pytest_asyncio.fixture
async def cold(start_server: Callable[[], ServerProcess]) -> AsyncIterator[ColdServer]:
    """A server of the test's own."""
    server = start_server()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(server.url, decode_responses=True))
        yield ColdServer(server.url, redis, stack)


def adding(job_id: str, **opts: Any) -> Call:
    """The call that adds a job."""
    return client_calls.add_job(KEYS, NewJob(id=job_id, name="n", data="{}", opts=opts), 1)


def texts(counted: CommandCounts) -> int:
    """How many texts of scripts were sent."""
    return counted.calls.get("eval", 0)


async def add_many(connection: Connection) -> list[Any]:
    """Add jobs with three different scripts, all at once."""
    kinds: list[dict[str, Any]] = [{}, {"delay": 60_000}, {"priority": 1}]
    adds = [adding(f"job-{n}", **kinds[n % 3]) for n in range(MANY)]
    return await asyncio.gather(*[run_script(connection, Purpose.ENQUEUE, call) for call in adds])


async def test_many_calls_at_once_send_each_text_once(cold: ColdServer) -> None:
    """All others wait for the first call of their script."""
    connection = await cold.connect()

    async with counted_commands(cold.redis) as counted:
        ids = await add_many(connection)

    assert ids == [f"job-{n}".encode() for n in range(MANY)]
    assert texts(counted) == 3
    assert counted.calls["evalsha"] == MANY  # three of them were answered with NOSCRIPT
    assert connection.counter.sent[Purpose.ENQUEUE] == MANY + 3


async def test_each_connection_sends_a_text_once_at_most(cold: ColdServer) -> None:
    """No connection waits for another."""
    connections = [await cold.connect() for _ in range(4)]

    async with counted_commands(cold.redis) as counted:
        await asyncio.gather(*[add_many(connection) for connection in connections])

    assert 3 <= texts(counted) <= 3 * len(connections)


async def test_a_cold_server_is_sent_little_more_than_a_warm_one(
    cold: ColdServer, make_settings: Callable[..., Settings]
) -> None:
    """By bytes, through the client: thousands of enqueues at once."""

    async def sent() -> int:
        before = await cold.bytes_received()
        async with JobClient(make_settings(redis_url=cold.url)) as client:
            await asyncio.gather(*[client.enqueue("work", {"n": n}) for n in range(MANY)])
        return await cold.bytes_received() - before

    cold_bytes, warm_bytes = await sent(), await sent()

    assert cold_bytes < warm_bytes + 50_000


async def test_a_server_that_forgot_its_scripts_gets_each_text_once_again(
    cold: ColdServer,
) -> None:
    """SCRIPT FLUSH, or a restart behind a proxy: the connection knows nothing of it."""
    connection = await cold.connect()
    await add_many(connection)
    await cold.redis.script_flush()
    await cold.redis.flushall()

    async with counted_commands(cold.redis) as counted:
        ids = await add_many(connection)

    assert len(ids) == MANY
    assert texts(counted) == 3


@pytest.mark.parametrize("is_known", [False, True], ids=["cold", "flushed"])
async def test_a_pipeline_keeps_its_order_and_sends_each_text_once(
    cold: ColdServer, *, is_known: bool
) -> None:
    """Scripts that are new to the server stand in the middle, too."""
    connection = await cold.connect()
    if is_known:
        await run_pipeline(connection, Purpose.ENQUEUE, [adding("a"), adding("b", delay=60_000)])
        await cold.redis.script_flush()
        await cold.redis.flushall()
    ids = [f"job-{n}" for n in range(300)]
    adds = [adding(job_id) for job_id in ids]
    adds.insert(150, adding("late", delay=60_000))

    async with counted_commands(cold.redis) as counted:
        answers = await run_pipeline(connection, Purpose.ENQUEUE, adds)

    assert [answer.decode() for answer in answers] == [*ids[:150], "late", *ids[150:]]
    assert await cold.waiting() == ids
    assert texts(counted) == 2


@pytest.mark.parametrize("is_known", [False, True], ids=["cold", "known"])
async def test_a_pipeline_is_counted_by_what_was_executed(
    cold: ColdServer, *, is_known: bool
) -> None:
    """Commands inside the scripts, of those that were not refused."""
    connection = await cold.connect()
    if is_known:
        await run_pipeline(connection, Purpose.ENQUEUE, [adding("first")])
    before = connection.counter.inner[Purpose.ENQUEUE]
    await cold.redis.set(KEYS["prioritized"], "no set")
    adds = [adding("1"), adding("2", priority=1), adding("3")]

    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        await run_pipeline(connection, Purpose.ENQUEUE, adds)

    assert set(await cold.waiting()) >= {"1", "3"}
    counted = connection.counter.inner[Purpose.ENQUEUE] - before
    assert counted == (adds[0].inner or 0) + (adds[2].inner or 0) > 0


async def test_calls_that_waited_go_on_when_the_first_is_refused(cold: ColdServer) -> None:
    """A key of another type stops the first call's script; the others' keys are whole."""
    connection = await cold.connect()
    other = QueueKeys("bull", "other")
    await cold.redis.set(other["wait"], "no list")
    job = NewJob(id="1", name="n", data="{}")
    adds = [client_calls.add_job(other, job, 1), *[adding(f"job-{n}") for n in range(50)]]

    async with counted_commands(cold.redis) as counted:
        answers = await asyncio.gather(
            *[run_script(connection, Purpose.ENQUEUE, call) for call in adds],
            return_exceptions=True,
        )

    assert isinstance(answers[0], RedisRefused)
    assert answers[1:] == [f"job-{n}".encode() for n in range(50)]
    assert texts(counted) == 1


async def test_calls_that_waited_go_on_when_the_first_is_cancelled(cold: ColdServer) -> None:
    """The next of them asks in its place."""
    connection = await cold.connect()
    running = [
        asyncio.create_task(run_script(connection, Purpose.ENQUEUE, adding(f"job-{n}")))
        for n in range(50)
    ]
    await asyncio.sleep(0)  # the first has sent its question, and the others wait

    running[0].cancel()
    with suppress(asyncio.CancelledError):
        await running[0]
    async with asyncio.timeout(10):
        ids = await asyncio.gather(*running[1:])

    assert ids == [f"job-{n}".encode() for n in range(1, 50)]


async def test_calls_that_waited_are_lost_with_the_first(cold: ColdServer) -> None:
    """None of them was executed: who asks again, when the connection is back, is answered."""
    connection = await cold.connect()
    running = [
        asyncio.create_task(run_script(connection, Purpose.ENQUEUE, adding(f"job-{n}")))
        for n in range(50)
    ]
    await asyncio.sleep(0)

    await connection.close()
    lost = await asyncio.gather(*running, return_exceptions=True)

    assert all(isinstance(error, ReplyLost) for error in lost)
    await connection.open()
    async with counted_commands(cold.redis) as counted:
        await add_many(connection)
    assert texts(counted) <= 3


async def test_a_call_whose_text_can_not_follow_is_lost_with_the_connection(
    cold: ColdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be sent again, as any call whose reply was lost."""
    connection = await cold.connect()
    ask = connection.call

    async def ask_and_hang_up(*command: Any) -> Any:
        try:
            return await ask(*command)
        finally:
            await connection.close()

    monkeypatch.setattr(connection, "call", ask_and_hang_up)

    with pytest.raises(ReplyLost):
        await run_script(connection, Purpose.ENQUEUE, adding("one"))


async def test_a_call_of_a_known_script_is_sent_before_the_next_command(cold: ColdServer) -> None:
    """What a caller sends in order, the server executes in order."""
    connection = await cold.connect()
    await run_script(connection, Purpose.ENQUEUE, adding("first"))

    adding_second = asyncio.gather(run_script(connection, Purpose.ENQUEUE, adding("second")))
    await asyncio.sleep(0)
    length = connection.call(Purpose.STATUS, "LLEN", KEYS["wait"])

    assert await length == 2
    await adding_second
