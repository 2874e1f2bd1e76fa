"""Two workers, one server, and anything that can happen to them in any order (hypothesis).

The workers, their server and its scripts are the real ones. Handlers end when and as the test says;
between two rules the workers' loop stands still, so that a rule finds them in the middle of things.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import RetryLater, UnrecoverableError
from tests.faults.harness import STATES
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

WORKERS, CONCURRENCY = 2, 2
LOCK_SECONDS = 1.5
# What a lost lock takes to be found, recovered and run again, many times over.
PATIENCE_SECONDS = 30.0
PICK = st.integers(0, 1000)
ENDS = ("return", "raise", "give up", "later")


@dataclass(eq=False)
class Call:
    """A handler that waits to be told how to end."""

    job_id: str
    end: asyncio.Future[str]


class AnyOrder(RuleBasedStateMachine):
    """Jobs, and what is done to them and to their workers; each job stays in exactly one place."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.redis: Any = Redis.from_url(self.url, decode_responses=True)
        self.settings = Settings(
            redis_url=self.url,
            queues=(f"any-{uuid.uuid4().hex[:12]}",),
            concurrency=CONCURRENCY,
            park_limit=2,
            idle_min=0.1,
            idle_max=0.5,
            lock_duration=LOCK_SECONDS,
            max_stalled_count=1000,
        )
        self.runner = asyncio.Runner()
        self.jobs: dict[str, int] = {}  # their attempts
        self.calls: list[Call] = []
        self.told: Counter[tuple[str, str]] = Counter()
        self.disturbed: set[str] = set()  # whose lock was taken from its worker
        self.faults: list[str] = []
        self.is_over = False
        self.handlers = self._handlers()
        self.workers: list[tuple[Worker, asyncio.Task[None]]] = []
        self.act(self._begin())

    def act(self, deed: Coroutine[Any, Any, None], seconds: float = 0.002) -> None:
        """Do it, and let the workers turn for a moment."""

        async def do() -> None:
            await deed
            await asyncio.sleep(seconds)

        self.runner.run(do())

    async def _begin(self) -> None:
        self.client = JobClient(self.settings)
        for _ in range(WORKERS):
            self._start()

    def _start(self) -> None:
        worker = Worker(self.handlers, self.settings)
        self.workers.append((worker, asyncio.create_task(worker.run())))

    def _handlers(self) -> HandlerRegistry:
        handlers = HandlerRegistry()

        @handlers.audio("wide")
        async def wide(job: Job[Any]) -> str:
            return await self._serve(job)

        @handlers.image("narrow", concurrency=1)
        async def narrow(job: Job[Any]) -> str:
            return await self._serve(job)

        return handlers

    async def _serve(self, job: Job[Any]) -> str:
        if job.id not in self.disturbed and any(call.job_id == job.id for call in self.calls):
            self.faults.append(f"{job.id} runs twice at once")
        call = Call(job.id, asyncio.get_running_loop().create_future())
        self.calls.append(call)
        try:
            end = "return" if self.is_over else await call.end
        finally:
            self.calls.remove(call)
        self.told[job.id, end] += 1
        if end == "raise":
            msg = "as it was told"
            raise ValueError(msg)
        if end == "give up":
            msg = "for good, as it was told"
            raise UnrecoverableError(msg)
        if end == "later":
            raise RetryLater(0.02)
        return job.id

    # what happens

    @rule(
        name=st.sampled_from(["wide", "narrow"]),
        count=st.integers(1, 4),
        attempts=st.integers(1, 3),
        priority=st.sampled_from([None, 1, 2]),
        delay=st.sampled_from([None, None, 0.01, 0.1]),
    )
    def add(
        self, name: str, count: int, attempts: int, priority: int | None, delay: float | None
    ) -> None:
        async def add() -> None:
            for _ in range(count):
                job_id = await self.client.enqueue(
                    name, {}, attempts=attempts, priority=priority, delay=delay
                )
                self.jobs[job_id] = attempts

        self.act(add())

    @rule(which=PICK, how=st.sampled_from(ENDS), more=st.booleans())
    def end(self, which: int, how: str, more: bool) -> None:  # noqa: FBT001
        """A handler ends, or (``more``) all that run."""

        async def end() -> None:
            running = list(self.calls)  # no precondition: what runs is a matter of time
            for call in running if more or not running else [running[which % len(running)]]:
                if not call.end.done():
                    call.end.set_result(how)

        self.act(end())

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.05, 0.2]))
    def pass_time(self, seconds: float) -> None:
        self.act(asyncio.sleep(0), seconds)

    @rule(which=st.integers(0, WORKERS - 1))
    def wake(self, which: int) -> None:
        async def wake() -> None:
            self.workers[which][0].wake()

        self.act(wake())

    @rule(which=st.integers(0, WORKERS - 1), grace=st.sampled_from([0.0, 0.05]))
    def replace(self, which: int, grace: float) -> None:
        """A worker is stopped, and another one started."""

        async def replace() -> None:
            worker, running = self.workers.pop(which)
            await worker.stop(grace)
            await running
            self._start()

        self.act(replace())

    @rule(which=PICK, other=st.booleans())
    def lose_a_lock(self, which: int, other: bool) -> None:  # noqa: FBT001
        """A lock runs out, or (``other``) a worker that dies soon has taken it."""
        active = self.redis.lrange(self._key("active"), 0, -1)
        if not active:
            return
        job_id = active[which % len(active)]
        self.disturbed.add(job_id)
        if other:
            self.redis.set(self._key(f"{job_id}:lock"), "another worker's", px=100)
        else:
            self.redis.delete(self._key(f"{job_id}:lock"))
        self.act(asyncio.sleep(0))

    @rule()
    def cut(self) -> None:
        """Every connection is closed by the server."""
        self.redis.client_kill_filter(_type="normal", skipme=True)
        self.act(asyncio.sleep(0))

    @rule()
    def lose_a_marker(self) -> None:
        self.redis.delete(self._key("marker"))

    # what is always so

    def _key(self, part: str) -> str:
        return f"bull:{self.settings.queues[0]}:{part}"

    def _places(self) -> dict[str, list[str]]:
        pipeline = self.redis.pipeline(transaction=True)
        for state, kind in STATES.items():
            read = pipeline.zrange if kind == "zset" else pipeline.lrange
            read(self._key(state), 0, -1)
        return dict(zip(STATES, pipeline.execute(), strict=True))

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        places = self._places()
        found = Counter(job_id for ids in places.values() for job_id in ids)
        assert found == dict.fromkeys(self.jobs, 1), places

    @invariant()
    def nothing_runs_twice_at_once(self) -> None:
        assert not self.faults

    @invariant()
    def no_worker_has_ended(self) -> None:
        assert not any(running.done() for _, running in self.workers)

    def teardown(self) -> None:
        """Let everything end: each job does, once, and no slot is left in use."""
        try:
            self.act(self._end_all())
            self.every_job_is_in_one_place()
            self._check_ends(self._places())
        finally:
            self.act(self._close())
            self.runner.close()
            self.redis.close()

    async def _end_all(self) -> None:
        self.is_over = True
        for call in self.calls:
            if not call.end.done():
                call.end.set_result("return")
        await wait_until(self._is_done, timeout=PATIENCE_SECONDS, what="the end of all jobs")
        await wait_until(self._is_free, what="every slot to be free")

    def _is_done(self) -> bool:
        places = self._places()
        return len(places["completed"]) + len(places["failed"]) == len(self.jobs)

    def _is_free(self) -> bool:
        stats = [worker.stats() for worker, _ in self.workers]
        return all(
            (told["free"], told["running"], told["parked"]) == (CONCURRENCY, 0, 0) for told in stats
        )

    def _check_ends(self, places: dict[str, list[str]]) -> None:
        assert not list(self.redis.scan_iter(self._key("*:lock")))
        for job_id, attempts in self.jobs.items():
            if job_id in self.disturbed:
                continue
            told = {end: self.told[job_id, end] for end in ENDS}
            is_failed = bool(told["give up"]) or told["raise"] >= attempts
            assert job_id in places["failed" if is_failed else "completed"]
            assert told["return"] == (not is_failed), (job_id, told)
            used = told["raise"] + told["give up"] + told["return"]
            assert self.redis.hget(self._key(job_id), "atm") == str(used)

    async def _close(self) -> None:
        for worker, running in self.workers:
            await worker.stop(0.0)
            await running
        await self.client.close()


def _run(start_server: Callable[..., ServerProcess], examples: int, steps: int) -> None:
    class Here(AnyOrder):
        url = start_server().url

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=examples < 50,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_leaves_every_job_in_one_place(
    start_server: Callable[..., ServerProcess],
) -> None:
    """Adds, ends of every kind, wakes, stops, cuts, lost locks and markers: each job ends once."""
    _run(start_server, examples=12, steps=25)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_any_order_of_much_leaves_every_job_in_one_place(
    start_server: Callable[..., ServerProcess],
) -> None:
    """The same for longer, in an order that is another one each time."""
    begun = time.monotonic()
    while time.monotonic() - begun < 240:
        _run(start_server, examples=60, steps=60)
