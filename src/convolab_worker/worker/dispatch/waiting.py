"""Waiting for work on all queues with one blocked connection, and the sweeps beside it.

The block is ``down`` or ``up``, and is never cancelled to wake up:

    down -- arm() -->                           up     (BZPOPMIN over the quiet queues' markers)
    up   -- a marker -->                        down   (its queue is ready, or looked at first)
    up   -- time over -->                       down   (a sweep is due; the next wait is longer)
    up   -- connection lost -->                 down   (reconnect, then look at every queue)
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import structlog

from convolab_worker.bullmq import reconcile
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import RedisRefused, RedisUnavailable
from convolab_worker.worker.dispatch import idle_backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convolab_worker.bullmq.backend import Backend, QueueContents
    from convolab_worker.connection.connection import Connection
    from convolab_worker.worker.dispatch.slots import Slots
    from convolab_worker.worker.dispatch.wake_signal import Signal

_log = structlog.get_logger("convolab_worker")
_FOREVER = float("inf")
# A queue at its own concurrency is looked at again after this; no marker tells of a free place.
_FULL_QUEUE_SECONDS = 1.0
# While every slot is busy, other queues are looked at this often, at the end of a job.
_GLANCE_SECONDS = 0.5
# How long workers that were cut off take to be back, at most, and to lock their jobs again.
_RETURN_SECONDS = 6.0
_WORK_KINDS = ("wait", "prioritized", "delayed")


class Waiting:
    """Learns of jobs without taking them; tells ``slots`` which queues are ready."""

    def __init__(
        self,
        backend: Backend,
        slots: Slots[Any],
        signal: Signal,
        *,
        waiting: Connection,
        bounds: idle_backoff.Bounds,
        held_here: Callable[[str], set[str]],
        on_cancel: Callable[[str, str], None],
        max_stalled: int,
        lock_duration: float,
    ) -> None:
        """Keep the collaborators; ``held_here`` gives the ids of the jobs that this worker has.

        ``on_cancel`` hears of the queue and id of one of them that somebody wants to end.
        """
        self._backend = backend
        self._slots = slots
        self._signal = signal
        self._waiting = waiting
        self._bounds = bounds
        self._held_here = held_here
        self._on_cancel = on_cancel
        self._max_stalled = max_stalled
        self._lock_duration = lock_duration
        self._block: asyncio.Task[None] | None = None
        self._blocked_on: frozenset[str] = frozenset()
        self._unblocked = False
        self._wait: float | None = None
        self._blocked_until: float | None = None
        self._rotation = 0
        self._sweep_due = False
        self._swept_at = time.monotonic()
        self._pause_checks: dict[str, tuple[float, float]] = {}
        self._full_holds: dict[str, float] = {}
        self._refusal: RedisRefused | None = None
        self._taken: set[str] = set()  # queues whose marker a take of ours has set again
        self._doubted: set[str] = set()  # a marker was popped that may be left from such a take
        self._stalled_check: dict[str, float] = {}
        self._check_from = 0.0
        self._others: set[str] = set()  # queues where another worker was seen to have jobs
        self._due_checked: dict[str, float] = {}
        self._glanced_at = 0.0
        self.all_empty = False  # as the last look round found every queue

    # what the engine tells

    def took(self, queue: str, now: float) -> None:
        """A job was taken: the next wait is the shortest, and its marker is set again."""
        self._wait = None
        self._taken.add(queue)
        self._full_holds.pop(queue, None)
        self._stalled_check.setdefault(queue, now + self._lock_duration)

    def doubt(self, queue: str) -> None:
        """A marker was heard of that may be a take's own, or tell of a job: look."""
        self._doubted.add(queue)
        self._signal.set()

    def suspect(self, queue: str, *, after: float | None = None) -> None:
        """Another worker has a job of the queue, or nobody has: look for stalled jobs later.

        ``after`` is in seconds; by default when the lock of a job that runs has run out.
        """
        self._others.add(queue)
        at = time.time() + (self._lock_duration if after is None else after)
        self._stalled_check[queue] = min(at, self._stalled_check.get(queue, _FOREVER))
        self._signal.set()

    @property
    def level(self) -> dict[str, Any]:
        """The wait's length and end, for ``stats``."""
        return {"wait": self._wait, "until": self._blocked_until if self._block else None}

    def next_time(self) -> float | None:
        """When ``tend`` has something to do, unless told before; epoch seconds."""
        if self._sweep_due or self._doubted:
            return 0.0
        return min(self._stalled_check.values(), default=None)

    def next_check(self) -> float | None:
        """When the lock of a job that somebody else has runs out, where one was seen."""
        return min(
            (self._stalled_check[q] for q in self._others & {*self._stalled_check}), default=None
        )

    # the block

    def raise_refusal(self) -> None:
        """Raise the error that the last block was refused with, if it was."""
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    def arm(self, now: float) -> None:
        """Block on the quiet queues' markers, if a slot is free and no block is up."""
        wanted = self._slots.waitable(now)
        if not wanted:
            return
        if self._block is not None:
            if not self._unblocked and not self._blocked_on.issuperset(wanted):
                self._unblock()
            return
        self._rotation += 1
        turn = self._rotation % len(wanted)
        due = self._slots.next_time()
        if self._wait is None:
            self._wait = idle_backoff.next_wait(None, bounds=self._bounds, random=0.0)
        seconds = idle_backoff.cut(self._wait, until_due=None if due is None else due - now)
        self._blocked_on = frozenset(wanted)
        self._blocked_until = now + seconds
        self._unblocked = False
        self._block = asyncio.create_task(
            self._block_on([*wanted[turn:], *wanted[:turn]], seconds, whole=seconds == self._wait),
            name="convolab-block",
        )

    def _unblock(self) -> None:
        """End the block: a queue became quiet that it does not listen to."""
        if self._waiting.client_id is not None:
            self._unblocked = True
            self._backend.connection.call(
                Purpose.LISTEN, "CLIENT", "UNBLOCK", self._waiting.client_id
            )

    async def _block_on(self, names: list[str], seconds: float, *, whole: bool) -> None:
        try:
            marker = await self._backend.listen(names, seconds)
        except RedisRefused as error:
            self._refusal = error
        except RedisUnavailable as error:
            _log.debug("wait.lost", error=str(error))
        else:
            # Where jobs come often no wait is ever whole; a sweep is due all the same.
            self._sweep_due |= time.monotonic() - self._swept_at >= self._bounds.longest
            if marker is not None and marker.cancelled is not None:
                self._on_cancel(marker.queue, marker.cancelled)
            elif marker is not None:
                self._marked(marker.queue, marker.due_at)
            elif whole and not self._unblocked:
                self._sweep_due = True
                self._wait = idle_backoff.next_wait(
                    self._wait,
                    bounds=self._bounds,
                    random=random.random(),
                )
        finally:
            self._block = None
            self._signal.set()

    def _marked(self, queue: str, due_at: float | None) -> None:
        now = time.time()
        if due_at is not None and due_at > now:
            self._slots.due(queue, due_at)
            return
        standing = self._slots.standing[queue]
        if standing.held_until == _FOREVER:
            standing.held_until = None
        if due_at is not None:
            standing.asks_due = True
        elif queue in self._taken:
            self._taken.discard(queue)
            self._doubted.add(queue)
            return
        self._slots.ready(queue)
        self.pass_on_if_busy(queue)

    def pass_on_if_busy(self, queue: str) -> None:
        """Announce again what this worker can't take, for a worker that can."""
        if self._slots.free <= 0 or not self._slots.is_open(queue):
            self._backend.republish_marker(queue)

    # sweeps

    async def tend(self, now: float) -> None:
        """Do what is due: a look after a doubtful marker, a sweep after a wait, stalled checks."""
        doubted, self._doubted = self._doubted, set()
        for queue in doubted:
            sight = (await self._backend.probe([queue]))[queue]
            if sight.ready:
                self._slots.ready(queue, sure=True)
                self.pass_on_if_busy(queue)
            elif sight.active and not self._held_here(queue):
                self.suspect(queue)
        if self._sweep_due:
            self._sweep_due = False
            await self._sweep(now)
            await self._look_for_earlier(now)
        for queue, at in list(self._stalled_check.items()):
            if at <= now:
                await self._check_stalled(queue, now)

    async def _sweep(self, now: float) -> None:
        self._swept_at = time.monotonic()
        await self._look_at_pauses()
        names = self._backend.names
        if len(names) > 1 and not await self._backend.any_present(self._kinds_to_sweep()):
            return
        await self._learn(await self._backend.probe(names), now, anew=False)

    async def _look_at_pauses(self) -> None:
        """See whether a queue is still paused whose resumption may have been lost with a marker.

        Asked after a wait, then after twice as long each time: a pause of a day costs few commands.
        """
        for name, standing in self._slots.standing.items():
            if standing.held_until != _FOREVER:
                self._pause_checks.pop(name, None)
                continue
            began, due = self._pause_checks.setdefault(
                name, (self._swept_at, self._swept_at + self._bounds.longest / 2)
            )
            if self._swept_at >= due:
                self._pause_checks[name] = began, 2 * self._swept_at - began
                if not (await self._backend.restrictions_of(name)).paused:
                    standing.held_until = None
                    self._slots.ready(name, sure=True)

    async def _look_for_earlier(self, now: float) -> None:
        """Ask again for due times that are known for long: an earlier job's marker may be lost."""
        for name, standing in self._slots.standing.items():
            if standing.due_at is None:
                self._due_checked.pop(name, None)
                continue
            checked = self._due_checked.setdefault(name, now)
            if now - checked >= idle_backoff.revalidation(
                standing.due_at - checked, bounds=self._bounds
            ):
                self._due_checked[name] = now
                self._slots.due(name, await self._backend.next_due(name))

    def _kinds_to_sweep(self) -> list[tuple[str, str]]:
        """The (queue, kind) pairs whose presence would be news."""
        pairs = []
        for name, standing in self._slots.standing.items():
            if standing.held_until is None:
                pairs += [(name, "wait"), (name, "prioritized")]
            if standing.due_at is None:
                pairs.append((name, "delayed"))
            if not self._held_here(name) and name not in self._stalled_check:
                pairs.append((name, "active"))
        return pairs

    async def look_round(
        self, now: float, *, outage: float = 0.0, forget_pauses: bool = True
    ) -> None:
        """Look at every queue anew: at a start, a wake, and after an ``outage`` of so many seconds.

        Locks that may have run out in it are left to the workers that held them for a while.
        """
        if outage > self._lock_duration / 4:
            self._check_from = now + min(max(self._lock_duration / 2, 1.5), _RETURN_SECONDS)
        for standing in self._slots.standing.values():
            if forget_pauses and standing.held_until == _FOREVER:
                standing.held_until = None
            standing.due_at = None
        names = self._backend.names
        if len(names) > 1:
            pairs = [(name, kind) for name in names for kind in ("active", *_WORK_KINDS)]
            self.all_empty = not await self._backend.any_present(pairs)
            if self.all_empty:
                self._forget_checks(names)
                return
        sights = await self._backend.probe(names)
        self.all_empty = not any(any((s.ready, s.delayed, s.active)) for s in sights.values())
        self._forget_checks([name for name, sight in sights.items() if not sight.active])
        await self._learn(sights, now, anew=True)

    def _forget_checks(self, names: Sequence[str]) -> None:
        """Nobody has a job of those queues: none can stall."""
        for name in names:
            if not self._held_here(name):
                self._others.discard(name)
                self._stalled_check.pop(name, None)

    async def _learn(self, sights: dict[str, QueueContents], now: float, *, anew: bool) -> None:
        for name, sight in sights.items():
            if sight.ready and self._slots.standing[name].held_until is None:
                self._slots.ready(name, sure=True)
            if sight.active and (anew or not self._held_here(name)):
                self._others.add(name)
                at = now if anew else self._stalled_check.get(name, now)
                self._stalled_check[name] = max(at, self._check_from)
            if sight.delayed and self._slots.standing[name].due_at is None:
                self._slots.due(name, await self._backend.next_due(name))

    async def glance(self, queue: str, now: float) -> None:
        """While every slot is busy with ``queue``: see whether others have become ready."""
        others = self._slots.unwatched(queue)
        if not others or time.monotonic() - self._glanced_at < _GLANCE_SECONDS:
            return
        self._glanced_at = time.monotonic()
        pairs = [
            (other, kind)
            for other in others
            for kind in _WORK_KINDS
            if kind != "delayed" or self._slots.standing[other].due_at is None
        ]
        if await self._backend.any_present(pairs):
            await self._learn(await self._backend.probe(others), now, anew=False)

    async def hold_if_stopped(self, queue: str, now: float) -> None:
        """Find out why a take found nothing where there are jobs: the queue is paused, or full."""
        stop = await self._backend.restrictions_of(queue)
        if stop.paused:
            self._slots.hold(queue, _FOREVER)
        elif stop.concurrency is not None:
            # If its places are all ours, the end of one of our jobs is what to wait for.
            seconds = min(self._full_holds.get(queue, _FULL_QUEUE_SECONDS), self._bounds.longest)
            if len(self._held_here(queue)) >= stop.concurrency:
                seconds = self._bounds.longest
            self._full_holds[queue] = 2 * seconds
            self._slots.hold(queue, now + seconds, full=True)

    async def _check_stalled(self, queue: str, now: float) -> None:
        """Recover jobs of workers that died; look again when the next lock would run out."""
        del self._stalled_check[queue]
        ours = self._held_here(queue)
        if not ours and queue not in self._others:
            return
        self._others.discard(queue)
        locks = await reconcile.locks_of_active(self._backend, queue)
        others = {job_id: left for job_id, left in locks.items() if job_id not in ours}
        if not others:
            if ours:
                self._stalled_check[queue] = now + self._lock_duration
            return
        unlocked = [job_id for job_id, left in others.items() if left is None]
        if unlocked:
            recovered = await reconcile.recover_stalled(
                self._backend, queue, unlocked, self._max_stalled
            )
            if recovered:
                _log.warning("jobs.stalled", queue=queue, job_ids=recovered)
                self._slots.ready(queue, sure=True)
        self._others.add(queue)
        left = [seconds for seconds in others.values() if seconds is not None]
        self._stalled_check[queue] = now + min(left, default=self._lock_duration) + 0.05

    async def close(self, patience: float) -> None:
        """End the block, and announce again what was announced to this worker alone.

        The block is asked to end and not cancelled, for ``patience`` seconds: it may just have
        popped a marker that no other worker will see.
        """
        block = self._block
        if block is not None:
            self._unblock()
            await asyncio.wait({block}, timeout=patience)
            if not block.done():  # the server may be in it still, and serve it the next marker
                self._waiting.abort("the wait could not be ended")
            block.cancel()
        for queue, standing in self._slots.standing.items():
            if standing.due_at is not None:
                self._backend.republish_marker(queue, standing.due_at)
            if queue in self._doubted or (standing.ready and standing.held_until is None):
                self._backend.republish_marker(queue)
        self._doubted.clear()
        self._sweep_due = False
        self._wait = None

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so much (back, if negative): plans move with it."""
        for times in (self._stalled_check, self._due_checked):
            for queue in times:
                times[queue] += seconds
