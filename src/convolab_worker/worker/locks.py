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
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import Struct

from convolab_worker._logs import Log
from convolab_worker.bullmq.job_lock import take_back
from convolab_worker.bullmq.protocol.records import text
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.bullmq.worker_side.reconcile import reclaim
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.connection.connection import Connection
from convolab_worker.errors import RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from convolab_worker.bullmq.jobs.outcome import Failed, Returned
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.connection.commands.usage import CommandCounter
    from convolab_worker.connection.route import Route

# How long the connection stays open, at most, after the last job.
_OPEN_SECONDS = 1.0
J = TypeVar("J", bound="HeldLock")

_log = Log()
# The thread looks every eighth of a lock's duration and renews what is older than three eighths,
# so that no lock is older than half its duration.
_LOOK_PART = 1 / 8
_OLD_PART = 3 / 8
# How long a look, a connection and a renewal take at most.
_TRY_PART = 1 / 4
# If the connection is lost with every renewal, the pauses grow once all locks have run out.
_LONGEST_PART = 1 / 2
# If a look takes longer than this, the thread did not wait for Redis: the whole process stood
# still.
_STILL_PART = 3 / 4


class HeldLock(Struct, eq=False):
    """The lock of a job that this worker has, locked or renewed at ``renewed_at`` (monotonic).

    The lock keeper's thread writes ``renewed_at`` and ``is_lost``.
    """

    job: ActiveJob
    renewed_at: float
    is_lost: bool = False
    is_doubted: bool = False  # the lock may hold a cancel request: check it at once


class LockKeeper(Generic[J]):
    """Renews the locks of all ``jobs`` from a thread of its own, which a blocked loop can't stop.

    ``on_lost`` hears of jobs whose lock is gone, ``on_cancelled`` of jobs that somebody wants to
    end, and how; both are called in the keeper's thread, as is ``on_look``.
    """

    def __init__(
        self,
        address: Route,
        backend: Backend,
        counter: CommandCounter,
        jobs: Collection[J],
        *,
        lock_duration: float,
        on_lost: Callable[[J], None],
        on_cancelled: Callable[[J, Failed | Returned], None],
        on_look: Callable[[], None],
    ) -> None:
        self._address = address
        self._transitions = backend.transitions
        self._keys = backend.keys
        self._counter = counter
        self._jobs = jobs
        self._duration = lock_duration
        self.half_life = lock_duration / 2
        self._on_lost = on_lost
        self._on_cancelled = on_cancelled
        self._on_look = on_look
        self._alive_at = time.monotonic()
        self._stood_still_at = float("-inf")
        self._failing_since: float | None = None
        self._wanted = asyncio.Event()
        self._is_parked = False
        self._hurried = asyncio.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._instead: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def job_added(self, held: J) -> None:
        """A job came into hand: its lock is kept from now on. The first one starts the thread."""
        if len(self._jobs) == 1:
            self._alive_at = held.renewed_at
        if self._thread is None and self._instead is None:
            self._start()
        elif self._is_parked:
            self._call(self._wanted.set)

    def _start(self) -> None:
        """Start the thread. Without one, the event loop does the work until one starts.

        Without either, every lock would run out, and each job would run a second time elsewhere.
        """
        thread = threading.Thread(target=self._main, name="convolab-locks", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            _log.error("locks.no_thread", error=str(error))
            self._instead = asyncio.create_task(self._keep_here(), name="convolab-locks")
        else:
            self._thread = thread

    async def _keep_here(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await self._keep()
        finally:
            self._instead = self._task = None

    def may_reclaim(self, held: HeldLock) -> bool:
        """Whether this process has been awake since the job's lock was last renewed.

        Then a lock ran out because Redis was away, for all other workers, too.
        """
        is_awake = time.monotonic() - self._alive_at <= self._duration * _STILL_PART
        return is_awake and held.renewed_at > self._stood_still_at

    def check_soon(self, held: J) -> None:
        """Check this job's lock at once: it may hold a cancel request."""
        held.is_doubted = True
        self.hurry()

    def hurry(self) -> None:
        """Check the locks at once: they may have run out while Redis was away."""
        self._call(self._hurried.set)

    def stop(self) -> None:
        """End the thread; held locks run out by themselves."""
        self._stopped = True
        if self._task is not None:
            self._call(self._task.cancel)

    def _call(self, what: Callable[[], object]) -> None:
        """Call a function in the keeper's loop."""
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # the thread has ended, and its loop with it
                self._task.get_loop().call_soon_threadsafe(what)

    def _main(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._keep())

    async def _keep(self) -> None:
        self._task = asyncio.current_task()
        patience = self._duration * _TRY_PART
        connection = Connection(
            self._address,
            timeout=patience,
            counter=self._counter,
            connect_timeout=min(patience, 5.0),
        )
        try:
            while not self._stopped:
                pause = self._pause()
                if not self._jobs:
                    await connection.close()
                    if self._instead is not None:  # the next job tries to start a thread again
                        return
                    await self._park()
                    continue
                await self._nap(min(pause, _OPEN_SECONDS) if connection.is_open else pause)
                await self._look(connection)
                self._note_time()
        finally:
            await connection.close()

    def _pause(self) -> float:
        """The seconds until the next look: longer, once renewals have failed for a whole lock."""
        pause = self._duration * _LOOK_PART
        if self._failing_since is None:
            return pause
        late = time.monotonic() - self._failing_since - self._duration
        return min(pause + max(late, 0.0), self._duration * _LONGEST_PART)

    async def _park(self) -> None:
        """Wait for the first job; the loop goes on turning, or the connection would stay open."""
        self._is_parked = True
        if not self._jobs and not self._stopped:  # a job that came just before has woken nobody
            await self._wanted.wait()
        self._is_parked = False
        self._wanted.clear()

    async def _nap(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurried.wait()
        self._hurried.clear()

    async def _look(self, connection: Connection) -> None:
        try:
            self._on_look()
            await self._renew_old(connection)
        except Exception:  # noqa: BLE001 - without this thread every lock would run out
            _log.exception("locks.failed")

    def _note_time(self) -> None:
        now = time.monotonic()
        if now - self._alive_at > self._duration * _STILL_PART:
            self._stood_still_at = now
            _log.warning("process.suspended", seconds=round(now - self._alive_at, 3))
        self._alive_at = now

    async def _renew_old(self, connection: Connection) -> None:
        now = time.monotonic()
        old_age = self._duration * _OLD_PART
        old: dict[str, list[J]] = defaultdict(list)
        for held in list(self._jobs):
            if not held.is_lost and (now - held.renewed_at >= old_age or held.is_doubted):
                old[held.job.queue].append(held)
        for queue, jobs in old.items():
            try:
                await connection.open()
                await self._renew(connection, queue, jobs)
            except RedisUnavailable as error:
                if self._failing_since is None:
                    self._failing_since = now
                _log.warning("locks.not_renewed", jobs=len(jobs), error=str(error))
                return
            self._failing_since = None

    async def _renew(self, connection: Connection, queue: str, jobs: list[J]) -> None:
        asked_at = time.monotonic()
        call = self._transitions[queue].extend_locks(
            [(held.job.id, held.job.token) for held in jobs], round(self._duration * 1000)
        )
        gone = await run_script(connection, Purpose.LOCK, call)
        lost = {text(job_id) for job_id in gone}
        for held in jobs:
            if held not in self._jobs:
                continue
            held.is_doubted = False
            if held.job.id not in lost or await self._regained(connection, held):
                held.renewed_at = asked_at
            else:
                held.is_lost = True
                self._on_lost(held)

    async def _regained(self, connection: Connection, held: J) -> bool:
        """Whether a lock that seemed lost is ours all the same."""
        keys = self._keys[held.job.queue]
        taken = await take_back(connection, keys, held.job, self._duration)
        if taken is None:
            return self.may_reclaim(held) and await reclaim(
                connection, keys, held.job, self._duration
            )
        if taken.asked is not None:
            self._on_cancelled(held, taken.asked)
        return True
