"""A TCP proxy on loopback that misbehaves on demand, between a client and its Redis.

It runs in a thread with an event loop of its own, so that a test which blocks its own loop does
not stop the network too. Its methods may be called from any other thread, and have taken effect
when they return.

    mode     what happens to bytes                        what a client sees
    pass     they are passed on                           a network
    hold     they are kept, and passed on at resume()     a stall: late, and complete
    drop     they are thrown away, for good               silence on an open connection
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
from typing import TYPE_CHECKING, Literal, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Mode = Literal["pass", "hold", "drop"]
_T = TypeVar("_T")
_HOST = "127.0.0.1"
_CHUNK_BYTES = 1 << 16
_CALL_SECONDS = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close sends RST


class Swallow:
    """An order to throw away replies, and the account of those that were."""

    def __init__(self, count: int, matching: bytes, *, cut: bool) -> None:
        self._left = count
        self._matching = matching
        self.cut = cut
        self.done = threading.Event()
        """Set when the last of the replies was thrown away."""

    def takes(self, request: bytes) -> bool:
        """Whether the reply to this request is one to throw away; counts it if so."""
        if self._left == 0 or self._matching not in request:
            return False
        self._left -= 1
        if self._left == 0:
            self.done.set()
        return True


class Link:
    """One connection through the proxy; ``number`` counts from 1 in the order of arrival."""

    def __init__(self, proxy: TcpProxy, number: int, mode: Mode) -> None:
        self._proxy = proxy
        self.number = number
        self.mode = mode
        self.open = True
        self.client_is_gone = False
        self.swallow: Swallow | None = None
        self.bytes_to_server = 0
        self.last_request = b""
        self._unanswered = bytearray()
        self._passing = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        if mode == "pass":
            self._passing.set()

    def set_mode(self, mode: Mode) -> None:
        """Treat the bytes of this connection so from now on; what was dropped does not return."""
        self._proxy.call(lambda: self.apply(mode))

    @property
    def is_silent(self) -> bool:
        """Whether all bytes are thrown away."""
        return self.mode == "drop"

    def cut(self) -> None:
        """Reset the connection on both sides."""
        self._proxy.call(self.reset)

    def swallow_replies(
        self, count: int = 1, *, matching: bytes = b"", cut: bool = False
    ) -> Swallow:
        """As the proxy's method, for this connection alone."""
        order = Swallow(count, matching, cut=cut)
        self._proxy.call(lambda: setattr(self, "swallow", order))
        return order

    def apply(self, mode: Mode) -> None:
        """Set the mode; only on the proxy's own loop."""
        if self.mode == "drop" and mode != "drop":
            return  # bytes are missing: nothing sensible can come of this connection any more
        self.mode = mode
        if mode == "hold":
            self._passing.clear()
        else:
            self._passing.set()

    def reset(self) -> None:
        """Reset both sides; only on the proxy's own loop."""
        self.open = False
        for writer in self._writers:
            _reset(writer)

    async def carry(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass bytes both ways until either side is done."""
        self._writers = [client[1], server[1]]
        upward = self._pump(client[0], server[1], self.pass_up)
        downward = self._pump(server[0], client[1], self.pass_down)
        try:
            async with asyncio.TaskGroup() as group:
                pumps = [group.create_task(upward), group.create_task(downward)]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
        finally:
            self.open = False
            for writer in self._writers:
                writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passed: Callable[[bytes], bytes],
    ) -> None:
        """Pass on what ``passed`` makes of one direction's bytes, ``proxy.delay`` seconds later."""
        loop = asyncio.get_running_loop()
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                when, chunk = await due.get()
                await asyncio.sleep(when - loop.time())
                await self._passing.wait()
                if self.is_silent:
                    continue  # the end of the connection does not get through either
                if not chunk:
                    return
                chunk = passed(chunk)
                await self._passing.wait()  # these bytes may themselves have begun a stall
                if chunk and not self.is_silent:
                    writer.write(chunk)
                    await writer.drain()

        delivery = asyncio.create_task(deliver(), name=f"proxy-deliver-{self.number}")
        try:
            with contextlib.suppress(ConnectionError):
                while chunk := await reader.read(_CHUNK_BYTES):
                    due.put_nowait((loop.time() + self._proxy.delay_seconds, chunk))
            self.client_is_gone |= passed == self.pass_up
            due.put_nowait((loop.time() + self._proxy.delay_seconds, b""))
            with contextlib.suppress(ConnectionError):
                await delivery
        finally:
            delivery.cancel()

    def pass_up(self, chunk: bytes) -> bytes:
        """What the server is to get of these bytes from the client."""
        self.last_request = chunk
        self._unanswered += chunk
        self.bytes_to_server += len(chunk)
        return chunk

    def pass_down(self, chunk: bytes) -> bytes:
        """What the client is to get of these bytes from the server."""
        if not self.open:
            return b""  # the rest of a reply that was cut off: no other reply, to count
        request = bytes(self._unanswered)
        self._unanswered.clear()
        for order in (self.swallow, self._proxy.swallow):
            if order is not None and order.takes(request):
                if order.cut:
                    self.reset()
                return b""
        return chunk


class TcpProxy:
    """A listener on a free loopback port that passes connections on to ``port``.

    Use it as a context manager; clients connect to ``url``.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._numbers = itertools.count(1)
        self._links: dict[int, Link] = {}
        self._mode: Mode = "pass"
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy")
        self._server: asyncio.Server | None = None
        self.delay_seconds = 0.0
        self.swallow: Swallow | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The proxy's address, in the form that ``REDIS_URL`` takes."""
        return f"redis://{_HOST}:{self.port}"

    @property
    def links(self) -> list[Link]:
        """The connections that are open, oldest first."""
        return self.call(lambda: [link for link in self._links.values() if link.open])

    def lead_to(self, port: int) -> None:
        """Pass new connections on to that port; those that are open stay where they are."""
        self.call(lambda: setattr(self, "_target", port))

    def delay(self, seconds: float) -> None:
        """Have every chunk arrive that much later, in each direction."""
        self.call(lambda: setattr(self, "delay_seconds", seconds))

    def hold(self) -> None:
        """Stall: keep all bytes, and new connections, until resume()."""
        self.call(lambda: self._set_mode("hold"))

    def blackhole(self) -> None:
        """Lose all bytes both ways without closing anything; new connections fall silent too.

        After resume() new connections work again; those that were open stay silent.
        """
        self.call(lambda: self._set_mode("drop"))

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection; with ``refuse`` also every new one, until resume()."""

        def cut() -> None:
            self._refusing = refuse
            for link in self._links.values():
                link.reset()

        self.call(cut)

    def swallow_replies(
        self, count: int = 1, *, matching: bytes = b"", cut: bool = False
    ) -> Swallow:
        """Throw away the next ``count`` replies to requests that contain ``matching``.

        A reply is a chunk from the server, its request all that went to the server on the same
        connection since the last reply: exact for clients that wait for each reply. With
        ``cut`` the connection is reset in the reply's place; without, the client waits in vain.
        """
        order = Swallow(count, matching, cut=cut)
        self.call(lambda: setattr(self, "swallow", order))
        return order

    def resume(self) -> None:
        """Be a network again: no delay, no silence, no refusal, no reply swallowed."""

        def resume() -> None:
            self.delay_seconds = 0.0
            self.swallow = None
            self._refusing = False
            self._set_mode("pass")

        self.call(resume)

    def make_link(self, number: int, mode: Mode) -> Link:
        """Make the link of a new connection; a subclass may have links of its own kind."""
        return Link(self, number, mode)

    def call(self, function: Callable[[], _T]) -> _T:
        """Run a function on the proxy's loop and return its value."""

        async def run() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_CALL_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(_CALL_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_CALL_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _set_mode(self, mode: Mode) -> None:
        self._mode = mode
        for link in self._links.values():
            link.apply(mode)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, _HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        # Those of connections that were accepted at this moment, too, which have no link yet.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # a transport that was closed lets go of its socket in the next turn

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        # Cancelled when the proxy closes, which asyncio's streams would report as an error.
        with (
            self._tracked() as link,
            contextlib.suppress(asyncio.CancelledError),
            contextlib.closing(writer),
        ):
            try:
                server = await asyncio.open_connection(_HOST, self._target)
            except OSError:
                _reset(writer)
                return
            await link.carry((reader, writer), server)

    @contextlib.contextmanager
    def _tracked(self) -> Iterator[Link]:
        """Know a connection while it lives."""
        link = self.make_link(next(self._numbers), self._mode)
        self._links[link.number] = link
        try:
            yield link
        finally:
            del self._links[link.number]


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
