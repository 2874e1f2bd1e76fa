"""A platform like Cloud Run on loopback: one service, from no instance to one and back.

=========  ==========================================================================
instance   what it is
=========  ==========================================================================
none       no process; a request starts one
starting   the process runs, and does not listen yet; requests wait for it
working    at least one request is open
frozen     no request is open: SIGSTOP, as a platform takes the CPU away
ending     frozen for too long, or told to: SIGTERM, ten seconds, SIGKILL
=========  ==========================================================================

What is billed is the time of ``starting``, ``working`` and ``ending``. Requests beyond the first
share the instance, as with a high ``containerConcurrency``.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from aiohttp.test_utils import TestServer

from tests.support.logged import LoggedProcess
from tests.support.ports import free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    Losing = Callable[[web.Request], web.Response | None]

_TERM_SECONDS = 10.0
_START_SECONDS = 30.0
_HOP = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


@dataclass(slots=True, kw_only=True)
class Account:
    """What the platform did, and what it would bill."""

    requests: int = 0
    lost: int = 0
    starts: int = 0
    freezes: int = 0
    billed_seconds: float = 0.0
    alive_seconds: float = 0.0
    killed: int = 0
    died: int = 0
    exit_codes: list[int] = field(default_factory=list)


class Instance:
    """One process of the service."""

    def __init__(self, process: LoggedProcess, port: int, account: Account) -> None:
        self._process = process
        self._account = account
        self._born = self._since = time.monotonic()
        self.port = port
        self.open = 0
        self.is_frozen = False

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended, told to or not."""
        return self._process.exit_code is not None

    def freeze(self) -> None:
        """Take its CPU away."""
        self._bill()
        self.is_frozen = True
        self._account.freezes += 1
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Give it its CPU."""
        self._since = time.monotonic()
        self.is_frozen = False
        self._process.signal(signal.SIGCONT)

    async def end(self) -> None:
        """SIGTERM, and SIGKILL when it takes too long."""
        if self.is_frozen:
            self.thaw()
        self._process.signal(signal.SIGTERM)
        try:
            await self._process.ended(within=_TERM_SECONDS)
        except AssertionError:
            self._account.killed += 1
            self._process.kill()
        self.settle()

    def settle(self) -> None:
        """Close the account of a process that has ended."""
        self._bill()
        self._account.alive_seconds += time.monotonic() - self._born
        assert self._process.exit_code is not None
        self._account.exit_codes.append(self._process.exit_code)

    def _bill(self) -> None:
        self._account.billed_seconds += time.monotonic() - self._since
        self._since = time.monotonic()


class CloudRun:
    """The front of the service: ``async with``, and requests go to ``url``.

    ``lose`` may answer in the instance's place, which then hears nothing of the request.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        *,
        idle: float,
        lose: Losing = lambda _: None,
    ) -> None:
        self._command = command
        self._environ = environ
        self._log = log
        self._idle = idle
        self._lose = lose
        self._instance: Instance | None = None
        self._entering = asyncio.Lock()
        self._retirement: asyncio.TimerHandle | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self.account = Account()
        self.url = ""

    async def __aenter__(self) -> Self:
        """Listen."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        server = TestServer(app, host="127.0.0.1", handler_cancellation=True, shutdown_timeout=0.1)
        self._session = await self._stack.enter_async_context(
            ClientSession(timeout=ClientTimeout(total=None), auto_decompress=False)
        )
        await self._stack.enter_async_context(server)
        self.url = str(server.make_url("/wake"))
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what runs."""
        await self._stack.aclose()
        self._retire()
        await asyncio.gather(*self._endings)

    def text(self) -> str:
        """All that the instances wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def asleep(self) -> None:
        """Wait until no instance is left; nobody may call meanwhile."""
        await wait_until(
            lambda: self._instance is None and not self._endings,
            timeout=self._idle + _TERM_SECONDS + _START_SECONDS,
            what="the end of the last instance",
        )

    async def stay(self) -> None:
        """Run one instance that needs no request and is never frozen, until cancelled."""
        self._instance = self._spawn()
        await asyncio.Event().wait()

    # a request

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.account.requests += 1
        lost = self._lose(request)
        if lost is not None:
            self.account.lost += 1
            return lost
        instance = await self._enter()
        try:
            return await self._pass_through(request, instance)
        finally:
            self._leave(instance)

    async def _pass_through(self, request: web.Request, instance: Instance) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            async with self._session.request(
                request.method,
                f"http://127.0.0.1:{instance.port}{request.path_qs}",
                headers={k: v for k, v in request.headers.items() if k.lower() not in _HOP},
                data=await request.read(),
                allow_redirects=False,
            ) as upstream:
                response.set_status(upstream.status)
                for name, value in upstream.headers.items():
                    if name.lower() not in _HOP:
                        response.headers.add(name, value)
                await response.prepare(request)
                while part := await upstream.content.readany():
                    await response.write(part)
        except ClientError as error:
            if not response.prepared:
                return web.Response(status=503, text=f"the instance: {type(error).__name__}")
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
        return response

    async def _enter(self) -> Instance:
        """The instance, started or thawed, with one request more in it."""
        if self._retirement is not None:
            self._retirement.cancel()
        async with self._entering:
            instance = self._instance
            if instance is not None and instance.is_gone:
                self.account.died += 1
                instance.settle()
                instance = None
            if instance is None:
                instance = self._instance = await self._start()
            instance.open += 1
            if instance.is_frozen:
                instance.thaw()
            return instance

    def _leave(self, instance: Instance) -> None:
        instance.open -= 1
        if instance.open == 0 and not instance.is_gone:
            instance.freeze()
            loop = asyncio.get_running_loop()
            self._retirement = loop.call_later(self._idle, self._retire)

    def _spawn(self) -> Instance:
        self.account.starts += 1
        port = free_port()
        environ = {"PORT": str(port), **self._environ}
        process = LoggedProcess(self._command, environ, self._log)
        return Instance(process, port, self.account)

    async def _start(self) -> Instance:
        instance = self._spawn()

        async def listens() -> bool:
            assert not instance.is_gone, self.text()
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", instance.port)
                writer.close()
                return True
            return False

        await wait_until(listens, timeout=_START_SECONDS, what="an instance that listens")
        return instance

    def _retire(self) -> None:
        """End the instance; a request that comes meanwhile starts another one."""
        instance, self._instance = self._instance, None
        if instance is not None:
            ending = asyncio.create_task(instance.end(), name="an instance's end")
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
