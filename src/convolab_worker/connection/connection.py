"""One Redis connection whose commands are pipelined as they come, and never sent twice.

A ``Connection`` is ``closed``, ``opening`` or ``open``:

    closed   -- open() -->      opening -- handshake done --> open
    opening  -- refused -->     closed  (open() raises)
    open     -- lost, late -->  closed  (every unanswered command raises ReplyLost)

Why not redis-py's client: it sends one command at a time on a connection, repeats scripts that are
not idempotent when a reply is lost, times out blocked reads after 5 s, and sends commands of its
own on every connect that a provider bills. Here commands leave in few writes as they come,
answers come back in order, and a command whose reply was lost is the caller's to judge.
hiredis packs and parses.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import hiredis

from convolab_worker.connection.address import Route
from convolab_worker.connection.error_replies import explain
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import ConfigurationError, RedisRefused, RedisUnavailable, ReplyLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.connection.address import Address
    from convolab_worker.connection.usage import CommandCounter

# A peer that vanished without a word is noticed after 15 + 3 x 5 s, at no billed command.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_KEEPALIVE_USER_TIMEOUT_MS = 30_000
# Commands leave at once while nothing is under way, and then in writes of this many: with one write
# for each turn of the loop, the server would idle while we work, and we while it works.
_FLUSH_AT = 4
# A cluster whose nodes send clients to and fro, so often in so many seconds, refuses to serve.
_MOST_FOLLOWS, _FOLLOW_SECONDS = 5, 1.0
# A deadline found passed this late was missed by our own loop, not by the server.
_LATE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Identity:
    """A connection as the server names it."""

    id: int
    address: str

    @classmethod
    def read(cls, info: bytes) -> _Identity | None:
        """Read the answer to CLIENT INFO."""
        fields = dict(part.partition("=")[::2] for part in info.decode("utf-8", "replace").split())
        if not fields.get("id", "").isdecimal() or not fields.get("addr"):
            return None
        return cls(int(fields["id"]), fields["addr"])


class Connection(asyncio.Protocol):
    """A connection to ``address`` that pipelines calls and gives each its answer, in order.

    In a cluster it goes to the node that has the keys: a command that is sent on is not executed,
    the connection is given up, and it is sent again on one to the node that was named. Links that
    share a ``Route`` instead of an address share what they learn.

    ``timeout`` (seconds) bounds the wait for any answer that has no time-out of its own, and
    ``connect_timeout`` that for a connection with its handshake.
    ``client_name`` is set on connect if there is one (a billed command), where the server takes it.
    ``identify`` asks for the connection's id on connect (another one).
    """

    def __init__(
        self,
        address: Address | Route,
        *,
        timeout: float,
        counter: CommandCounter,
        identify: bool = True,
        connect_timeout: float = 5.0,
    ) -> None:
        """Make a closed connection; nothing is sent before ``open``."""
        self._route = address if isinstance(address, Route) else Route(address)
        self._follows_at: deque[float] = deque(maxlen=_MOST_FOLLOWS)
        self._moved: list[tuple[asyncio.Future[Any], bytes, float]] = []
        self._resending: asyncio.Task[None] | None = None
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._counter = counter
        self.client_name: str | None = None
        self._identify = identify
        self._loop = cast("asyncio.AbstractEventLoop", None)
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=RedisRefused)
        self._pending: deque[tuple[asyncio.Future[Any], float, bytes, float]] = deque()
        self._out: list[bytes] = []
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._identity: _Identity | None = None
        self._ghost: _Identity | None = None
        self._open = False
        self.on_lost: Callable[[Exception], None] | None = None

    @property
    def _address(self) -> Address:
        return self._route.address

    @property
    def is_open(self) -> bool:
        """Whether calls are taken."""
        return self._open

    @property
    def client_id(self) -> int | None:
        """The server's id of this connection, or None where the server doesn't tell."""
        return None if self._identity is None else self._identity.id

    @property
    def counter(self) -> CommandCounter:
        """Counts the commands sent here, and those that their scripts run."""
        return self._counter

    async def open(self) -> None:
        """Connect, unless connected; callers at the same time share one attempt.

        Where an earlier connection was lost, it is killed on the server first: it may still be
        blocked there and swallow a job's marker, or hold commands that are yet to run.
        Raises RedisUnavailable, whose message names the fix where it is known.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._leave_loop(loop)
        if self._open:
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect(), name="convolab-connect")
            self._opening.add_done_callback(self._opening_done)
        await asyncio.shield(self._opening)

    def _leave_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin anew in ``loop``; what is left of a closed one can't be used, nor closed."""
        known = cast("asyncio.AbstractEventLoop | None", self._loop)
        if known is not None and not known.is_closed():
            msg = (
                f"the connection to Redis at {self._address} is another event loop's: make one here"
            )
            raise ConfigurationError(msg)
        self._loop, self._transport, self._opening, self._timer = loop, None, None, None
        self._open, self._flush_due, self._identity = False, False, None
        self._pending.clear()
        self._out.clear()

    def _opening_done(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._dial()
                await self._handshake()
        except RedisRefused as error:
            self._drop(error)
            raise RedisUnavailable(explain(str(error), str(self._address))) from error
        except TimeoutError:
            self._drop(ReplyLost("no answer to the handshake"))
            address = self._address
            self._route.fall_back()
            msg = f"Redis at {address} did not answer within {self._connect_timeout:g} s"
            raise RedisUnavailable(msg) from None
        except OSError as error:
            self._drop(error)
            address = self._address
            self._route.fall_back()
            msg = f"Redis at {address} can't be reached: {error.strerror or error}"
            raise RedisUnavailable(msg) from error
        except BaseException as error:
            self._drop(ReplyLost(f"gave up connecting: {error!r}"))
            raise

    async def _dial(self) -> None:
        address = self._address
        self._reader = hiredis.Reader(replyError=RedisRefused)
        if address.path is not None:
            await self._loop.create_unix_connection(lambda: self, address.path)
            return
        context = address.ssl_context()
        await self._loop.create_connection(lambda: self, address.host, address.port, ssl=context)
        transport = cast("asyncio.Transport", self._transport)
        _keep_alive(transport.get_extra_info("socket"))

    async def _handshake(self) -> None:
        address = self._address
        required: list[asyncio.Future[Any]] = []
        self._open = True  # calls are taken from here on, in order, behind the handshake's own
        if address.password is not None:
            credentials = [address.username] if address.username else []
            required.append(self.call(Purpose.CONNECT, "AUTH", *credentials, address.password))
        if address.database:
            required.append(self.call(Purpose.CONNECT, "SELECT", address.database))
        optional = []
        if self._identify:
            optional.append(self.call(Purpose.CONNECT, "CLIENT", "INFO"))
        if self.client_name is not None:
            optional.append(self.call(Purpose.CONNECT, "CLIENT", "SETNAME", self.client_name))
        if self._ghost is not None:  # its address too: a server that was restarted reuses ids
            ghost = ("ID", self._ghost.id, "ADDR", self._ghost.address)
            optional.append(self.call(Purpose.CONNECT, "CLIENT", "KILL", *ghost))
        answers = await asyncio.gather(*required, *optional, return_exceptions=True)
        for answer in answers[: len(required)]:
            if isinstance(answer, BaseException):
                raise answer
        info = answers[len(required)] if optional else None
        if isinstance(info, RedisRefused):
            _raise_unless_unsupported(info)
        elif isinstance(info, BaseException):
            raise info
        self._identity = _Identity.read(info) if isinstance(info, bytes) else None
        self._ghost = None

    def call(
        self, purpose: Purpose, *args: Any, timeout: float | None = None
    ) -> asyncio.Future[Any]:
        """Send one command and return the future of its answer.

        The future raises RedisRefused for an error reply and ReplyLost when the connection went
        away first, in which case the command may or may not have run.
        """
        loop = self._loop
        if not self._open:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(RedisUnavailable(f"not connected to Redis at {self._address}"))
            future.exception()  # an answer that nobody waits for is not a warning
            return future
        future = loop.create_future()
        self._send(future, _pack(args), self._timeout if timeout is None else timeout)
        self._counter.count(purpose)
        return future

    def _send(self, future: asyncio.Future[Any], packed: bytes, seconds: float) -> None:
        loop = self._loop
        self._pending.append((future, loop.time() + seconds, packed, seconds))
        self._out.append(packed)
        if len(self._out) >= _FLUSH_AT or len(self._pending) == 1:
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        out, self._out = self._out, []
        transport = self._transport
        if transport is None or not out:
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._timer is not None and self._pending and self._timer.when() > self._pending[0][1]:
            self._timer.cancel()  # left from a longer wait
            self._timer = None
        if self._timer is None:
            self._arm_timer()

    def _arm_timer(self) -> None:
        deadline = self._pending[0][1] if self._pending else None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._check_deadline, deadline)

    def _check_deadline(self, expected: float) -> None:
        self._timer = None
        if not self._pending:
            return
        now = self._loop.time()
        if self._pending[0][1] > now:
            self._arm_timer()
        elif now - expected > _LATE_SECONDS:
            # Our loop was blocked or the process frozen: the answer may lie unread in the socket.
            self._timer = self._loop.call_later(_LATE_SECONDS, self._check_deadline, now + 1)
        else:
            silence = f"no answer from Redis at {self._address} in time"
            self._drop(ReplyLost(silence, silent=True))

    async def close(self) -> None:
        """Close the connection; unanswered commands raise ReplyLost."""
        for task in (self._resending, self._opening):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._ghost = None
        transport = self._transport
        self._drop(ReplyLost("closed"), ghost=False)
        if transport is not None:
            transport.close()

    def lose(self, reason: str, *, ghost: bool = True) -> None:
        """Give the connection up for ``reason``; the server may not know, unless not ``ghost``."""
        self._drop(ReplyLost(reason), ghost=ghost)

    def _drop(self, error: Exception, *, ghost: bool = True) -> None:
        was_open, self._open = self._open, False
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if ghost and self._identity is not None:
            self._ghost = self._identity
        self._identity = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._out.clear()
        pending, self._pending = self._pending, deque()
        moved, self._moved = self._moved, []
        for future in [*(entry[0] for entry in pending), *(entry[0] for entry in moved)]:
            if not future.done():
                future.set_exception(
                    error if isinstance(error, ReplyLost) else ReplyLost(str(error))
                )
                future.exception()  # an answer nobody waits for any more is not a warning
        if was_open and self.on_lost is not None and self._opening is None:
            self.on_lost(error)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand each whole answer to the call that waits for it."""
        reader = self._reader
        pending = self._pending
        reader.feed(data)
        while True:
            try:
                answer = reader.gets()
            except hiredis.ProtocolError as error:
                self._drop(ReplyLost(f"Redis at {self._address} spoke something else: {error}"))
                return
            if answer is False:
                if self._moved and not pending:
                    self._go_on()
                return
            if not pending:
                self._drop(ReplyLost(f"Redis at {self._address} answered what was not asked"))
                return
            future, _, packed, seconds = pending.popleft()
            if future.done():
                continue
            if isinstance(answer, RedisRefused):
                if self._follows(answer):
                    self._moved.append((future, packed, seconds))
                    continue
                future.set_exception(answer)
                future.exception()
            else:
                future.set_result(answer)

    def _follows(self, error: RedisRefused) -> bool:
        """Whether a cluster's node sends a command on to another one, which is gone to."""
        text = str(error)
        if not text.startswith("MOVED "):
            return False
        now, follows = self._loop.time(), self._follows_at
        if not self._moved:
            if len(follows) == _MOST_FOLLOWS and now - follows[0] < _FOLLOW_SECONDS:
                return False
            follows.append(now)
        self._route.follow(text.rsplit(maxsplit=1)[-1])
        return True

    def _go_on(self) -> None:
        """Connect to the node that was named, and send what was sent on; it was not executed."""
        moved, self._moved = self._moved, []
        self._drop(ReplyLost("the cluster's node has sent us on"), ghost=False)
        self._resending = asyncio.create_task(self._send_again(moved), name="convolab-follow")

    async def _send_again(self, moved: list[tuple[asyncio.Future[Any], bytes, float]]) -> None:
        try:
            await self.open()
        except RedisUnavailable as error:
            for future, _, _ in moved:
                if not future.done():
                    future.set_exception(error)
                    future.exception()
            return
        for future, packed, seconds in moved:
            if not future.done():
                self._send(future, packed, seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is unanswered."""
        if self._transport is not None:
            reason = f": {exc}" if exc else ""
            self._drop(ReplyLost(f"Redis at {self._address} closed the connection{reason}"))


def _pack(args: tuple[Any, ...]) -> bytes:
    try:
        return cast("bytes", hiredis.pack_command(args))
    except UnicodeEncodeError:  # text that was made of bytes which are not UTF-8: the same bytes
        plain = [
            arg.encode("utf-8", "surrogateescape") if isinstance(arg, str) else arg for arg in args
        ]
        return cast("bytes", hiredis.pack_command(cast("Any", tuple(plain))))


def _keep_alive(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _KEEPALIVE_USER_TIMEOUT_MS)


def _raise_unless_unsupported(error: RedisRefused) -> None:
    """Pass over a server or an ACL without CLIENT ID; anything else is a reason not to go on."""
    text = str(error).lower()
    if "unknown" not in text and "noperm" not in text and "not supported" not in text:
        raise error
