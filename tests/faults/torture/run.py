"""One torture run from its first job to its account."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from convolab_worker import JobClient
from tests.faults.torture.account import Account, Deed, Story
from tests.faults.torture.diary import Diary, pages
from tests.faults.torture.fleet import Fleet
from tests.faults.torture.gremlin import Gremlin
from tests.faults.torture.holder import Holder
from tests.faults.torture.producers import MAX_EVENTS, Task, produce, produce_with_node, tasks
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.harness import Bench
    from tests.faults.torture.pair import Pair

SERVER_OPTIONS = {"client-query-buffer-limit": "1mb"}
"""What the tortured server refuses by closing the connection: some results are larger."""
_GRACE_SECONDS = 1.0
# BullMQ's stalled limit would fail jobs whose workers are killed again and again, as it should.
_NO_STALLED_LIMIT = 1000
# A job that was announced to a worker which was killed at that moment waits for the next look.
_IDLE_SECONDS = 5.0
_PARTS = ("first", "second")
_CHUNK = 1000
# BullMQ's events that say that a job enters or leaves active, beside "waiting".
_MOVES = frozenset({"active", "stalled", "delayed", "waiting-children", "completed", "failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long, how hard, and from which seed; times are seconds."""

    jobs: int
    seed: int
    seconds: float
    pause: float = 0.7
    workers: int = 4
    held: int = 2
    lock_duration: float = 3.0
    node: bool = True


@dataclass(slots=True, kw_only=True)
class Report:
    """What was done, by whom, and what became of it."""

    options: Options
    seconds: float
    by_python: int
    by_node: int
    parts: int
    deeds: Counter[str]
    answers: Counter[str]
    account: Account
    faults: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, and nothing run twice without a reason."""
        return not self.faults and not self.account.faults


class Torture:
    """A run on ``bench``, whose servers, a ``pair``, it harms; the diary is kept elsewhere."""

    def __init__(self, bench: Bench, pair: Pair, options: Options) -> None:
        self._bench = bench
        self._pair = pair
        self._options = options
        self._rng = random.Random(options.seed)
        self._queues = (bench.queue, f"{bench.queue}-2")
        half = options.jobs // 2 if options.node else 0
        longest = 1.5 * options.lock_duration
        self._by_node = tasks(self._rng, "node-", half, self._queues, longest)
        rest = options.jobs - half
        self._by_python = tasks(self._rng, "python-", rest, self._queues, longest)
        self._faults: list[str] = []
        self._diary = Diary(bench.ledger.url, bench.ledger.name)

    @property
    def _tasks(self) -> list[Task]:
        return [*self._by_python, *self._by_node]

    async def run(self) -> Report:
        """Torment workers until the last job is added, let them finish, and count."""
        options, begun = self._options, time.monotonic()
        for queue in self._queues:
            self._bench.redis.hset(f"bull:{queue}:meta", "opts.maxLenEvents", MAX_EVENTS)
        with self._fleet() as fleet:
            gremlin = Gremlin(
                self._bench,
                self._pair,
                fleet,
                random.Random(options.seed + 1),
                lock_duration=options.lock_duration,
                grace=_GRACE_SECONDS,
            )
            holders = [
                Holder(place, random.Random(options.seed + number))
                for number, place in enumerate(fleet.places, 2)
                if place.port is not None
            ]
            holding = [asyncio.create_task(holder.hold_on()) for holder in holders]
            try:
                await self._torment(fleet, gremlin)
                self._faults += await fleet.stop(within=_GRACE_SECONDS + 10.0)
            finally:
                for task in holding:
                    task.cancel()
                ends = await asyncio.gather(*holding, return_exceptions=True)
            self._faults += [
                f"a holder ended: {end!r}" for end in ends if isinstance(end, Exception)
            ]
            took = time.monotonic() - begun
            self._faults += gremlin.faults
        deeds = gremlin.deeds + [deed for holder in holders for deed in holder.deeds]
        account = await asyncio.to_thread(self._account, deeds)
        self._diary.close()
        return Report(
            options=options,
            seconds=took,
            by_python=len(self._by_python),
            by_node=len(self._by_node),
            parts=account.fates.total() - options.jobs,
            deeds=gremlin.counts,
            answers=sum((holder.answers for holder in holders), Counter()),
            account=account,
            faults=self._faults,
        )

    def _fleet(self) -> Fleet:
        return Fleet(
            self._bench,
            self._options.workers,
            held=self._options.held,
            queues=self._queues,
            concurrency=8,
            park_limit=8,
            lock_duration=self._options.lock_duration,
            max_stalled_count=_NO_STALLED_LIMIT,
            shutdown_grace=_GRACE_SECONDS,
            command_timeout=1.0,
            idle_min=_IDLE_SECONDS / 5,
            idle_max=_IDLE_SECONDS,
        )

    async def _torment(self, fleet: Fleet, gremlin: Gremlin) -> None:
        end = asyncio.Event()
        raging = asyncio.create_task(gremlin.rage(end, self._options.pause), name="gremlin")
        try:
            await self._produce()
        finally:
            end.set()
            await raging
        await self._finished(fleet)

    async def _produce(self) -> None:
        seconds, port = self._options.seconds, self._bench.port
        settings = self._bench.settings(queues=self._queues)
        async with asyncio.TaskGroup() as group:
            client = JobClient(settings)
            group.create_task(produce(client, self._by_python, seconds))
            if self._by_node:
                patience = 60.0 + seconds
                group.create_task(
                    produce_with_node(port, self._by_node, self._queues, seconds, patience)
                )
        await client.close()

    async def _finished(self, fleet: Fleet) -> None:
        """Wait until nothing is left to do, or nothing has been done for too long."""
        patience = self._options.lock_duration + 10.0
        done, since = -1, time.monotonic()

        def over() -> bool:
            nonlocal done, since
            with suppress(RedisError):
                left, now_done = self._left(), self._done()
                if now_done != done:
                    done, since = now_done, time.monotonic()
                return not any(left.values()) or time.monotonic() - since > patience
            return False

        await wait_until(over, timeout=600.0 + self._options.seconds, what="the last job")
        left = {key: count for key, count in self._left().items() if count}
        if left:
            self._faults.append(f"nothing was done for {patience:g} s, and there is left: {left}")
        self._faults += fleet.ended_by_itself()

    def _left(self) -> dict[str, int]:
        pipeline = self._bench.redis.pipeline(transaction=False)
        names = []
        for queue in self._queues:
            for state, command in (
                ("wait", "llen"),
                ("active", "llen"),
                ("prioritized", "zcard"),
                ("delayed", "zcard"),
                ("waiting-children", "zcard"),
            ):
                names.append(f"{queue}:{state}")
                getattr(pipeline, command)(f"bull:{queue}:{state}")
        return dict(zip(names, pipeline.execute(), strict=True))

    def _done(self) -> int:
        return sum(
            self._bench.redis.zcard(f"bull:{queue}:{state}")
            for queue in self._queues
            for state in ("completed", "failed")
        )

    # the account

    def _account(self, deeds: list[Deed]) -> Account:
        stories = {
            task.job_id: Story(task.job_id, task.failures, task.is_oversized)
            for task in self._tasks
        }
        for task in self._tasks:
            if task.name == "course":
                parts = [f"{task.job_id}.{part}" for part in _PARTS]
                stories.update((part, Story(part)) for part in parts)
        for queue in self._queues:
            self._read_states(queue, stories)
            self._read_events(queue, stories)
            ids = [key.rpartition(":")[2] for key in self._keys(queue)]
            self._read_hashes(queue, ids, stories)
        for run in self._diary.runs():
            story = stories.get(_plain(run.job_id))
            if story is None:
                self._faults.append(f"a job ran that nobody added: {run.job_id}")
            else:
                story.runs.append(run)
        lock_ms = round(self._options.lock_duration * 1000)
        return Account.of(stories.values(), deeds, lock_ms=lock_ms)

    def _keys(self, queue: str) -> list[str]:
        """The keys of the queue's jobs."""
        keys = self._bench.redis.scan_iter(f"bull:{queue}:*-*", count=_CHUNK, _type="hash")
        return [key for key in keys if key.count(":") == 2]

    def _read_states(self, queue: str, stories: dict[str, Story]) -> None:
        redis, base = self._bench.redis, f"bull:{queue}:"
        for state in ("wait", "active", "prioritized", "delayed", "waiting-children"):
            is_list = state in ("wait", "active")
            key = base + state
            ids = redis.lrange(key, 0, -1) if is_list else redis.zrange(key, 0, -1)
            self._place(state, ids, stories)
        for state in ("failed", "completed"):
            self._place(state, (job_id for job_id, _ in redis.zscan_iter(base + state)), stories)
        locks = list(redis.scan_iter(f"{base}*:lock", count=_CHUNK))
        if locks:
            self._faults.append(f"locks are left: {locks}")

    def _place(self, state: str, ids: Iterable[str], stories: dict[str, Story]) -> None:
        for job_id in ids:
            story = stories.get(_plain(job_id))
            if story is None:
                self._faults.append(f"{state} has a job that nobody added: {job_id}")
            elif story.state not in ("unknown", state):
                self._faults.append(f"{job_id} is {story.state} and {state}")
            else:
                story.state = state

    def _read_events(self, queue: str, stories: dict[str, Story]) -> None:
        for at, event in pages(self._bench.redis, f"bull:{queue}:events"):
            story = stories.get(_plain(event.get("jobId", "")))
            what = event["event"]
            of_interest = what in _MOVES or (what == "waiting" and event.get("prev") == "active")
            if story is not None and of_interest:
                story.events.append((at, what))

    def _read_hashes(self, queue: str, ids: list[str], stories: dict[str, Story]) -> None:
        redis: Any = self._bench.redis
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            pipeline = redis.pipeline(transaction=False)
            for job_id in chunk:
                pipeline.hmget(f"bull:{queue}:{job_id}", "atm", "returnvalue", "failedReason")
            for job_id, fields in zip(chunk, pipeline.execute(), strict=True):
                attempts, result, reason = fields
                story = stories.get(_plain(job_id))
                if attempts is not None and story is not None:
                    story.attempts, story.reason = int(attempts), reason
                    story.result = result and _plain_text(result)


def _plain(job_id: str) -> str:
    """A part's id without what tells its parent's lives apart: a parent here has one."""
    return job_id.partition("~")[0]


def _plain_text(result: str) -> str:
    head, is_part, _ = result.partition("~")
    return f'{head}"' if is_part else head


def as_json(report: Report) -> str:
    """The report's numbers in one line."""
    return json.dumps(
        {
            "seed": report.options.seed,
            "jobs": report.options.jobs,
            "seconds": round(report.seconds, 1),
            "deeds": dict(report.deeds),
            "fates": {fate.value: count for fate, count in report.account.fates.items()},
            "good": report.is_good,
        }
    )
