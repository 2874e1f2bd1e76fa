"""How a connection is opened, and what becomes of its calls when it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.connection import Connection
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import RedisUnavailable, ReplyLost
from tests.support.proxy import TcpProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio


def connection_to(url: str) -> Connection:
    """A connection that is not open yet."""
    return Connection(Address.parse(url), timeout=5.0, counter=CommandCounter())


@pytest.mark.parametrize("credentials", ["a-reader@", "a-reader:@", "?username=a-reader"])
async def test_a_user_without_a_password_is_logged_in_as_itself(
    server: EmbeddedServer, redis: Redis, credentials: str
) -> None:
    """And not as the default user, who may do more."""
    where, _, query = server.url.removeprefix("redis://").partition("?")
    url = f"redis://{where}{credentials}" if "?" in credentials else f"redis://{credentials}{where}"
    assert not query
    await redis.acl_setuser("a-reader", enabled=True, nopass=True, categories=["+@all"])
    connection = connection_to(url)
    try:
        await connection.open()
        assert await connection.call(Purpose.STATUS, "ACL", "WHOAMI") == b"a-reader"
    finally:
        await connection.close()
        await redis.acl_deluser("a-reader")


async def test_whoever_waits_for_a_connection_is_told_when_it_is_closed(
    server: EmbeddedServer, start_proxy: Callable[[EmbeddedServer], TcpProxy]
) -> None:
    """With an error, and not with a cancellation that nobody asked for."""
    proxy = start_proxy(server)
    proxy.hold()
    connection = connection_to(proxy.url)
    waiting = [asyncio.create_task(connection.open()) for _ in range(2)]
    await wait_until(lambda: proxy.links, what="a connection")

    waiting[0].cancel()
    await connection.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert isinstance(outcomes[1], RedisUnavailable)
    assert not connection.is_open


async def test_what_a_cluster_sends_on_ends_when_the_connection_is_closed() -> None:
    """The node that was named says nothing, and the command was sent to nobody yet."""
    named = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        named.set()
        await reader.read()
        writer.close()

    async def moved(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = other.sockets[0].getsockname()[1]
        while data := await reader.read(2**16):
            is_info = b"INFO" in data
            writer.write(b"+id=1 addr=a:1\r\n" if is_info else f"-MOVED 1 :{port}\r\n".encode())
        writer.close()

    async with AsyncExitStack() as servers:
        other = await servers.enter_async_context(
            await asyncio.start_server(silent, "127.0.0.1", 0)
        )
        first = await servers.enter_async_context(await asyncio.start_server(moved, "127.0.0.1", 0))
        connection = connection_to(f"redis://127.0.0.1:{first.sockets[0].getsockname()[1]}")
        await connection.open()
        answer: asyncio.Future[Any] = connection.call(Purpose.STATUS, "GET", "x")
        await named.wait()

        await connection.close()

        with pytest.raises(ReplyLost, match="closed"):
            await answer
