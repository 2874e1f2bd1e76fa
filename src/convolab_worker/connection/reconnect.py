"""Brings lost connections back, once for all who wait, and says so once."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, TypeVar

import structlog

from convolab_worker.connection.error_replies import explain
from convolab_worker.errors import RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from convolab_worker.connection.connection import Connection

_log = structlog.get_logger("convolab_worker")
_T = TypeVar("_T")

_MINUTES_OF_FAILURES = 400
# States of a server that pass by themselves, soon: asking again costs little.
_PASSING = ("LOADING", "BUSY", "ASK ", "TRYAGAIN", "CLUSTERDOWN")


def reconnect_delay(failures: int, *, random: float) -> float:
    """How long to wait before connecting again after ``failures`` refused connections.

    Nobody bills a connection that fails, and the first job is to run within a second of the
    server's return: so up to half a second for the first minutes, then up to 5.
    """
    if failures <= 0:
        return 0.0
    longest = 0.5 if failures < _MINUTES_OF_FAILURES else 5.0
    return float(min(0.02 * 2 ** min(failures, 10), longest)) * (0.75 + 0.25 * random)


def refusal_delay(refusals: int, *, random: float) -> float:
    """How long to pause after Redis answered ``refusals`` commands in a row with an error.

    A server that is full, read-only, loading or over its quota answers, and bills, every try: so
    pauses grow from half a second to two minutes.
    """
    return float(min(0.5 * 2 ** min(max(refusals - 1, 0), 12), 120.0)) * (0.75 + 0.25 * random)


class Reconnection:
    """Keeps ``connections`` open; ``generation`` counts how often one had to be reopened."""

    def __init__(self, *connections: Connection, where: str) -> None:
        """Open nothing yet."""
        self._connections = connections
        self._where = where
        self._task: asyncio.Task[None] | None = None
        self._refusals = 0
        self._pause: asyncio.Event | None = None
        self.generation = 0

    @property
    def is_open(self) -> bool:
        """Whether every connection is open."""
        return all(connection.is_open for connection in self._connections)

    async def wait(self) -> None:
        """Wait until every connection is open, connecting for as long as it takes."""
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
        failures = 0
        refusals = 0
        said = ""
        while not self.is_open:
            try:
                for connection in self._connections:
                    await connection.open()
            except RedisUnavailable as error:
                failures += 1
                answered = isinstance(error.__cause__, RedisRefused)
                refusals = refusals + 1 if answered else 0
                if str(error) != said:
                    said = str(error)
                    _log.error("redis.unavailable", error=said)
                chance = random.random()
                passing = any(word in said for word in _PASSING)
                refusals = 1 if passing else refusals
                delay = refusal_delay(refusals, random=chance) if answered else 0.0
                await asyncio.sleep(max(delay, reconnect_delay(failures, random=chance)))
        self.generation += 1
        if failures:
            _log.info("redis.connected", redis=self._where, attempts=failures + 1)

    async def refused(self, error: RedisRefused) -> None:
        """Pause after Redis refused a command: longer from time to time; say why once.

        Whoever is refused during a pause shares it, and the first command that is taken ends it.
        """
        if self._pause is None:
            self._refusals += 1
            if self._refusals == 1:
                _log.error("redis.refused", error=explain(str(error), self._where))
            self._pause = asyncio.Event()
            loading = str(error).startswith(_PASSING)
            delay = refusal_delay(1 if loading else self._refusals, random=random.random())
            asyncio.get_running_loop().call_later(delay, self._end_pause, self._pause)
        await self._pause.wait()

    def _end_pause(self, pause: asyncio.Event) -> None:
        pause.set()
        if self._pause is pause:
            self._pause = None

    async def answered(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """The answer to a question that changes nothing: asked again after every outage."""
        while True:
            await self.wait()
            try:
                answer = await ask()
            except RedisRefused as error:
                await self.refused(error)
            except RedisUnavailable as error:
                _log.debug("redis.lost", error=str(error))
            else:
                self.served()
                return answer

    def served(self) -> None:
        """Redis took a command: the next refusal is a new one."""
        if self._refusals:
            _log.info("redis.serves_again", redis=self._where, refusals=self._refusals)
            self._refusals = 0
            if self._pause is not None:
                self._end_pause(self._pause)

    async def close(self) -> None:
        """Stop connecting, and close every connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for connection in self._connections:
            await connection.close()
