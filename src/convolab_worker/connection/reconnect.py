"""Brings lost connections back, once for everybody who waits, and logs it once."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, TypeVar

import structlog

from convolab_worker.connection.error_replies import explain, is_about_data
from convolab_worker.errors import RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from convolab_worker.connection.connection import Connection

_log = structlog.get_logger("convolab_worker")
_T = TypeVar("_T")

_MINUTES_OF_FAILURES = 400
# So often in a row a refusal that is about stored data is believed.
_PATIENT_REFUSALS = 2
# States of a server that pass by themselves, soon: asking again costs little.
_PASSING = ("LOADING", "BUSY", "ASK ", "TRYAGAIN", "CLUSTERDOWN")


def reconnect_delay(failures: int, *, random: float) -> float:
    """Return the seconds to wait before connecting again, after so many failures in a row.

    Nobody bills a connection that fails, and the first job is to run within a second of the
    server's return: hence half a second at most for the first minutes, and later 5.
    """
    if failures <= 0:
        return 0.0
    longest = 0.5 if failures < _MINUTES_OF_FAILURES else 5.0
    return float(min(0.02 * 2 ** min(failures, 10), longest)) * (0.75 + 0.25 * random)


def refusal_delay(refusals: int, *, random: float) -> float:
    """Return the seconds to pause, after Redis answered so many commands in a row with an error.

    A server that is full, read-only, loading or over its quota answers, and bills, every try:
    hence pauses that grow from half a second to two minutes.
    """
    return float(min(0.5 * 2 ** min(max(refusals - 1, 0), 12), 120.0)) * (0.75 + 0.25 * random)


class Reconnection:
    """Keeps ``connections`` open; ``generation`` counts how often one had to be reopened.

    ``where`` names the server in logs.
    """

    def __init__(self, *connections: Connection, where: str) -> None:
        self._connections = connections
        self._where = where
        self._task: asyncio.Task[None] | None = None
        self._refusals = 0
        self._pause: asyncio.Event | None = None
        self.generation = 0

    @property
    def is_open(self) -> bool:
        return all(connection.is_open for connection in self._connections)

    async def wait(self) -> None:
        """Return once every connection is open; connects for as long as that takes."""
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
        failures = refusals = 0
        logged = ""
        while not self.is_open:
            try:
                for connection in self._connections:
                    await connection.open()
            except RedisUnavailable as error:
                failures += 1
                reason, chance, delay = str(error), random.random(), 0.0
                if reason != logged:
                    logged = reason
                    _log.error("redis.unavailable", error=reason)
                if isinstance(error.__cause__, RedisRefused):
                    passing = any(word in reason for word in _PASSING)
                    refusals = 1 if passing else refusals + 1
                    delay = refusal_delay(refusals, random=chance)
                else:
                    refusals = 0
                await asyncio.sleep(max(delay, reconnect_delay(failures, random=chance)))
        self.generation += 1
        if failures:
            _log.info("redis.connected", redis=self._where, attempts=failures + 1)

    def explain(self, error: RedisRefused) -> str:
        """Return one sentence for an operator: which Redis refuses, what, and what to do."""
        return explain(str(error), self._where)

    async def refused(self, error: RedisRefused) -> None:
        """Pause after Redis refused a command, longer each time; the first time is logged.

        All who are refused during a pause share it. The first command that Redis takes ends it.
        """
        if self._pause is None:
            self._refusals += 1
            if self._refusals == 1:
                _log.error("redis.refused", error=self.explain(error))
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
        """Return what ``ask`` returns; it is called again after every outage and refusal.

        For questions only: what ``ask`` sends may be executed more than once. Raises RedisRefused
        where Redis refuses again and again for a reason that lies in what is stored.
        """
        refusals = 0
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
                _log.debug("redis.lost", error=str(error))
            else:
                self.served()
                return answer

    def served(self) -> None:
        """Note that Redis took a command: the next refusal is the first of its kind."""
        if self._refusals:
            _log.info("redis.recovered", redis=self._where, refusals=self._refusals)
            self._refusals = 0
            if self._pause is not None:
                self._end_pause(self._pause)

    async def close(self) -> None:
        """Stop connecting, and close every connection; a later ``wait`` opens them again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for connection in self._connections:
            await connection.close()
