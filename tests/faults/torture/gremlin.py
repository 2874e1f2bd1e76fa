"""Does harm at random, from a seed: to workers, to their connections, to their server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from tests.faults.harness import lasting
from tests.faults.torture.account import KILL, STOP, STOP_GROUP, Deed
from tests.support.proxy import TcpProxy
from tests.support.server import ServerProcess

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from tests.faults.harness import Bench
    from tests.faults.torture.fleet import Fleet, Place
    from tests.faults.torture.pair import Pair
    from tests.support.logged import LoggedProcess

_SOME_REPLIES = 3
# What the end of a process may take on a machine that is as busy as this one.
_BUSY_SECONDS = 5.0


class Gremlin:
    """Torments the workers of ``fleet`` and the servers of ``pair``; keeps account of its deeds.

    ``lock_duration`` (seconds) is the measure of how long it stops what it stops.
    """

    def __init__(
        self,
        bench: Bench,
        pair: Pair,
        fleet: Fleet,
        rng: random.Random,
        *,
        lock_duration: float,
        grace: float,
    ) -> None:
        self._bench = bench
        self._pair = pair
        self._fleet = fleet
        self._rng = rng
        self._lock_duration = lock_duration
        self._grace = grace
        self._server = asyncio.Lock()
        self._at_work: set[asyncio.Task[None]] = set()
        self.deeds: list[Deed] = []
        self.faults: list[str] = []
        self._repertoire: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._kill_worker),
            (6, self._freeze_worker),
            (4, self._stop_worker),
            (3, self._stop_group),
            (6, self._kill_connection),
            (1, self._kill_all_connections),
            (3, self._cut),
            (3, self._refuse),
            (3, self._silence),
            (2, self._stall),
            (2, self._slow),
            (6, self._lose_replies),
            (2, self._restart_server),
            (2, self._crash_server),
            (2, self._freeze_server),
            (3, self._demote_primary),
            (3, self._bury_primary),
        ]

    @property
    def counts(self) -> Counter[str]:
        """How often it did what."""
        return Counter(deed.what for deed in self.deeds)

    async def rage(self, end: asyncio.Event, pause: float) -> None:
        """Begin a deed every ``pause`` seconds or so until ``end``; return when all is mended."""
        weights, deeds = zip(*self._repertoire, strict=True)
        while not end.is_set():
            deed = self._rng.choices(deeds, weights=weights)[0]
            task = asyncio.create_task(deed(), name=f"gremlin {deed.__name__}")
            self._at_work.add(task)
            with suppress(TimeoutError):
                await asyncio.wait_for(end.wait(), self._rng.expovariate(1 / pause))
        for task in self._at_work:
            await task

    def _note(self, what: str, began: float, pids: set[int] | None) -> None:
        concerned = None if pids is None else frozenset(pids)
        self.deeds.append(Deed(what, concerned, round(began * 1000), round(time.time() * 1000)))

    def _note_harmless(self, what: str, began: float) -> None:
        """Note what must not cost anybody a lock."""
        self._note(what, began, set())

    def _some_time(self, least: float, most: float) -> float:
        """Between so many lock durations, in seconds."""
        return self._rng.uniform(least, most) * self._lock_duration

    def _victim(self, *, proxied: bool = False) -> Place | None:
        places = [
            place
            for place in self._fleet.places
            if place.is_alone and (place.proxy is not None or not proxied)
        ]
        return self._rng.choice(places) if places else None

    # workers

    async def _kill_worker(self) -> None:
        place = self._victim()
        if place is None:
            return
        async with place.lock:
            began, pid = time.time(), place.worker.pid
            place.worker.kill()
            self._note(KILL, began, {pid})
            await lasting(self._some_time(0.0, 0.5))
            place.replace()

    async def _freeze_worker(self) -> None:
        place = self._victim()
        if place is None:
            return
        async with place.lock:
            began = time.time()
            place.worker.signal(signal.SIGSTOP)
            await lasting(self._some_time(0.2, 3.0))
            place.worker.signal(signal.SIGCONT)
            self._note("SIGSTOP of a worker", began, {place.worker.pid})

    async def _stop_worker(self) -> None:
        await self._stop(STOP, lambda worker: worker.signal(signal.SIGTERM))

    async def _stop_group(self) -> None:
        await self._stop(STOP_GROUP, lambda worker: os.killpg(worker.pid, signal.SIGTERM))

    async def _stop(self, what: str, tell: Callable[[LoggedProcess], None]) -> None:
        place = self._victim()
        if place is None or not place.worker.has_started:
            return  # until then, any signal just ends it
        async with place.lock:
            began, worker = time.time(), place.worker
            tell(worker)
            code = await worker.ended(within=self._grace + 20.0)
            took = time.time() - began
            self._note(what, began, {worker.pid})
            if code != 0:
                self.faults.append(f"a worker ended with {code} after SIGTERM: {worker.text()}")
            if took > self._grace + 1.0 + _BUSY_SECONDS:
                self.faults.append(f"a worker took {took:.1f} s to end after SIGTERM")
            place.replace()

    # connections

    async def _kill_connection(self) -> None:
        with suppress(RedisError, OSError):
            began = time.time()
            clients = await asyncio.to_thread(self._bench.redis.client_list)
            client = self._rng.choice(clients)
            await asyncio.to_thread(self._bench.redis.client_kill_filter, _id=client["id"])
            self._note_harmless("CLIENT KILL of one connection", began)

    async def _kill_all_connections(self) -> None:
        with suppress(RedisError, OSError):
            began = time.time()
            await asyncio.to_thread(
                self._bench.redis.client_kill_filter, _type="normal", skipme=True
            )
            self._note_harmless("CLIENT KILL of all connections", began)

    async def _cut(self) -> None:
        place = self._victim(proxied=True)
        if place is not None and place.proxy is not None:
            began = time.time()
            place.proxy.cut()
            self._note_harmless("connections cut", began)

    async def _refuse(self) -> None:
        await self._network(
            "connections cut and refused", lambda proxy: proxy.cut(refuse=True), 1.5
        )

    async def _silence(self) -> None:
        await self._network("packets dropped", TcpProxy.blackhole, 1.5)

    async def _stall(self) -> None:
        await self._network("packets held", TcpProxy.hold, 1.5)

    async def _slow(self) -> None:
        await self._network("packets late", lambda proxy: proxy.delay(0.05), 1.5, harms=False)

    async def _network(
        self, what: str, harm: Callable[[TcpProxy], None], most: float, *, harms: bool = True
    ) -> None:
        place = self._victim(proxied=True)
        if place is None or place.proxy is None:
            return
        async with place.lock:
            began = time.time()
            harm(place.proxy)
            await lasting(self._some_time(0.1, most))
            place.proxy.resume()
            self._note(what, began, {place.worker.pid} if harms else set())

    async def _lose_replies(self) -> None:
        place = self._victim(proxied=True)
        if place is None or place.proxy is None:
            return
        async with place.lock:
            began = time.time()
            # With the connection: bytes that are missing in the middle are not a network's fault.
            lost = place.proxy.swallow_replies(
                self._rng.randint(1, _SOME_REPLIES), matching=b"EVALSHA", cut=True
            )
            await asyncio.to_thread(lost.done.wait, self._lock_duration)
            place.proxy.resume()
            self._note_harmless("replies lost", began)

    # the server

    async def _restart_server(self) -> None:
        await self._server_away("server restarted", ServerProcess.stop)

    async def _crash_server(self) -> None:
        await self._server_away("server killed", ServerProcess.kill)

    async def _server_away(self, what: str, end: Callable[[ServerProcess], None]) -> None:
        if self._server.locked():
            return
        async with self._server:
            began, primary = time.time(), self._pair.primary
            await asyncio.to_thread(end, primary)
            await lasting(self._some_time(0.0, 1.0))
            await asyncio.to_thread(primary.start)
            self._note(what, began, None)

    async def _freeze_server(self) -> None:
        if self._server.locked():
            return
        async with self._server:
            began = time.time()
            self._pair.primary.suspend()
            await lasting(self._some_time(0.1, 1.5))
            self._pair.primary.resume()
            self._note("SIGSTOP of the server", began, None)

    async def _demote_primary(self) -> None:
        await self._fail_over("primary demoted, connections left open", self._pair.demote)

    async def _bury_primary(self) -> None:
        await self._fail_over("primary killed, replica promoted", self._pair.bury)

    async def _fail_over(self, what: str, move: Callable[[], None]) -> None:
        if self._server.locked():
            return
        async with self._server:
            began = time.time()
            await asyncio.to_thread(move)
            self._bench.redis.connection_pool.disconnect()  # it may be one to the old primary
            self._note(what, began, None)
