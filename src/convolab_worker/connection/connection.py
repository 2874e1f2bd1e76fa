"""One Redis connection that pipelines commands as they come, and never sends one twice.

A ``Connection`` is ``closed``, ``opening`` or ``open``:

    closed   -- open() -->      opening -- handshake done --> open
    opening  -- refused -->     closed  (open() raises)
    open     -- lost, late -->  closed  (every unanswered command raises ReplyLost)

Why not redis-py's client: it sends one command at a time on a connection, repeats scripts that are
not idempotent when a reply is lost, times out blocked reads after 5 s, and sends commands of its
own on every connect that a provider bills. Here commands leave in few writes as they come, answers
come back in order, and the caller decides what to do about a command whose reply was lost.
hiredis packs and parses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import hiredis
from msgspec import Struct, field

from convolab_worker._logs import Log
from convolab_worker.connection.commands.error_replies import cannot_serve
from convolab_worker.connection.commands.unanswered import Answer, SilenceTimer, pack
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.connection.opening import (
    ClientIdentity,
    Handshake,
    dial,
    log_in,
    shake_hands,
    why_not_open,
)
from convolab_worker.connection.route import Redirects, Route
from convolab_worker.errors import RedisRefused, RedisUnavailable, ReplyLost

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from convolab_worker.connection.address import Address
    from convolab_worker.connection.commands.unanswered import Unanswered
    from convolab_worker.connection.commands.usage import CommandCounter
    from convolab_worker.connection.source import ServerSource

_log = Log()
# Commands leave at once while nothing is under way, and then in writes of this many: with one write
# for each turn of the loop, the server would idle while we work, and we while it works. While the
# server has more to do than we have ready, a write waits until it has as many commands again, since
# each write costs 5 to 10 us.
_FLUSH_AT = 4
# At most this is read at once; more, once a read has filled it. asyncio itself would allocate
# 256 KB for each answer, which the C library may take from the system and give back each time.
_READ_BYTES, _MOST_READ_BYTES = 16 * 1024, 256 * 1024
_CLOSED = "the connection was closed"


class KnownScripts(Struct):
    """Which scripts a connection's server is known to have, and which are being asked about.

    The script runner writes it.
    """

    known: set[str] = field(default_factory=set)
    asked: dict[str, asyncio.Event] = field(default_factory=dict)


class Connection(asyncio.BufferedProtocol):
    """A connection to ``address`` that pipelines calls and gives each its answer, in order.

    In a cluster it goes to the node that has the keys: when a node names another one, the
    connection is closed, and the commands are sent again to that one. Connections that share a
    ``Route`` instead of an address share what they learn. When a server says that it can't serve,
    its connection is closed, with all that share the route: the address may lead to another server
    by now. A connection belongs to the event loop that opened it.

    ``timeout`` (seconds) bounds the server's silence while a command without a time-out of its own
    is unanswered; ``connect_timeout`` bounds connecting with the handshake. ``client_name`` is set
    on connect if there is one (a billed command), where the server takes it. ``identify`` asks for
    the connection's id on connect (another one).
    """

    def __init__(
        self,
        address: Address | ServerSource | Route,
        *,
        timeout: float,
        counter: CommandCounter,
        identify: bool = True,
        connect_timeout: float = 5.0,
    ) -> None:
        self._route = address if isinstance(address, Route) else Route(address)
        self._route.join(self)
        self._epoch: int | None = None  # the route's, when this connection was opened
        self._gone = _CLOSED
        self._login = 0  # which of the route's credentials it has logged in with
        self._greetings = 0  # unanswered commands of the handshake
        self._unfit: RedisRefused | None = None
        self._watching: asyncio.Task[None] | None = None
        self._redirects = Redirects(self._route)
        self._resending: asyncio.Task[None] | None = None
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self.counter = counter
        self.scripts = KnownScripts()
        self.client_name: str | None = None
        self._identify = identify
        self._loop = cast("asyncio.AbstractEventLoop", None)
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=RedisRefused)
        # A view, since asyncio's TLS reads into slices of it, and those of a bytearray are copies.
        self._received = memoryview(bytearray(_READ_BYTES))
        self._pending: deque[Unanswered] = deque()
        self._out: list[bytes] = []
        self._flush_due = self._is_reading = False
        self._silence = SilenceTimer(self._pending, self._on_silence)
        self._opening: asyncio.Task[None] | None = None
        self._identity: ClientIdentity | None = None
        self._stale: ClientIdentity | None = None
        self._open = self._was_open = False
        self.on_lost: Callable[[Exception], None] | None = None
        self.on_message: Callable[[Any], None] | None = None  # for messages that answer no command

    @property
    def is_open(self) -> bool:
        return self._open

    @property
    def client_id(self) -> int | None:
        """The server's id of this connection, or None where the server doesn't tell."""
        return None if self._identity is None else self._identity.id

    @property
    def unanswered(self) -> int:
        return len(self._pending)

    async def open(self) -> None:
        """Connect, unless connected; callers at the same time share one attempt.

        Where an earlier connection was lost, the server is told to kill it first: it may still be
        blocked there and swallow a job's marker, or hold commands that are yet to run. Raises
        RedisUnavailable, whose message names the fix where it is known.
        """
        if self._open:
            self.log_in_again()
            return
        if self._opening is None:
            self._loop = asyncio.get_running_loop()
            self._opening = asyncio.create_task(self._connect(), name="convolab-connect")
            self._opening.add_done_callback(self._opening_done)
        opening = self._opening
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opening.cancelled() and not (task and task.cancelling()):
                raise RedisUnavailable(self._gone) from None  # our caller did not end it
            raise

    @property
    def is_outdated(self) -> bool:
        """Whether the route has other credentials than the connection has logged in with."""
        return self._login != self._route.login

    def log_in_again(self) -> list[asyncio.Future[Any]]:
        """Send the route's credentials, if they are newer than those of the connection.

        Returns the answers to come. Where the server does not take the credentials, the connection
        stays what it was.
        """
        if not self.is_outdated or self._opening is not None:
            return []
        self._login = self._route.login
        return [self.call(Purpose.CONNECT, *each) for each in log_in(*self._route.credentials)]

    def _opening_done(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()

    async def _connect(self) -> None:
        route, address = self._route, self._route.address
        epoch, self._epoch, self._gone = route.epoch, None, _CLOSED
        try:
            async with asyncio.timeout(self._connect_timeout):
                address = await route.locate()
                epoch = self._epoch = route.epoch
                if route.may_be_replaced and self._identify:  # while it connects, too
                    self._watching = asyncio.create_task(
                        route.watch_primary(), name="convolab-sentinels"
                    )
                self._login = route.login
                self._reader = hiredis.Reader(replyError=RedisRefused)
                await dial(address, self)
                self._open = True  # from here on calls are taken, and sent after the handshake's
                welcome = await shake_hands(
                    self._greet,
                    address,
                    Handshake(
                        identify=self._identify,
                        name=self.client_name,
                        stale=self._stale,
                        written_key=route.probed_key if route.is_unchecked else None,
                        learn_nodes=route.is_cluster and self._identify,
                    ),
                )
                self._identity = welcome.identity
                self._stale, self._was_open = None, True
                if route.epoch > epoch:
                    msg = "the server was found unable to serve meanwhile"
                    raise ReplyLost(msg)  # noqa: TRY301 - as any loss of it would be
                route.note_serving(epoch)
                if welcome.nodes:
                    route.learn(welcome.nodes)
        except (RedisRefused, OSError, ReplyLost) as error:  # a TimeoutError is an OSError too
            self._drop(error)
            if cannot_serve(str(error)):
                route.give_up_server(epoch, str(error))
            else:
                route.fall_back()
            is_first = not self._was_open
            reason = why_not_open(error, address, self._connect_timeout, is_first=is_first)
            raise RedisUnavailable(reason) from error
        except BaseException as error:
            self._drop(ReplyLost(f"gave up connecting: {error!r}"))
            raise

    def _greet(self, purpose: Purpose, *args: Any) -> asyncio.Future[Any]:
        """Send a command of the handshake; it goes before all others."""
        self._greetings += 1
        return self.call(purpose, *args)

    def call(
        self, purpose: Purpose, *args: Any, timeout: float | None = None
    ) -> asyncio.Future[Any]:
        """Send one command and return the future of its answer.

        The future raises RedisRefused for an error reply, and ReplyLost when the connection went
        away first, in which case the command may or may not have run.
        """
        return self.send(purpose, pack(args), timeout=timeout)

    def send(
        self, purpose: Purpose, packed: bytes, *, timeout: float | None = None
    ) -> asyncio.Future[Any]:
        """Send one command that is packed already, as ``call`` does."""
        if not self._open:
            future = asyncio.get_running_loop().create_future()
            _fail(future, RedisUnavailable(f"not connected to Redis at {self._route.address}"))
            return future
        loop, seconds = self._loop, self._timeout if timeout is None else timeout
        answer = Answer(loop=loop)
        self._pending.append((answer, loop.time() + seconds, packed, seconds))
        self._out.append(packed)
        unsent, unanswered = len(self._out), len(self._pending)
        if unanswered == 1 or (unsent >= _FLUSH_AT and 2 * unsent >= unanswered):
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            if not self._is_reading:  # the end of the reading flushes
                loop.call_soon(self._flush)
        self.counter.sent[purpose] += 1
        return answer

    def _flush(self) -> None:
        self._flush_due = False
        out, self._out = self._out, []
        transport = self._transport
        if transport is None or not out:
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._pending and self._pending[0][1] < self._silence.next_check:
            self._silence.start(self._loop)

    # the end of a connection

    async def close(self) -> None:
        """Close the connection; calls that are unanswered or wait in ``open`` end with an error."""
        for task in (self._resending, self._opening):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._drop(ReplyLost(_CLOSED), stale=False)
        self._stale = None

    def detach(self) -> socket.socket | None:
        """Give an open connection away as a socket, which nothing here reads any more.

        Returns None under TLS. Nothing may be unanswered.
        """
        transport = self._transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return None
        given: socket.socket = transport.get_extra_info("socket").dup()
        self._drop(ReplyLost(_CLOSED), stale=False)
        return given

    def abort(self, reason: str, *, stale: bool = True) -> None:
        """Give the connection up; unanswered commands raise ReplyLost for ``reason``.

        ``stale`` says that the server may not notice: the next ``open`` has it killed there.
        """
        self._drop(ReplyLost(reason), stale=stale)

    def _on_silence(self) -> None:
        silence = f"no answer from Redis at {self._route.address} in time"
        self._drop(ReplyLost(silence, silent=True))

    def leave(self, epoch: int, reason: str) -> None:
        """Give up a connection that was made before ``epoch``; from any thread."""
        if self._epoch is not None:
            with contextlib.suppress(
                RuntimeError
            ):  # its loop is closed, and the connection with it
                self._loop.call_soon_threadsafe(self._leave, epoch, reason)

    def _leave(self, epoch: int, reason: str) -> None:
        if self._epoch is None or self._epoch >= epoch:
            return
        gone = f"the server can't serve any more: {reason}"
        if self._opening is not None:  # it may not answer the handshake, and is not waited for
            self._gone = gone
            self._opening.cancel()
        elif self._open:
            self._drop(ReplyLost(gone))

    def _drop(self, error: Exception, *, stale: bool = True) -> None:
        was_open, self._open = self._open, False
        self._unfit, self._greetings = None, 0
        self._epoch = None
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if stale and self._identity is not None:
            self._stale = self._identity
        self._identity = None
        self._silence.stop()
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self._out.clear()
        unanswered = (*self._pending, *self._redirects.release())
        self._pending.clear()
        lost = error if isinstance(error, ReplyLost) else ReplyLost(str(error))
        for future, *_ in unanswered:
            _fail(future, lost)
        if was_open and self.on_lost is not None and self._opening is None:
            self.on_lost(error)

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - it may be of another size
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        """Deliver each answer. What waits for one goes on at once: it may send, or close this."""
        self._silence.heard_at = self._loop.time()
        self._is_reading = True
        received: Any = self._received  # hiredis takes any bytes, which its types do not say
        reader, pending, transport = self._reader, self._pending, self._transport
        try:
            reader.feed(received, 0, nbytes)
            if nbytes == len(self._received) < _MOST_READ_BYTES:
                self._received = memoryview(bytearray(2 * nbytes))
            while self._transport is transport:
                answer = reader.gets()
                if answer is False:
                    if self._unfit is not None or self._redirects.commands:
                        self._all_read()
                    break
                if not pending or self._greetings or isinstance(answer, RedisRefused):
                    self._take_other(answer)
                elif not (waiting := pending.popleft()[0]).done():
                    waiting.deliver(answer)
        except hiredis.ProtocolError as error:
            where = self._route.address
            self._drop(ReplyLost(f"Redis at {where} spoke something else: {error}"))
        finally:
            self._is_reading = False
        if self._flush_due:
            self._flush()

    def _take_other(self, answer: Any) -> None:
        """Take what is not the answer of a command that was executed, or one of the handshake's."""
        if not self._pending and self.on_message is not None:
            self.on_message(answer)
            return
        if not self._pending:
            where = self._route.address
            self._drop(ReplyLost(f"Redis at {where} answered what was not asked"))
            return
        command = self._pending.popleft()
        if is_greeting := self._greetings > 0:
            self._greetings -= 1
        if command[0].done():
            return
        if not isinstance(answer, RedisRefused):
            command[0].deliver(answer)
        elif is_greeting or not self._sent_on(answer, command):
            _fail(command[0], answer)

    def _sent_on(self, error: RedisRefused, command: Unanswered) -> bool:
        """Whether another node is to have the command; notes a server that can't serve."""
        if cannot_serve(str(error)):
            self._unfit = error
            return False
        return self._redirects.take(error, command, self._silence.heard_at)

    def _all_read(self) -> None:
        """Every answer that has come was delivered."""
        if (unfit := self._unfit) is not None and self._epoch is not None:
            self._route.give_up_server(self._epoch, str(unfit))
            self._drop(ReplyLost(f"the server can't serve any more: {unfit}"))
        elif self._redirects.commands and not self._pending:
            self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            reason = f": {exc}" if exc else ""
            self._drop(ReplyLost(f"Redis at {self._route.address} closed the connection{reason}"))

    # clusters

    def _follow(self) -> None:
        """Connect to the node that was named, and send it what the last one did not execute."""
        commands = self._redirects.release()
        self._drop(ReplyLost("the cluster's node has sent us on"), stale=False)
        self._resending = asyncio.create_task(self._send_again(commands), name="convolab-follow")

    async def _send_again(self, commands: list[Unanswered]) -> None:
        try:
            await self.open()
        except (RedisUnavailable, asyncio.CancelledError) as error:
            lost = error if isinstance(error, RedisUnavailable) else ReplyLost(_CLOSED)
            for future, *_ in commands:
                _fail(future, lost)
            if lost is error:
                return
            raise
        now = self._loop.time()
        for future, _, packed, seconds in commands:
            if not future.done():
                self._pending.append((future, now + seconds, packed, seconds))
                self._out.append(packed)
        self._flush()


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # an answer that nobody waits for is not a warning
