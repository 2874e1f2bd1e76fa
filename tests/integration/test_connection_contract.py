"""What a connection promises, against Valkey and against fakeredis: one contract, two servers.

fakeredis is a second implementation of the protocol, in Python. docs/testing.md lists the parts of
the contract that it can't serve; these run against Valkey alone.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from fakeredis import TcpFakeServer

from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.connection import Connection
from convolab_worker.errors import RedisRefused, RedisUnavailable, ReplyLost
from tests.support.proxy import TcpProxy
from tests.support.server import ServerProcess

pytestmark = pytest.mark.asyncio

VALKEY, FAKEREDIS = "Valkey", "fakeredis"
MIB = 1024 * 1024


class FakeServer:
    """A TCP port of loopback with fakeredis behind it, in threads of this process."""

    def __init__(self) -> None:
        self.port = 0
        self._server: TcpFakeServer | None = None

    def start(self) -> None:
        self._server = TcpFakeServer(("127.0.0.1", self.port))
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="fakeredis"
        ).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()  # waits for the threads of its connections


Server = ServerProcess | FakeServer


@pytest.fixture(params=[VALKEY, FAKEREDIS])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this test's own, without data."""
    server: Server = ServerProcess() if request.param == VALKEY else FakeServer()
    server.start()
    yield server
    server.stop()


# For the parts that fakeredis can't serve; a comment at each says why.
only_valkey = pytest.mark.parametrize("own_server", [VALKEY], indirect=True)


class Connections:
    """Makes connections to one server, and closes them."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._made: list[Connection] = []
        self.counter = CommandCounter()

    def closed(
        self, credentials: str = "", path: str = "", *, port: int | None = None
    ) -> Connection:
        """Make a connection that is not open yet; ``port`` is a proxy's."""
        url = f"redis://{credentials}127.0.0.1:{port or self._server.port}{path}"
        connection = Connection(Address.parse(url), timeout=5.0, counter=self.counter)
        self._made.append(connection)
        return connection

    async def __call__(
        self, *address: str, port: int | None = None, name: str | None = None
    ) -> Connection:
        """Make an open connection, with that client name."""
        connection = self.closed(*address, port=port)
        connection.client_name = name
        await connection.open()
        return connection

    async def close(self) -> None:
        """Close them all."""
        for connection in self._made:
            await connection.close()


@pytest_asyncio.fixture
async def connect(own_server: Server) -> AsyncIterator[Connections]:
    """What makes connections to the server of this test."""
    connections = Connections(own_server)
    yield connections
    await connections.close()


# opening


async def test_calls_at_the_same_time_open_one_connection(connect: Connections) -> None:
    connection = connect.closed()

    await asyncio.gather(connection.open(), connection.open(), connection.open())

    assert connection.is_open
    assert connect.counter.sent == {"connect": 1}


async def test_the_server_gives_each_connection_an_id(connect: Connections) -> None:
    first, second = await connect(), await connect()

    assert isinstance(first.client_id, int)
    assert isinstance(second.client_id, int)
    assert first.client_id != second.client_id


async def test_a_user_and_a_password_are_sent_first(connect: Connections) -> None:
    admin = await connect()
    await admin.call(Purpose.STATUS, "ACL", "SETUSER", "berta", "on", ">secret", "~*", "+@all")

    connection = await connect("berta:secret@")

    assert await connection.call(Purpose.STATUS, "ACL", "WHOAMI") == b"berta"


async def test_a_password_alone_is_the_default_users(connect: Connections) -> None:
    admin = await connect()
    await admin.call(Purpose.STATUS, "CONFIG", "SET", "requirepass", "secret")

    connection = await connect(":secret@")

    assert await connection.call(Purpose.STATUS, "PING") == b"PONG"


@pytest.mark.parametrize("credentials", ["berta:wrong@", "nobody:secret@", ":wrong@"])
async def test_wrong_credentials_open_nothing(connect: Connections, credentials: str) -> None:
    admin = await connect()
    await admin.call(Purpose.STATUS, "ACL", "SETUSER", "berta", "on", ">secret", "~*", "+@all")
    await admin.call(Purpose.STATUS, "CONFIG", "SET", "requirepass", "secret")
    connection = connect.closed(credentials)

    with pytest.raises(RedisUnavailable, match="username-password pair"):
        await connection.open()

    assert not connection.is_open


# fakeredis serves clients that never sent a password.
@only_valkey
async def test_a_missing_password_opens_nothing(connect: Connections) -> None:
    admin = await connect()
    await admin.call(Purpose.STATUS, "CONFIG", "SET", "requirepass", "secret")

    with pytest.raises(RedisUnavailable, match="NOAUTH.* wants a password"):
        await connect()


async def test_the_database_of_the_address_is_selected_on_every_connect(
    connect: Connections,
) -> None:
    other = await connect()
    await other.call(Purpose.STATUS, "SET", "key", "in 0")
    connection = await connect("", "/3")
    await connection.call(Purpose.STATUS, "SET", "key", "in 3")

    await connection.close()
    await connection.open()

    assert await connection.call(Purpose.STATUS, "GET", "key") == b"in 3"
    assert await other.call(Purpose.STATUS, "GET", "key") == b"in 0"


async def test_a_database_that_the_server_does_not_have_opens_nothing(connect: Connections) -> None:
    connection = connect.closed("", "/99")

    with pytest.raises(RedisUnavailable, match="out of range"):
        await connection.open()

    assert not connection.is_open


async def test_the_name_is_set_on_connect(connect: Connections) -> None:
    connection = await connect(name="bull:dGVzdA==")

    assert await connection.call(Purpose.STATUS, "CLIENT", "GETNAME") == b"bull:dGVzdA=="


async def test_every_command_of_a_handshake_is_counted(connect: Connections) -> None:
    admin = await connect()
    await admin.call(Purpose.STATUS, "ACL", "SETUSER", "berta", "on", ">secret", "~*", "+@all")

    await connect("berta:secret@", "/3", name="bull:dGVzdA==")

    # CLIENT INFO for the first; AUTH, SELECT, CLIENT INFO and CLIENT SETNAME for the second.
    assert connect.counter.sent == {"connect": 5, "status": 1}


# calls and their answers


async def test_answers_come_in_the_order_of_the_calls(connect: Connections) -> None:
    connection = await connect()

    answers = await asyncio.gather(
        *(connection.call(Purpose.STATUS, "INCR", "count") for _ in range(1000))
    )

    assert answers == list(range(1, 1001))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"", b""),
        (bytes(range(256)), bytes(range(256))),
        (b"$3\r\nfoo\r\n+OK\r\n-ERR no\r\n", b"$3\r\nfoo\r\n+OK\r\n-ERR no\r\n"),
        ("喉 ✨ Grüße", "喉 ✨ Grüße".encode()),
        (b"\xff\xfe".decode("utf-8", "surrogateescape"), b"\xff\xfe"),
        (7, b"7"),
        (0.25, b"0.25"),
    ],
    ids=["empty", "every byte", "looks like answers", "text", "text of odd bytes", "int", "float"],
)
async def test_values_come_back_as_they_were(connect: Connections, sent: Any, kept: bytes) -> None:
    connection = await connect()

    await connection.call(Purpose.STATUS, "SET", "key", sent)

    assert await connection.call(Purpose.STATUS, "GET", "key") == kept


async def test_a_large_value_comes_back_whole(connect: Connections) -> None:
    connection, large = await connect(), bytes(range(256)) * (MIB // 256)

    commands = ("SET", "key", large), ("GET", "key"), ("STRLEN", "key")
    answers = await asyncio.gather(
        *(connection.call(Purpose.STATUS, *command) for command in commands)
    )

    assert answers == [b"OK", large, MIB]


# fakeredis's sockets take no answer larger than their buffer.
@only_valkey
async def test_a_value_larger_than_every_buffer_comes_back_whole(connect: Connections) -> None:
    connection, large = await connect(), bytes(range(256)) * (32 * MIB // 256)

    commands = ("SET", "key", large), ("GET", "key"), ("STRLEN", "key")
    answers = await asyncio.gather(
        *(connection.call(Purpose.STATUS, *command) for command in commands)
    )

    assert answers == [b"OK", large, 32 * MIB]


@only_valkey
async def test_a_connection_reads_more_at_once_after_large_answers(connect: Connections) -> None:
    """One that had none keeps little memory for them."""
    connection = await connect()
    await connection.call(Purpose.PROBE, "SET", "key", bytes(MIB))
    sizes = [len(connection.get_buffer(-1))]

    for _ in range(8):
        await connection.call(Purpose.PROBE, "GET", "key")
    sizes.append(len(connection.get_buffer(-1)))

    assert sizes == [16 * 1024, 256 * 1024]


async def test_answers_have_the_shape_that_the_server_gives_them(connect: Connections) -> None:
    connection = await connect()

    answers = await asyncio.gather(
        connection.call(Purpose.STATUS, "HSET", "hash", "field", "value", "other", 2),
        connection.call(Purpose.STATUS, "HMGET", "hash", "field", "none"),
        connection.call(Purpose.STATUS, "HGETALL", "hash"),
        connection.call(Purpose.STATUS, "GET", "none"),
        connection.call(Purpose.STATUS, "LRANGE", "none", 0, -1),
        connection.call(Purpose.STATUS, "XADD", "stream", "1-0", "event", "added"),
        connection.call(Purpose.STATUS, "XREAD", "STREAMS", "stream", "0"),
    )

    assert answers == [
        2,
        [b"value", None],
        [b"field", b"value", b"other", b"2"],
        None,
        [],
        b"1-0",
        [[b"stream", [[b"1-0", [b"event", b"added"]]]]],
    ]


async def test_the_commands_of_a_transaction_are_answered_together(connect: Connections) -> None:
    connection = await connect()

    commands = ("MULTI",), ("SET", "key", 1), ("INCR", "key"), ("EXEC",)
    answers = await asyncio.gather(
        *(connection.call(Purpose.STATUS, *command) for command in commands)
    )

    assert answers == [b"OK", b"QUEUED", b"QUEUED", [b"OK", 2]]


# error replies


async def test_an_error_reply_is_its_own_calls_alone(connect: Connections) -> None:
    connection = await connect()
    await connection.call(Purpose.STATUS, "SET", "text", "not a list")

    commands = ("INCR", "n"), ("LPUSH", "text", 1), ("NO-SUCH", "n"), ("GET",), ("INCR", "n")
    answers = await asyncio.gather(
        *(connection.call(Purpose.STATUS, *command) for command in commands), return_exceptions=True
    )

    assert (answers[0], answers[4]) == (1, 2)
    assert [type(answer) for answer in answers[1:4]] == [RedisRefused] * 3
    said = [str(answer).lower() for answer in answers[1:4]]
    assert "wrongtype operation against a key" in said[0]
    assert "unknown command 'no-such'" in said[1]
    assert "wrong number of arguments for 'get' command" in said[2]
    assert connection.is_open


async def test_what_a_user_may_not_do_is_an_error_reply(connect: Connections) -> None:
    admin = await connect()
    await admin.call(
        Purpose.STATUS, "ACL", "SETUSER", "guest", "on", ">secret", "~*", "+get", "+client"
    )
    connection = await connect("guest:secret@")

    with pytest.raises(RedisRefused, match=r"^NOPERM .*'?set'? command"):
        await connection.call(Purpose.STATUS, "SET", "key", "value")

    assert await connection.call(Purpose.STATUS, "GET", "key") is None


# fakeredis puts ERR before the code of every error.
@only_valkey
async def test_an_error_reply_begins_with_the_servers_code(connect: Connections) -> None:
    connection = await connect()
    await connection.call(Purpose.STATUS, "SET", "text", "not a list")

    with pytest.raises(RedisRefused, match="^WRONGTYPE "):
        await connection.call(Purpose.STATUS, "LPUSH", "text", 1)


# fakeredis does not know EVALSHA unless lupa is installed.
@only_valkey
async def test_a_script_that_the_server_does_not_have_is_an_error_reply(
    connect: Connections,
) -> None:
    connection = await connect()

    with pytest.raises(RedisRefused, match="^NOSCRIPT "):
        await connection.call(Purpose.STATUS, "EVALSHA", "0" * 40, 0)

    assert await connection.call(Purpose.STATUS, "EVAL", "return ARGV[1]", 0, "ran") == b"ran"


# waiting


async def test_a_blocked_read_ends_when_there_is_something(connect: Connections) -> None:
    reader, writer = await connect(), await connect()
    waiting = reader.call(Purpose.STATUS, "BZPOPMIN", "marker", 5)

    await writer.call(Purpose.STATUS, "ZADD", "marker", 7, "0")

    assert await waiting == [b"marker", b"0", b"7"]


async def test_a_call_behind_a_blocked_read_waits_for_its_answer(connect: Connections) -> None:
    connection = await connect()

    waiting, behind = (
        connection.call(Purpose.STATUS, "BZPOPMIN", "marker", 0.1),
        connection.call(Purpose.STATUS, "PING"),
    )

    assert await behind == b"PONG"
    assert waiting.done()
    assert waiting.result() is None


async def test_an_answer_that_is_late_closes_the_connection(connect: Connections) -> None:
    connection = await connect()
    lost: list[Exception] = []
    connection.on_lost = lost.append
    late = connection.call(Purpose.STATUS, "BZPOPMIN", "marker", 1.5, timeout=0.2)
    behind = connection.call(Purpose.STATUS, "PING")

    with pytest.raises(ReplyLost, match="no answer from Redis .* in time"):
        await late
    with pytest.raises(ReplyLost):
        await behind

    assert not connection.is_open
    assert [type(error) for error in lost] == [ReplyLost]


async def test_a_late_answer_reaches_no_call_of_the_next_connection(connect: Connections) -> None:
    connection, writer = await connect(), await connect()
    late = connection.call(Purpose.STATUS, "BZPOPMIN", "marker", 1.5, timeout=0.2)
    with pytest.raises(ReplyLost):
        await late

    await connection.open()
    await writer.call(Purpose.STATUS, "ZADD", "marker", 7, "0")

    assert await connection.call(Purpose.STATUS, "PING") == b"PONG"


# fakeredis's CLIENT INFO has no address that can be read, and CLIENT KILL closes nothing.
@only_valkey
async def test_a_connection_that_was_lost_is_killed_on_the_server(
    own_server: Server, connect: Connections
) -> None:
    admin = await connect()
    with TcpProxy(own_server.port) as proxy:
        connection = await connect(port=proxy.port)
        old = connection.client_id
        proxy.links[0].set_mode("drop")  # the server does not see that this connection ends
        with pytest.raises(ReplyLost):
            await connection.call(Purpose.STATUS, "PING", timeout=0.2)

        await connection.open()

        listed = (await admin.call(Purpose.STATUS, "CLIENT", "LIST")).decode()
        ids = [int(number) for number in re.findall(r"^id=(\d+)", listed, re.MULTILINE)]
        assert connection.client_id in ids
        assert old not in ids


# a server that closes


async def test_a_server_that_closes_fails_what_is_unanswered(
    own_server: Server, connect: Connections
) -> None:
    connection = await connect()
    lost: list[Exception] = []
    connection.on_lost = lost.append
    unanswered = connection.call(Purpose.STATUS, "BZPOPMIN", "marker", 0.3)

    await asyncio.to_thread(own_server.stop)

    with pytest.raises(ReplyLost, match="closed the connection"):
        await unanswered
    assert not connection.is_open
    assert [type(error) for error in lost] == [ReplyLost]


async def test_without_a_connection_no_call_is_sent(
    own_server: Server, connect: Connections
) -> None:
    connection = await connect()
    gone = asyncio.Event()
    connection.on_lost = lambda _: gone.set()
    await asyncio.to_thread(own_server.stop)
    await asyncio.wait_for(gone.wait(), 5)
    connect.counter.sent.clear()

    with pytest.raises(RedisUnavailable, match="not connected"):
        await connection.call(Purpose.STATUS, "PING")

    with pytest.raises(RedisUnavailable, match="can't be reached"):
        await connection.open()
    assert connect.counter.sent == {}


async def test_a_server_that_comes_back_is_connected_to_again(
    own_server: Server, connect: Connections
) -> None:
    connection = await connect("", "/3", name="bull:dGVzdA==")
    gone = asyncio.Event()
    connection.on_lost = lambda _: gone.set()
    await asyncio.to_thread(own_server.stop)
    await asyncio.wait_for(gone.wait(), 5)
    await asyncio.to_thread(own_server.start)

    await connection.open()

    assert await connection.call(Purpose.STATUS, "CLIENT", "GETNAME") == b"bull:dGVzdA=="


async def test_who_gets_an_answer_may_give_the_connection_up(connect: Connections) -> None:
    """It goes on while the answers behind its own, which lie there already, are still read."""
    connection = await connect()

    async def first() -> object:
        answer = await connection.call(Purpose.STATUS, "ECHO", "1")
        connection.abort("enough")
        return answer

    task = asyncio.create_task(first())
    await asyncio.sleep(0)
    others = [connection.call(Purpose.STATUS, "ECHO", "2") for _ in range(3)]

    assert await task == b"1"
    for other in others:
        with pytest.raises(ReplyLost, match="enough"):
            await other
    await connection.open()
    assert await connection.call(Purpose.STATUS, "ECHO", "3") == b"3"


async def test_closing_fails_what_is_unanswered(connect: Connections) -> None:
    connection = await connect()
    unanswered = connection.call(Purpose.STATUS, "BZPOPMIN", "marker", 0.3)

    await connection.close()

    with pytest.raises(ReplyLost, match="closed"):
        await unanswered
    assert not connection.is_open
