"""Asks Redis what queues have, without fetching: after a doubtful marker, a wait, an outage."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from convolab_worker._logs import Log
from convolab_worker.bullmq.worker_side.backend import LIMIT_KEYS
from convolab_worker.connection.commands.error_replies import is_about_data
from convolab_worker.errors import RedisRefused, RedisUnavailable
from convolab_worker.worker.dispatch.idle_backoff import revalidation
from convolab_worker.worker.dispatch.queue_state import FollowUp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convolab_worker.bullmq.worker_side.backend import Backend, QueueContents
    from convolab_worker.worker.dispatch.idle_backoff import Bounds
    from convolab_worker.worker.dispatch.listener import ReadEnd
    from convolab_worker.worker.dispatch.queue_table import QueueTable
    from convolab_worker.worker.dispatch.stalled import StalledChecker

_log = Log()
# While every slot is busy, other queues are probed this often, at the end of a job.
_OTHERS_SECONDS = 0.5
_WORK_KINDS = ("wait", "prioritized", "delayed")


class QueueProber:
    """Turns what ``table`` wants to know into commands, and their answers into facts for it.

    ``ids_in_hand`` gives the ids of this worker's own jobs of a queue.
    """

    def __init__(
        self,
        backend: Backend,
        table: QueueTable,
        stalled: StalledChecker,
        ids_in_hand: Callable[[str], set[str]],
        bounds: Bounds,
    ) -> None:
        self._backend = backend
        self._table = table
        self.stalled = stalled
        self._ids_in_hand = ids_in_hand
        self._bounds = bounds
        self._to_probe: set[str] = set()
        self._sweep_due = False
        self._swept_at = time.monotonic()
        self._pause_checks: dict[str, tuple[float, float]] = {}
        self._due_checks: dict[str, float] = {}
        self._others_probed_at = 0.0
        self.all_empty = False  # as the last probe of all queues found them

    async def follow_up(self, queue: str, wanted: FollowUp) -> None:
        """Ask what an event of the queue makes worth asking; an outage means to probe all later."""
        if wanted is FollowUp.NONE:
            return
        if wanted is FollowUp.PROBE:
            self._to_probe.add(queue)
        elif wanted is FollowUp.REPUBLISH:
            self._backend.republish_marker(queue)
        elif wanted is FollowUp.CHECK_STALLED:
            self.stalled.schedule(queue)
        else:
            try:
                await self._ask(queue, wanted)
            except RedisUnavailable:
                self._table.unsure()

    async def _ask(self, queue: str, wanted: FollowUp) -> None:
        """Ask, and tell the table; a queue whose keys are of another type has no answer."""
        try:
            await self._asked(queue, wanted)
        except RedisRefused as error:
            if not is_about_data(str(error)):
                raise
            _log.debug("queue.broken", queue=queue, error=str(error))

    async def _asked(self, queue: str, wanted: FollowUp) -> None:
        if wanted is FollowUp.ASK_LIMITS:
            self._table.limits_asked(queue, await self._backend.restrictions_of(queue))
            return
        if wanted is FollowUp.WATCH:
            await self._watch(queue)
            return
        if wanted is FollowUp.ASK_WHY_STOPPED:
            ours_before = len(self._ids_in_hand(queue))
            found = await self._backend.restrictions_of(queue)
            ours = len(self._ids_in_hand(queue))
            self._table.restricted(
                queue, found, ours=ours, ended=ours < ours_before, now=time.time()
            )
            await self._watch(queue)
            if not self._table.hides_due(queue):
                return
        self._table.due(queue, await self._backend.next_due(queue))

    async def _watch(self, queue: str) -> None:
        """Have changes of the queue's limits told, if it is at one."""
        if not self._table.wants_watch(queue):
            return
        if await self._backend.watch_limits(queue):
            self._table.watched(queue, time.time())

    def changed(self, key: str | None) -> None:
        """A key of a queue's limits was changed; None if changes may have been missed."""
        if key is None:
            self._table.unwatched_all(time.time())
            return
        for queue in self._backend.names:
            keys = self._backend.keys[queue]
            for kind in LIMIT_KEYS:
                if key == keys[kind]:
                    self._table.changed(queue, kind, time.time())

    def wait_ended(self, heard: ReadEnd) -> None:
        """A blocking read ended: queues are swept after a whole wait, or after the longest time.

        Where jobs come often no wait is ever whole.
        """
        is_long = time.monotonic() - self._swept_at >= self._bounds.longest
        self._sweep_due |= heard.is_over or is_long

    def next_time(self) -> float | None:
        """When ``run_due_checks`` has something to do; epoch seconds, 0 for at once."""
        if self._sweep_due or self._to_probe:
            return 0.0
        times = (self.stalled.next_time(), self._table.next_look())
        return min((at for at in times if at is not None), default=None)

    async def run_due_checks(self, now: float) -> None:
        """Probe doubtful queues, sweep after a wait, recover stalled jobs: whatever is due."""
        for queue in list(self._to_probe):
            await self._probe_one(queue)
            self._to_probe.discard(queue)
        if self._sweep_due:
            await self._sweep(now)
            await self._ask_for_earlier(now)
            self._sweep_due = False
        for queue in self._table.looks_due(now):
            self._table.looked(queue, await self._backend.count_active(queue))
        for queue in self.stalled.due(now):
            await self._check_stalled(queue, now)

    async def _check_stalled(self, queue: str, now: float) -> None:
        try:
            if await self.stalled.check(queue, now):
                self._table.mark_ready(queue, certain=True)
        except RedisRefused as error:
            if not is_about_data(str(error)):
                raise
            _log.debug("queue.broken", queue=queue, error=str(error))
            self.stalled.schedule(queue)

    async def _probe_one(self, queue: str) -> None:
        contents = (await self._backend.probe([queue]))[queue]
        wanted = self._table.probed(queue, contents)
        if contents.ready:
            if self._table.choice.is_busy(queue):
                self._backend.republish_marker(queue)
        elif contents.active and not self._ids_in_hand(queue):
            self.stalled.schedule(queue)
        await self.follow_up(queue, wanted)

    async def _sweep(self, now: float) -> None:
        self._swept_at = time.monotonic()
        await self._ask_whether_paused()
        names = self._backend.names
        if len(names) > 1 and not await self._backend.any_present(self._news_pairs()):
            return
        await self._learn(await self._backend.probe(names), now, anew=False)

    def _news_pairs(self) -> list[tuple[str, str]]:
        """The (queue, kind) pairs whose presence would be news."""
        pairs = []
        for name in self._backend.names:
            pairs += [(name, kind) for kind in self._table.news_kinds(name)]
            if self.stalled.is_news(name):
                pairs.append((name, "active"))
        return pairs

    async def _ask_whether_paused(self) -> None:
        """Ask whether a queue is still paused: the marker of its resumption may have been lost.

        Asked after a wait, then after twice as long each time: a day's pause costs few commands.
        """
        paused = self._table.paused()
        for name in [*self._pause_checks]:
            if name not in paused:
                del self._pause_checks[name]
        for name in paused:
            began, due = self._pause_checks.setdefault(
                name, (self._swept_at, self._swept_at + self._bounds.longest / 2)
            )
            if self._swept_at >= due:
                self._pause_checks[name] = began, 2 * self._swept_at - began
                if not (await self._backend.restrictions_of(name)).paused:
                    self._table.resumed(name)

    async def _ask_for_earlier(self, now: float) -> None:
        """Ask again for due times that are long known: an earlier job's marker may be lost."""
        known = self._table.due_times()
        for name in [*self._due_checks]:
            if name not in known:
                del self._due_checks[name]
        for name, due_at in known.items():
            checked = self._due_checks.setdefault(name, now)
            if now - checked >= revalidation(due_at - checked, bounds=self._bounds):
                self._due_checks[name] = now
                await self._ask(name, FollowUp.ASK_DUE)

    async def probe_all(
        self, now: float, *, outage: float = 0.0, forget_pauses: bool = True
    ) -> None:
        """Probe every queue anew: at a start, a wake, after an ``outage`` of so many seconds."""
        self.stalled.outage_over(outage, now)
        self._table.forget(pauses=forget_pauses)
        names = self._backend.names
        if len(names) > 1:
            pairs = [(name, kind) for name in names for kind in ("active", *_WORK_KINDS)]
            self.all_empty = not await self._backend.any_present(pairs)
            if self.all_empty:
                self.stalled.none_active(names)
                return
        found = await self._backend.probe(names)
        self.all_empty = not any(any((c.ready, c.delayed, c.active)) for c in found.values())
        self.stalled.none_active([name for name, contents in found.items() if not contents.active])
        await self._learn(found, now, anew=True)

    async def _learn(self, found: Mapping[str, QueueContents], now: float, *, anew: bool) -> None:
        for name, contents in found.items():
            wanted = self._table.probed(name, contents)
            if contents.active:
                self.stalled.seen_active(name, now, anew=anew)
            if wanted is FollowUp.ASK_DUE:
                await self._ask(name, wanted)

    async def probe_others(self, queue: str, now: float) -> None:
        """While every slot is busy with ``queue``: see whether others have become ready."""
        others = self._table.choice.unwatched(queue)
        if not others or time.monotonic() - self._others_probed_at < _OTHERS_SECONDS:
            return
        self._others_probed_at = time.monotonic()
        known = self._table.due_times()
        pairs = [
            (other, kind)
            for other in others
            for kind in _WORK_KINDS
            if kind != "delayed" or other not in known
        ]
        if await self._backend.any_present(pairs):
            await self._learn(await self._backend.probe(others), now, anew=False)

    def announce(self) -> None:
        """Announce to other workers what was announced to this one alone: it stops fetching."""
        for queue, due_at in self._table.announcements():
            self._backend.republish_marker(queue, due_at)
        for queue in self._to_probe:
            self._backend.republish_marker(queue)
        self._to_probe.clear()
        self._sweep_due = False

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so much (back, if negative): plans move with it."""
        self.stalled.shift(seconds)
        for queue in self._due_checks:
            self._due_checks[queue] += seconds
