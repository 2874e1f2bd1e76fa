"""Keeps the locks of running and parked jobs, from a thread that the event loop can't block.

A handler that blocks the loop must not lose its lock: another worker would run the job again. So
renewals leave from a thread of their own, with a loop and a connection of their own that open only
when there is something to renew: a job that ends within three eighths of its lock costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import structlog

from convolab_worker.bullmq.job_lock import take_back
from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.records import text
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.bullmq.reconcile import reclaim
from convolab_worker.connection.connection import Link
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.bullmq.backend import Queues
    from convolab_worker.bullmq.outcome import Failed, Returned
    from convolab_worker.bullmq.protocol.records import Lease
    from convolab_worker.connection.address import Route
    from convolab_worker.connection.usage import Meter

_log = structlog.get_logger("convolab_worker")
# The thread looks every eighth of a lock's duration and renews what is older than three eighths,
# so that no lock is older than half its duration.
_LOOK_PART = 1 / 8
_OLD_PART = 3 / 8
# How long a look, a connection and a renewal take at most.
_TRY_PART = 1 / 4
# A thread that is not back after this was not waiting for Redis: the whole process stood still.
_STILL_PART = 3 / 4


class LockKeeper:
    """Renews the locks of every held lease; ``on_lost`` hears of those that are gone.

    ``on_cancelled`` hears of jobs that somebody wants to end, and how. ``hold`` and ``release`` are
    cheap and belong to the loop's thread; the others are called in the keeper's.
    """

    def __init__(
        self,
        address: Route,
        queues: Queues,
        meter: Meter,
        *,
        lock_duration: float,
        on_lost: Callable[[Lease], None],
        on_cancelled: Callable[[Lease, Failed | Returned], None],
        on_look: Callable[[], None],
    ) -> None:
        """Start nothing: the first lease that is held starts the thread."""
        self._address = address
        self._transitions = queues.transitions
        self._keys = queues.keys
        self._meter = meter
        self._duration = lock_duration
        self.half_life = lock_duration / 2
        self._on_lost = on_lost
        self._on_cancelled = on_cancelled
        self._doubted: set[Lease] = set()
        self._on_look = on_look
        self._held: dict[Lease, float] = {}
        self._alive_at = time.monotonic()
        self._stood_still_at = float("-inf")
        self._wanted = threading.Event()
        self._hurried = asyncio.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None

    def hold(self, lease: Lease) -> None:
        """Keep the lease's lock from now on; it was taken just now."""
        self._held[lease] = time.monotonic()
        if len(self._held) == 1:
            self._alive_at = self._held[lease]
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="convolab-locks", daemon=True)
            self._thread.start()
        elif not self._wanted.is_set():
            self._wanted.set()

    def release(self, lease: Lease) -> None:
        """Keep the lease's lock no longer."""
        self._held.pop(lease, None)

    def may_reclaim(self, lease: Lease) -> bool:
        """Whether this process has been awake since the lease's lock was last renewed.

        A lock that ran out then did so since Redis was away, and with it every other worker.
        """
        renewed_at = self._held.get(lease)
        is_awake = time.monotonic() - self._alive_at <= self._duration * _STILL_PART
        return renewed_at is not None and renewed_at > self._stood_still_at and is_awake

    def doubt(self, lease: Lease) -> None:
        """Look at this lease's lock at once: something is said to stand in it."""
        self._doubted.add(lease)
        self.hurry()

    def hurry(self) -> None:
        """Look at the locks at once: they may have run out while Redis was away."""
        task = self._task
        if task is not None:
            with contextlib.suppress(RuntimeError):  # it has ended, and its loop with it
                task.get_loop().call_soon_threadsafe(self._hurried.set)

    def stop(self) -> None:
        """End the thread; locks that are held run out by themselves."""
        self._stopped = True
        self._wanted.set()
        task = self._task
        if task is not None:
            with contextlib.suppress(RuntimeError):  # it has ended, and its loop with it
                task.get_loop().call_soon_threadsafe(task.cancel)

    def _main(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._keep())

    async def _keep(self) -> None:
        self._task = asyncio.current_task()
        patience = self._duration * _TRY_PART
        link = Link(
            self._address, timeout=patience, meter=self._meter, connect_timeout=min(patience, 5.0)
        )
        pause = self._duration * _LOOK_PART
        try:
            while not self._stopped:
                if not self._held:
                    await link.close()
                    self._wanted.clear()
                    if (
                        not self._held and not self._stopped
                    ):  # a lease that came in between has set the event again
                        self._wanted.wait()  # this loop has nothing else to do
                    continue
                await self._nap(pause)
                await self._look(link)
                self._note_time()
        finally:
            await link.close()

    async def _nap(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurried.wait()
        self._hurried.clear()

    async def _look(self, link: Link) -> None:
        try:
            self._on_look()
            await self._renew_old(link)
        except Exception:  # noqa: BLE001 - without this thread every lock would run out
            _log.exception("locks.failed")

    def _note_time(self) -> None:
        now = time.monotonic()
        if now - self._alive_at > self._duration * _STILL_PART:
            self._stood_still_at = now
            _log.warning("locks.stood_still", seconds=round(now - self._alive_at, 3))
        self._alive_at = now

    async def _renew_old(self, link: Link) -> None:
        now = time.monotonic()
        old_age = self._duration * _OLD_PART
        old: dict[str, list[Lease]] = defaultdict(list)
        for lease, renewed_at in list(self._held.items()):
            if now - renewed_at >= old_age or lease in self._doubted:
                old[lease.queue].append(lease)
        for queue, leases in old.items():
            try:
                await link.open()
                await self._renew(link, queue, leases)
            except RedisUnavailable as error:
                _log.warning("locks.not_renewed", jobs=len(leases), error=str(error))
                return

    async def _renew(self, link: Link, queue: str, leases: list[Lease]) -> None:
        asked_at = time.monotonic()
        call = self._transitions[queue].extend_locks(
            [(lease.id, lease.token) for lease in leases], round(self._duration * 1000)
        )
        gone = await script(call.script).run(link, "lock", call.keys, call.args)
        self._meter.count_inner("lock", script_costs.RENEWAL * len(leases))
        lost = {text(job_id) for job_id in gone}
        for lease in leases:
            if lease not in self._held:
                continue
            self._doubted.discard(lease)
            if lease.id not in lost or await self._regained(link, lease):
                self._held[lease] = asked_at
            else:
                self._held.pop(lease, None)
                self._on_lost(lease)

    async def _regained(self, link: Link, lease: Lease) -> bool:
        """Whether a lock that seemed lost is ours all the same."""
        keys = self._keys[lease.queue]
        taken = await take_back(link, keys, lease, self._duration)
        if taken is None:
            return await self._reclaimed(link, lease)
        if taken.asked is not None:
            self._on_cancelled(lease, taken.asked)
        return True

    async def _reclaimed(self, link: Link, lease: Lease) -> bool:
        if not self.may_reclaim(lease):
            return False
        return await reclaim(link, self._keys[lease.queue], lease, self._duration)
