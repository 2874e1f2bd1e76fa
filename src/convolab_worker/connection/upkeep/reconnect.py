"""Brings lost connections back, once for everybody who waits, and logs it once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from convolab_worker._chance import chance
from convolab_worker._logs import Log
from convolab_worker.connection.commands.error_replies import cannot_serve, explain, is_about_data
from convolab_worker.connection.upkeep.logins import LoginKeeper
from convolab_worker.errors import RedisRefused, RedisUnavailable, ReplyLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from convolab_worker.connection.connection import Connection
    from convolab_worker.connection.route import Route

_log = Log()
_T = TypeVar("_T")

_MINUTES_OF_FAILURES = 400
# After so many in a row, a refusal that is about stored data is believed.
_PATIENT_REFUSALS = 2
# If a connection is lost so often in a row with the same question, the question is the cause. With
# the pauses of lost connections that takes half a minute.
_MOST_LOSSES = 10
# States of a server that pass by themselves, soon: asking again costs little.
_PASSING = ("LOADING", "BUSY", "ASK ", "TRYAGAIN", "CLUSTERDOWN")
# Refusals of who we are: they pass where credentials change by themselves, and nowhere else.
_UNKNOWN_USER = ("NOAUTH", "WRONGPASS", "ERR invalid password")
# How often a server that can't serve is asked again soon, which takes some five minutes.
_MOST_FAILOVER_TRIES = 300
# A connection that is lost so many seconds after it was opened may be lost because of what is sent
# on it. After so many of these in a row the next one waits, longer each time.
_SOON_SECONDS, _PATIENT_LOSSES = 2.0, 3


def reconnect_delay(failures: int, *, random: float) -> float:
    """Return the seconds to wait before connecting again, after so many failures in a row.

    Nobody bills a connection that fails, and the first job is to run within a second of the
    server's return. So the pause is half a second at most in the first minutes, and 5 seconds
    later.
    """
    if failures <= 0:
        return 0.0
    longest = 0.5 if failures < _MINUTES_OF_FAILURES else 5.0
    return float(min(0.02 * 2 ** min(failures, 10), longest)) * (0.75 + 0.25 * random)


def refusal_delay(refusals: int, *, random: float) -> float:
    """Return the seconds to pause, after Redis answered so many commands in a row with an error.

    A server that is full, read-only, loading or over its quota answers and bills every try. So the
    pauses grow from half a second to two minutes.
    """
    return float(min(0.5 * 2 ** min(max(refusals - 1, 0), 12), 120.0)) * (0.75 + 0.25 * random)


def failover_delay(tries: int, *, random: float) -> float:
    """Return the seconds before an address whose server can't serve is tried again.

    Another server should take over within a minute or two, and the first job is to run within two
    seconds of that: so the pause is a second at most for five minutes. Later it is that of any
    refusal.
    """
    if tries > _MOST_FAILOVER_TRIES:
        return refusal_delay(tries - _MOST_FAILOVER_TRIES + 1, random=random)
    return float(min(0.1 * 2 ** min(max(tries - 1, 0), 4), 1.0)) * (0.75 + 0.25 * random)


def instability_delay(losses: int, *, random: float) -> float:
    """Return the seconds to wait after so many connections in a row that were lost at once."""
    if losses <= _PATIENT_LOSSES:
        return 0.0
    exponent = min(losses - _PATIENT_LOSSES - 1, 10)
    return float(min(0.1 * 2**exponent, 10.0)) * (0.75 + 0.25 * random)


def _is_about_server(refusal: str) -> bool:
    """Whether another server at the address may serve."""
    return cannot_serve(refusal) and not refusal.startswith(_UNKNOWN_USER)


class Reconnection:
    """Keeps ``connections`` open; ``generation`` counts how often one had to be reopened.

    ``where`` names the server in logs. If the ``route``'s credentials can change, a wrong password
    is tried again like an outage, and open connections log in anew with new ones.
    """

    def __init__(self, *connections: Connection, where: str, route: Route | None = None) -> None:
        self._connections = connections
        self._where = where
        self._route = route
        if route is not None:
            route.join(self)
        self.replaced = 0  # how often the server was left for another primary
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_server = asyncio.Event()
        self._credentials_change = route is not None and route.source.changes_credentials
        self._logins = LoginKeeper(route, *connections) if route and connections else None
        self._opened_at = float("-inf")
        self._soon_lost = 0
        self._task: asyncio.Task[None] | None = None
        self._refusals = 0
        self._pause: asyncio.Event | None = None
        self.generation = 0

    @property
    def is_open(self) -> bool:
        return all(connection.is_open for connection in self._connections)

    async def wait(self) -> None:
        """Connect for as long as it takes, and return once every connection is open."""
        if self.is_open:
            return
        if self._task is None:
            self._task = asyncio.create_task(self._open_all(), name="convolab-reconnect")
            self._task.add_done_callback(self._done)
        await asyncio.shield(self._task)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()

    async def _open_all(self) -> None:
        await self._pause_if_unstable()
        failures = refusals = 0
        logged = ""
        while not self.is_open:
            try:
                for connection in self._connections:
                    await connection.open()
            except RedisUnavailable as error:
                failures += 1
                refusal = error.__cause__ if isinstance(error.__cause__, RedisRefused) else None
                refusals = 0 if refusal is None else refusals + 1
                reason = str(error)
                if refusal is not None and _is_about_server(str(refusal)):
                    self._tell_refusal(refusal)
                elif reason != logged:
                    logged = reason
                    _log.error("redis.unavailable", error=reason)
                await self.pause(self._delay(failures, refusals, refusal))
        self.generation += 1
        self._opened_at = asyncio.get_running_loop().time()
        if self._logins is not None:
            self._logins.start()
        if failures:
            _log.info("redis.connected", redis=self._where, attempts=failures + 1)

    def _delay(self, failures: int, refusals: int, refusal: RedisRefused | None) -> float:
        """The seconds until the next attempt to connect."""
        drawn = chance()
        again = reconnect_delay(failures, random=drawn)
        if refusal is None:
            return again
        text = str(refusal)
        is_credentials = text.startswith(_UNKNOWN_USER)
        if _is_about_server(text) or (is_credentials and self._credentials_change):
            return max(failover_delay(refusals, random=drawn), again)
        passing = any(word in text for word in _PASSING)
        return max(refusal_delay(1 if passing else refusals, random=drawn), again)

    async def _pause_if_unstable(self) -> None:
        """Wait if connections are lost as soon as they are open, longer each time."""
        age = asyncio.get_running_loop().time() - self._opened_at
        self._soon_lost = self._soon_lost + 1 if age < _SOON_SECONDS else 0
        pause = instability_delay(self._soon_lost, random=chance())
        if pause:
            _log.warning(
                "redis.unstable", redis=self._where, losses=self._soon_lost, pause=round(pause, 3)
            )
            await self.pause(pause)

    # another primary

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until the Sentinels, if there are any, name another primary.

        The next primary may not have what was wrong with the last one.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._happens(self._next_server)

    async def _happens(self, event: asyncio.Event) -> None:
        """Wait for the event; the Sentinels are asked meanwhile, even if no connection is open."""
        route = self._route
        if route is None or not route.may_be_replaced:
            await event.wait()
            return
        self._loop = asyncio.get_running_loop()
        watching = asyncio.create_task(route.watch_primary(), name="convolab-sentinels")
        try:
            await event.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def leave(self, *_: object) -> None:
        """End all pauses, if the server was left for another primary; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits in it
                self._loop.call_soon_threadsafe(self._end_pauses)

    def _end_pauses(self) -> None:
        replaced = 0 if self._route is None else self._route.replaced
        if replaced == self.replaced:
            return  # the same server was found unable to serve
        self.replaced, self._soon_lost = replaced, 0
        self._next_server.set()
        self._next_server = asyncio.Event()
        if self._pause is not None:
            self._end_pause(self._pause)

    def explain(self, error: RedisRefused) -> str:
        """Return one sentence for an operator: which Redis refuses what, and what to do."""
        return explain(str(error), self._where)

    async def refused(self, error: RedisRefused) -> None:
        """Pause after Redis refused a command, longer each time; the first time is logged.

        All who are refused during a pause share it. The first command that Redis takes ends it. If
        the server can't serve any more, its connections are closed, and this waits for connections
        to a server that can. If those are open already, the refusal is an old one.
        """
        if cannot_serve(str(error)):
            self._tell_refusal(error)
            await self.wait()
            return
        if self._pause is None:
            self._tell_refusal(error)
            self._pause = asyncio.Event()
            loading = str(error).startswith(_PASSING)
            delay = refusal_delay(1 if loading else self._refusals, random=chance())
            asyncio.get_running_loop().call_later(delay, self._end_pause, self._pause)
        await self._happens(self._pause)

    def _tell_refusal(self, error: RedisRefused) -> None:
        self._refusals += 1
        if self._refusals == 1:
            _log.error("redis.refused", error=self.explain(error))

    def _end_pause(self, pause: asyncio.Event) -> None:
        pause.set()
        if self._pause is pause:
            self._pause = None

    async def answered(
        self, ask: Callable[[], Awaitable[_T]], *, most_losses: int = _MOST_LOSSES
    ) -> _T:
        """Call ``ask`` again after every outage and refusal; return what it returns.

        It is for questions only, since what ``ask`` sends may be executed more than once. Raises
        RedisRefused where Redis refuses again and again for a reason that lies in what is stored,
        and ReplyLost where the connection is lost with the question more than ``most_losses``
        times.
        """
        refusals = losses = 0
        while True:
            await self.wait()
            try:
                answer = await ask()
            except RedisRefused as error:
                refusals += is_about_data(str(error))
                if refusals > _PATIENT_REFUSALS:
                    raise
                await self.refused(error)
            except RedisUnavailable as error:
                losses += isinstance(error, ReplyLost)
                if losses > most_losses:
                    raise
                _log.debug("redis.lost", error=str(error))
            else:
                self.served()
                return answer

    def served(self) -> None:
        """Note that Redis took a command: refusals and losses are counted from 0 again."""
        self._soon_lost = 0
        if self._refusals:
            _log.info("redis.recovered", redis=self._where, refusals=self._refusals)
            self._refusals = 0
            if self._pause is not None:
                self._end_pause(self._pause)

    async def close(self) -> None:
        """Stop connecting, and close every connection; a later ``wait`` opens them again."""
        if self._logins is not None:
            await self._logins.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._opened_at = float("-inf")  # a connection that is closed on purpose is not lost
        for connection in self._connections:
            await connection.close()
