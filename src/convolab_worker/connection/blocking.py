"""Plain sockets to Redis for threads: one command, one answer, nothing repeated.

They only make a single call quicker. ``Connection`` opens them, since it knows addresses,
credentials and clusters; where anything goes wrong, the caller uses a ``Connection`` instead.
"""

from __future__ import annotations

import math
import os
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import hiredis

from convolab_worker.connection.commands.error_replies import cannot_serve
from convolab_worker.connection.commands.unanswered import pack
from convolab_worker.connection.connection import Connection
from convolab_worker.errors import RedisRefused, RedisUnavailable, ReplyLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.connection.commands.usage import CommandCounter, Purpose
    from convolab_worker.connection.route import Route

_READ_BYTES = 4096  # an answer has fewer
_SILENT = "no answer in time"
_MOST = 16
_PAUSE_SECONDS = 1.0


class BlockingConnection:
    """An open connection to the server of the ``route``, which one thread at a time may use."""

    def __init__(self, sock: socket.socket, timeout: float, route: Route) -> None:
        _wait_in_the_kernel(sock, timeout)
        self._route = route
        self._epoch, self._login = route.epoch, route.login
        self._socket = sock
        self._timeout = timeout
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._reader = hiredis.Reader(replyError=RedisRefused)

    @property
    def is_outdated(self) -> bool:
        """Whether its server was found unable to serve, or its login is one that ends."""
        return (self._epoch, self._login) != (self._route.epoch, self._route.login)

    def call(self, *args: Any) -> Any:
        """Send one command and return its answer.

        Raises RedisRefused for an error reply, and ReplyLost if the connection failed, after which
        this one can't be used any more.
        """
        try:
            self._send(pack(args))
            while (answer := self._reader.gets()) is False:
                received = self._receive()
                if not received:
                    msg = "Redis closed the connection"
                    raise ReplyLost(msg)
                self._reader.feed(received)
        except (OSError, hiredis.ProtocolError) as error:
            msg = f"a call of Redis failed: {error}"
            raise ReplyLost(msg) from error
        if isinstance(answer, RedisRefused):
            raise answer
        return answer

    def _send(self, packed: bytes) -> None:
        try:
            sent = self._socket.send(packed, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        if sent == len(packed):
            return
        # What the socket has no room for: Python's time-out bounds the whole of it.
        self._socket.settimeout(self._timeout)
        self._socket.sendall(memoryview(packed)[sent:])
        _wait_in_the_kernel(self._socket, self._timeout)

    def _receive(self) -> bytes:
        # A signal lets the kernel's time-out begin anew, and signals come to the main thread.
        is_main = threading.get_ident() == threading.main_thread().ident
        if is_main and not self._readable.poll(self._timeout * 1000):
            raise TimeoutError(_SILENT)
        try:
            return self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            raise TimeoutError(_SILENT) from None

    def close(self) -> None:
        self._socket.close()


def _wait_in_the_kernel(sock: socket.socket, timeout: float) -> None:
    """Let a read of the socket wait in the kernel, up to its time-out, where it can.

    With Python's time-outs each send and each read is two system calls, the first of which asks
    whether the second may be made. Around each of them a thread gives the interpreter lock away and
    has to wait for it again, which among busy threads takes longer than what Redis does.
    """
    sock.settimeout(None)
    seconds, part = divmod(timeout, 1)
    times = struct.pack("ll", int(seconds), int(part * 1e6))
    try:
        # It does not where threads are greenlets: there a descriptor never blocks.
        if os.get_blocking(sock.fileno()):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, times)
            return
    except OSError:  # a 32-bit system that counts seconds in 64 bits
        pass
    sock.settimeout(timeout)


async def open_blocking(
    route: Route, *, timeout: float, counter: CommandCounter
) -> BlockingConnection | None:
    """Return an open connection; None under TLS, whose state can't be handed over.

    Raises RedisUnavailable.
    """
    connection = Connection(route, timeout=timeout, counter=counter, identify=False)
    await connection.open()
    if not connection.is_open:
        msg = "the connection was lost as soon as it was open"
        raise RedisUnavailable(msg)
    sock = connection.detach()
    if sock is None:
        await connection.close()
        return None
    return BlockingConnection(sock, timeout, route)


class BlockingPool:
    """Lends connections to threads, 16 at most, and drops those that have failed.

    ``open_one`` opens a connection, or returns None where there can be none: then it is not asked
    again. After a failure the pool opens none for a second, in which the caller's other way finds
    out what is wrong.
    """

    def __init__(
        self, open_one: Callable[[], BlockingConnection | None], counter: CommandCounter
    ) -> None:
        self._open_one = open_one
        self._counter = counter
        self._idle: list[BlockingConnection] = []
        self._count = 0
        self._paused_until = 0.0
        self._is_closed = False
        self._lock = threading.Lock()

    def call(self, purpose: Purpose, *args: Any, inner: int = 0) -> Any:
        """Send one command and return its answer, None if nothing was done.

        Nothing is done if there is no connection for it, or if the server does not know a script or
        can't serve now. ``inner`` is how many commands a script runs inside. Raises RedisRefused
        for any other error reply, and ReplyLost if the command may or may not have run.
        """
        connection = self._borrowed()
        if connection is None:
            return None
        try:
            answer = connection.call(*args)
        except RedisRefused as refused:
            if str(refused).startswith("MOVED ") or cannot_serve(str(refused)):
                self._failed(connection)
                return None
            self._take_back(connection, purpose, 0)
            if str(refused).startswith("NOSCRIPT"):
                return None
            raise
        except BaseException:  # a KeyboardInterrupt too: its answer would be the next call's
            self._failed(connection)
            raise
        self._take_back(connection, purpose, inner)
        return answer

    def _take_back(self, connection: BlockingConnection, purpose: Purpose, inner: int) -> None:
        with self._lock:
            self._counter.count(purpose)
            self._counter.count_inner(purpose, inner)
            if not self._is_closed:
                self._idle.append(connection)
                return
            self._count -= 1
        connection.close()

    def _borrowed(self) -> BlockingConnection | None:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_outdated:
                    return connection
                connection.close()
                self._count -= 1
            is_paused = time.monotonic() < self._paused_until
            if self._is_closed or self._count >= _MOST or is_paused:
                return None
            self._count += 1
        try:
            opened = self._open_one()
        except RedisUnavailable:  # the ordinary way says what is wrong
            self._failed(None)
            return None
        except BaseException:
            self._failed(None)
            raise
        if opened is None:
            self._paused_until = math.inf
        return opened

    def _failed(self, connection: BlockingConnection | None) -> None:
        if connection is not None:
            connection.close()
        with self._lock:
            self._count -= 1
            self._paused_until = time.monotonic() + _PAUSE_SECONDS

    def close(self) -> None:
        """Close the connections, one that is lent when its call has ended; open none any more."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            self._count -= len(idle)
        for connection in idle:
            connection.close()

    def abandon(self) -> None:
        """Close this process's copies of what is open, after a fork that left the lock as it was.

        The parent process goes on with the connections.
        """
        for connection in self._idle:
            connection.close()
