"""More calls at once than a server can take: bounded memory, no command twice, no false silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import JobClient, Settings
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.client.adding import enqueue
from convolab_worker.client.session import Session
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.route import Route
from convolab_worker.errors import RedisUnavailable, ReplyLost
from tests.support.commandstats import counted_commands
from tests.support.proxy import TcpProxy
from tests.support.server import ServerProcess
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
MOST_COMMANDS, MOST_BYTES = 1000, 2**23
MakeSession = Callable[[str], Session]


@pytest_asyncio.fixture
async def make_session() -> AsyncIterator[MakeSession]:
    """A client's connections to an address, closed in the end."""
    made: list[Session] = []

    def make(url: str) -> Session:
        route = Route(Address.parse(url))
        made.append(Session(route, timeout=5.0, counter=CommandCounter()))
        return made[-1]

    yield make
    for session in made:
        await session.close()


def add(session: Session, count: int, data: Any = None) -> list[asyncio.Task[str]]:
    """Add so many jobs, all at once."""
    keys = QueueKeys("bull", "flood")
    return [
        asyncio.create_task(
            enqueue.add(session, enqueue.addition("work", data, {}, lambda _: keys))
        )
        for _ in range(count)
    ]


async def test_a_flood_of_jobs_is_added_once_each_and_in_bounded_memory(
    make_settings: Callable[..., Settings],
    start_server: Callable[..., ServerProcess],
    queue_name: str,
) -> None:
    """It takes longer than a command may, and the server has not seen the script before."""
    settings = make_settings(redis_url=start_server().url, command_timeout=1.0)
    count = 20_000
    async with (
        JobClient(settings) as client,
        Redis.from_url(settings.redis_url, decode_responses=True) as redis,
    ):
        async with counted_commands(redis) as counts:
            ids = await asyncio.gather(*[client.enqueue("work") for _ in range(count)])

        assert len(set(ids)) == count
        assert await redis.llen(f"bull:{queue_name}:wait") == count
    sent = counts.calls["evalsha"] + counts.calls.get("eval", 0)
    assert count <= sent <= count + MOST_COMMANDS
    assert client.counter.client_sent <= count + MOST_COMMANDS + 10


@pytest.mark.parametrize(("data", "most"), [(None, MOST_COMMANDS), ("x" * 2**20, 8)])
async def test_what_is_sent_to_a_server_that_stands_still_is_bounded(
    start_server: Callable[..., ServerProcess],
    make_session: MakeSession,
    data: str | None,
    most: int,
) -> None:
    """By commands and by bytes; the rest waits for its turn, and none is lost."""
    server = start_server()
    session = make_session(server.url)
    await asyncio.gather(*add(session, 1))  # the script is known from here on
    server.suspend()
    adding = add(session, 3 * most, data)
    await wait_until(lambda: session.connection.unanswered >= most - 1)
    await asyncio.sleep(0)

    assert session.connection.unanswered <= most
    assert session.backlog.commands <= most
    assert session.backlog.size <= MOST_BYTES

    server.resume()
    assert len(set(await asyncio.gather(*adding))) == 3 * most
    assert (session.backlog.commands, session.backlog.size) == (0, 0)


async def test_calls_that_wait_for_their_turn_fail_with_those_before_them(
    start_server: Callable[..., ServerProcess],
    start_proxy: Callable[[ServerProcess], TcpProxy],
    make_session: MakeSession,
) -> None:
    """A server that is gone is found out once, not by one call after the other."""
    proxy = start_proxy(start_server())
    session = make_session(proxy.url)
    await asyncio.gather(*add(session, 1))
    proxy.hold()
    adding = add(session, 2 * MOST_COMMANDS)
    await wait_until(lambda: session.connection.unanswered == MOST_COMMANDS)

    proxy.cut(refuse=True)
    outcomes = await asyncio.wait_for(asyncio.gather(*adding, return_exceptions=True), 5.0)

    assert all(isinstance(outcome, RedisUnavailable) for outcome in outcomes)
    proxy.resume()
    assert await asyncio.gather(*add(session, 1))


async def connected(url: str, timeout: float) -> Connection:
    """An open connection."""
    connection = Connection(Address.parse(url), timeout=timeout, counter=CommandCounter())
    await connection.open()
    return connection


async def test_a_server_that_answers_is_not_silent_however_long_the_backlog(
    start_server: Callable[..., ServerProcess],
) -> None:
    """The last command waits twice as long as one may; answers arrive all the while."""
    connection = await connected(start_server().url, timeout=1.5)
    filling = b"x" * 2**16  # so much that the server reads, and answers, each by itself
    answers: list[Any] = []
    for _ in range(20):
        answers.append(connection.call(Purpose.STATUS, "DEBUG", "SLEEP", "0.15"))
        answers.append(connection.call(Purpose.STATUS, "ECHO", filling))

    answered = await asyncio.gather(*answers)
    await connection.close()

    assert answered == [b"OK", filling] * 20


async def test_a_server_that_falls_silent_is_given_up_in_time_after_its_last_byte(
    start_server: Callable[..., ServerProcess],
) -> None:
    """What it answered before counts, and what it answered for others does not for ever."""
    server = start_server()
    connection = await connected(server.url, timeout=0.5)
    assert await connection.call(Purpose.STATUS, "PING") == b"PONG"
    loop = asyncio.get_running_loop()

    server.suspend()
    begun = loop.time()
    with Stopwatch() as watch, pytest.raises(ReplyLost, match="in time") as lost:
        await connection.call(Purpose.STATUS, "PING")

    assert lost.value.silent
    assert loop.time() - begun > 0.4
    assert watch.seconds < 2.5
    server.resume()
