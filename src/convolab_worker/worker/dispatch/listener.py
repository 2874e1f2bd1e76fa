"""Blocks on the markers of the queues that have nothing to fetch: one read for all of them.

The read is down or up, and is never cancelled to wake the worker:

    down -- listen() -->           up     (BZPOPMIN over the markers, in rotation)
    up   -- a marker -->           down   (its queue is ready, or is probed first)
    up   -- its time is over -->   down   (a probe is due; the next wait is longer)
    up   -- connection lost -->    down   (reconnect, then probe every queue)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from convolab_worker._chance import chance
from convolab_worker._logs import Log
from convolab_worker.errors import RedisRefused, RedisUnavailable
from convolab_worker.worker.dispatch.idle_backoff import cut, next_wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.bullmq.protocol.records import Marker
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.worker.dispatch.idle_backoff import Bounds


class Wakeup:
    """Set by anybody, waited for by one; set many times before a wait, it ends one wait.

    Clear it before looking for work, never after: a wake in the middle of a look is then kept.
    """

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """End the wait, or the next one; from the loop's own thread."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until it is set, at most ``timeout`` seconds."""
        if self._is_set or (timeout is not None and timeout <= 0):
            return
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None
        if timeout is not None:
            timer = loop.call_later(timeout, _end, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


_log = Log()


class ReadEnd(Struct, frozen=True):
    """How a blocking read ended: with a marker, or because the whole wait was over."""

    marker: Marker | None
    is_over: bool


class MarkerListener:
    """Owns the blocking read and the length of the next one; sets ``wakeup`` when a read ends."""

    def __init__(self, backend: Backend, wakeup: Wakeup, bounds: Bounds) -> None:
        self._backend = backend
        self._wakeup = wakeup
        self._bounds = bounds
        self._read: asyncio.Task[None] | None = None
        self._names: frozenset[str] = frozenset()
        self._is_unblocked = False
        self._wait: float | None = None
        self._until: float | None = None
        self._rotation = 0
        self._heard: list[ReadEnd] = []
        self._refusal: RedisRefused | None = None

    @property
    def level(self) -> dict[str, Any]:
        """The wait's length in seconds and its end (epoch seconds), for ``stats``."""
        return {"wait": self._wait, "until": self._until if self._read else None}

    def heard(self) -> Sequence[ReadEnd]:
        """What reads that have ended heard, once. Raises the RedisRefused that ended one."""
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal
        if not self._heard:
            return ()
        heard, self._heard = self._heard, []
        return heard

    def work_seen(self) -> None:
        """A job was fetched: the next wait is the shortest."""
        self._wait = None

    def listen(self, names: Sequence[str], now: float, due_at: float | None) -> None:
        """Block on the markers of ``names``, until ``due_at`` at most, if no read is up.

        A read that is up and lacks one of the names is ended, for the next call to begin anew.
        """
        if not names:
            return
        if self._read is not None:
            if not self._is_unblocked and not self._names.issuperset(names):
                self._is_unblocked = self._backend.unblock()
            return
        self._rotation += 1
        turn = self._rotation % len(names)
        if self._wait is None:
            self._wait = next_wait(None, bounds=self._bounds, random=0.0)
        seconds = cut(self._wait, until_due=None if due_at is None else due_at - now)
        self._names = frozenset(names)
        self._until = now + seconds
        self._is_unblocked = False
        self._read = asyncio.create_task(
            self._block([*names[turn:], *names[:turn]], seconds, is_whole=seconds == self._wait),
            name="convolab-listen",
        )

    async def _block(self, names: list[str], seconds: float, *, is_whole: bool) -> None:
        try:
            marker = await self._backend.listen(names, seconds)
        except RedisRefused as error:
            self._refusal = error
        except RedisUnavailable as error:
            _log.debug("listen.lost", error=str(error))
        else:
            is_over = marker is None and is_whole and not self._is_unblocked
            if is_over:
                self._wait = next_wait(self._wait, bounds=self._bounds, random=chance())
            self._heard.append(ReadEnd(marker, is_over))
        finally:
            self._read = None
            self._wakeup.set()

    async def close(self, patience: float) -> None:
        """End the read within ``patience`` seconds; what it still hears is kept for ``heard``.

        The read is asked to end and not cancelled: it may just have popped a marker that no other
        worker will see.
        """
        self._wait = None
        read = self._read
        if read is None:
            return
        self._is_unblocked = self._backend.unblock()
        await asyncio.wait({read}, timeout=patience)
        if not read.done():
            self._backend.abort_listening()
        read.cancel()
