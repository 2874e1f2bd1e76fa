"""The pool of plain connections: when it opens one, and when it leaves a call to others."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from convolab_worker.connection.address import Address
from convolab_worker.connection.blocking import BlockingConnection, BlockingPool
from convolab_worker.connection.commands.usage import CommandCounter, Purpose
from convolab_worker.connection.route import Route
from convolab_worker.errors import RedisRefused, RedisUnavailable, ReplyLost
from tests.support.stopwatch import Stopwatch


class Server:
    """Opens connections whose other ends answer every command in the same way."""

    def __init__(self, answer: bytes | None) -> None:
        """Of None the connection is closed."""
        self._answer = answer
        self.route = Route(Address.parse("redis://localhost"))
        self.opened = 0

    def open(self) -> BlockingConnection:
        """Open a connection."""
        self.opened += 1
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return BlockingConnection(ours, timeout=5, route=self.route)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while connection.recv(1024) and self._answer is not None:
                connection.sendall(self._answer)


def pool_of(open_one: Any) -> tuple[BlockingPool, CommandCounter]:
    counter = CommandCounter()
    return BlockingPool(open_one, counter), counter


def test_calls_one_after_the_other_share_a_connection() -> None:
    server = Server(b"+OK\r\n")
    pool, counter = pool_of(server.open)

    answers = [pool.call(Purpose.ENQUEUE, "PING", inner=3) for _ in range(5)]
    pool.close()

    assert answers == [b"OK"] * 5
    assert server.opened == 1
    assert (counter.sent[Purpose.ENQUEUE], counter.inner[Purpose.ENQUEUE]) == (5, 15)


def test_a_connection_that_is_lent_when_the_pool_closes_is_closed_after_its_call() -> None:
    ours, theirs = socket.socketpair()
    route = Route(Address.parse("redis://localhost"))
    pool, counter = pool_of(lambda: BlockingConnection(ours, timeout=5, route=route))
    with theirs, ThreadPoolExecutor(1) as thread:
        theirs.settimeout(5)
        call = thread.submit(pool.call, Purpose.ENQUEUE, "PING")
        assert theirs.recv(1024)  # the connection is lent

        pool.close()
        theirs.sendall(b"+OK\r\n")

        assert call.result(5) == b"OK"
        assert theirs.recv(1024) == b""
    assert counter.sent[Purpose.ENQUEUE] == 1
    assert pool.call(Purpose.ENQUEUE, "PING") is None


@pytest.mark.parametrize("news", ["another server", "other credentials"])
def test_a_connection_that_is_out_of_date_is_used_no_more(news: str) -> None:
    server = Server(b"+OK\r\n")
    pool, _ = pool_of(server.open)
    pool.call(Purpose.ENQUEUE, "PING")
    if news == "another server":
        server.route.give_up_server(0, "the test says so")
    else:
        server.route.login += 1

    assert pool.call(Purpose.ENQUEUE, "PING") == b"OK"
    pool.close()

    assert server.opened == 2


@pytest.mark.parametrize("answer", [b"-NOSCRIPT No matching script\r\n", b"-READONLY no\r\n"])
def test_what_was_not_done_is_left_to_others(answer: bytes) -> None:
    pool, _ = pool_of(Server(answer).open)

    assert pool.call(Purpose.ENQUEUE, "EVALSHA", "x", 0) is None
    pool.close()


def test_a_refusal_is_raised_and_the_connection_kept() -> None:
    server = Server(b"-WRONGTYPE no list\r\n")
    pool, _ = pool_of(server.open)

    for _ in range(2):
        with pytest.raises(RedisRefused, match="WRONGTYPE"):
            pool.call(Purpose.ENQUEUE, "LPUSH", "k", "x")
    pool.close()

    assert server.opened == 1


def test_after_a_lost_reply_no_connection_is_opened_for_a_while() -> None:
    server = Server(None)
    pool, _ = pool_of(server.open)

    with pytest.raises(ReplyLost, match="closed the connection"):
        pool.call(Purpose.ENQUEUE, "PING")

    assert pool.call(Purpose.ENQUEUE, "PING") is None
    assert server.opened == 1


@pytest.mark.parametrize("error", [None, RedisUnavailable("away")])
def test_where_there_can_be_none_no_call_is_made(error: Exception | None) -> None:
    """Under TLS it is asked once; while Redis is away, once in a while."""
    asked: list[int] = []

    def open_one() -> None:
        asked.append(1)
        if error is not None:
            raise error

    pool, _ = pool_of(open_one)

    assert [pool.call(Purpose.ENQUEUE, "PING") for _ in range(3)] == [None] * 3
    assert asked == [1]


@pytest.fixture
def silent() -> Iterator[tuple[BlockingConnection, socket.socket]]:
    """A connection whose commands may take 0.2 s, and its other end, which nobody reads."""
    ours, theirs = socket.socketpair()
    route = Route(Address.parse("redis://localhost"))
    with theirs:
        connection = BlockingConnection(ours, timeout=0.2, route=route)
        yield connection, theirs
        connection.close()


def _in_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result(10)


@pytest.mark.parametrize("runs", [_in_a_thread, lambda call: call()], ids=["thread", "main"])
@pytest.mark.parametrize("size", [10, 2**23], ids=["unanswered", "unread"])
def test_a_server_that_is_silent_is_given_up_in_time(
    silent: tuple[BlockingConnection, socket.socket], runs: Callable[..., Any], size: int
) -> None:
    connection, _ = silent

    began = time.monotonic()
    with Stopwatch() as watch, pytest.raises(ReplyLost, match="in time|timed out"):
        runs(lambda: connection.call("SET", "k", "x" * size))

    assert time.monotonic() - began > 0.1
    assert watch.seconds < 5


def test_signals_do_not_make_the_wait_longer(
    silent: tuple[BlockingConnection, socket.socket],
) -> None:
    """In the main thread, where they are handled: a profiler's, say."""
    connection, theirs = silent
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    # It would end a wait that begins anew with each signal, after all.
    gives_up = threading.Timer(5, theirs.shutdown, (socket.SHUT_RDWR,))
    gives_up.start()
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with Stopwatch() as watch, pytest.raises(ReplyLost, match="in time"):
            connection.call("PING")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gives_up.cancel()

    assert heard
    assert watch.seconds < 3


def test_what_a_socket_has_no_room_for_is_sent_all_the_same(
    silent: tuple[BlockingConnection, socket.socket],
) -> None:
    """And the next call waits as any other."""
    connection, theirs = silent
    size = 2**23

    def serve() -> None:
        received = 0
        while received < size:
            received += len(theirs.recv(2**16))
        theirs.sendall(b"+OK\r\n")

    serving = threading.Thread(target=serve)
    serving.start()

    assert _in_a_thread(lambda: connection.call("SET", "k", "x" * size)) == b"OK"
    serving.join()
    with pytest.raises(ReplyLost, match="in time"):
        _in_a_thread(lambda: connection.call("PING"))


class _WideTimes(socket.socket):
    """As on a 32-bit system that counts seconds in 64 bits."""

    def setsockopt(self, *_: Any) -> None:
        raise OSError(22, "Invalid argument")


class _NeverBlocking(socket.socket):
    """As gevent's, whose descriptors never block."""

    def settimeout(self, value: float | None, /) -> None:
        super().settimeout(value)
        os.set_blocking(self.fileno(), False)


@pytest.mark.parametrize("kind", [_WideTimes, _NeverBlocking])
def test_where_the_kernel_can_not_wait_python_does(kind: type[socket.socket]) -> None:
    ours, theirs = socket.socketpair()
    route = Route(Address.parse("redis://localhost"))
    connection = BlockingConnection(kind(fileno=ours.detach()), 0.2, route)
    answers = threading.Timer(0.05, theirs.sendall, (b"+OK\r\n",))
    with theirs:
        answers.start()
        assert _in_a_thread(lambda: connection.call("PING")) == b"OK"
        with pytest.raises(ReplyLost, match="timed out"):
            _in_a_thread(lambda: connection.call("PING"))
    connection.close()
