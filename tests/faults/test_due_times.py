"""Delayed jobs run when they are due, whatever became of the one before them.

A worker knows when the first delayed job of a queue is due. When that moment has come it has to
learn of the next one, and no marker tells. Idle waits are long here, and so are locks: neither a
sweep nor a look for stalled jobs hides that it has not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ResponseError

from convolab_worker import Child, HandlerRegistry, Job, Worker
from convolab_worker.embedded import EmbeddedServer
from tests.faults.harness import Bench, lasting
from tests.support.proxy import TcpProxy
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

# How late a job may be on a machine that has other things to do.
LATE_SECONDS = 0.75
LOCK_SECONDS = 90.0
DELAY_SECONDS = 0.3  # each way through a slow network
# What an answer takes that is on its way already.
MOMENT_SECONDS = 0.2


class Times:
    """Handlers that note when their jobs run; two of them wait for gates of their own."""

    def __init__(self, bench: Bench, watch: Stopwatch) -> None:
        self._bench = bench
        self._watch = watch
        self._due: dict[str, float] = {}
        self.ran: dict[str, float] = {}
        self.gate, self.last_gate = asyncio.Event(), asyncio.Event()
        self.handlers = HandlerRegistry()
        self.handlers.audio("work")(self.work)
        self.handlers.image("hold", concurrency=1)(self.hold)
        self.handlers.dialogue("long")(self.long)

    async def work(self, job: Job[Any]) -> None:
        self.ran[job.id] = time.time()

    async def hold(self, job: Job[Any]) -> None:
        await self.work(job)
        await self.gate.wait()

    async def long(self, job: Job[Any]) -> None:
        await self.work(job)
        await self.last_gate.wait()

    async def add(self, seconds: float, name: str = "work") -> str:
        """Add a job that is due in so many seconds."""
        due = time.time() + seconds
        (job_id,) = await self._bench.add({}, name=name, delay=round(seconds * 1000))
        self._due[job_id] = due
        return job_id

    async def past(self, job_id: str) -> None:
        """Wait until the job is due, and a moment longer."""
        await lasting(self._due[job_id] - time.time() + MOMENT_SECONDS)

    async def on_time(self, job_id: str, *, late: float = LATE_SECONDS) -> None:
        """Wait until the job has run; fail if it is more than so late, pauses left out."""
        left = self._due[job_id] + late + self._watch.paused - time.time()
        try:
            await wait_until(lambda: job_id in self.ran, timeout=max(left, 0.0))
        except AssertionError:
            msg = f"job {job_id} has not run {late:g} s after it was due: {self._bench.states()}"
            raise AssertionError(msg) from None


@pytest.fixture
def times(bench: Bench) -> Iterator[Times]:
    """Jobs that are due at some time, and whether they run then."""
    with Stopwatch() as watch:
        yield Times(bench, watch)


async def _listening(bench: Bench) -> None:
    """Wait until the worker is blocked, and has heard of every marker."""
    await wait_until(lambda: bench.blocked() == 1, what="the block")
    await wait_until(lambda: not bench.redis.exists(bench.key("marker")), what="the last marker")


async def _running(worker: Worker) -> None:
    await wait_until(lambda: worker.stats()["running"] == 1, what="the job that runs")


@asynccontextmanager
async def _bullmq(bench: Bench) -> AsyncIterator[Any]:
    """The queue as BullMQ's own Python has it."""
    from bullmq import Queue  # as the harness does it

    queue = Queue(bench.queue, {"connection": bench.server.url})
    try:
        yield queue
    finally:
        await queue.close()


@pytest.mark.asyncio
async def test_a_job_that_falls_due_in_a_pause_hides_no_later_one(
    bench: Bench, times: Times
) -> None:
    """The take that finds the queue paused, and makes the job wait, does not tell of the next."""
    async with (
        _bullmq(bench) as queue,
        bench.worker(times.handlers, lock_duration=LOCK_SECONDS),
    ):
        await _listening(bench)
        first, second = await times.add(0.5), await times.add(2.0)
        await _listening(bench)
        await queue.pause()
        await wait_until(lambda: bench.ids_in("wait") == [first], what="the first one's moment")
        await queue.resume()

        await times.on_time(first)
        await times.on_time(second)


def _stage_another_workers_job(bench: Bench) -> None:
    bench.redis.lpush(bench.key("active"), "foreign")
    bench.redis.set(bench.key("foreign:lock"), "foreign", px=60_000)


def _end_another_workers_job(bench: Bench) -> None:
    bench.redis.lrem(bench.key("active"), 0, "foreign")


@pytest.mark.asyncio
async def test_a_job_that_falls_due_while_its_queue_is_full_of_ours_runs_when_there_is_room(
    bench: Bench, times: Times
) -> None:
    """The end of our own job makes room in a queue with a concurrency of its own in BullMQ."""
    bench.redis.hset(bench.key("meta"), "concurrency", 1)
    async with bench.worker(times.handlers, lock_duration=LOCK_SECONDS) as worker:
        await bench.add({}, name="hold")
        await _running(worker)
        await _listening(bench)
        first, second = await times.add(0.5), await times.add(2.5)
        await _listening(bench)
        await times.past(first)
        times.gate.set()

        await times.on_time(first, late=MOMENT_SECONDS + LATE_SECONDS)
        await times.on_time(second)


@pytest.mark.asyncio
async def test_a_job_that_falls_due_while_its_queue_is_full_of_others_runs_when_there_is_room(
    bench: Bench, times: Times
) -> None:
    """No marker tells of a place that another worker leaves: it is looked for now and then."""
    bench.redis.hset(bench.key("meta"), "concurrency", 1)
    _stage_another_workers_job(bench)
    async with bench.worker(times.handlers, lock_duration=LOCK_SECONDS):
        await _listening(bench)
        first, second = await times.add(0.5), await times.add(4.0)
        await _listening(bench)
        await times.past(first)
        _end_another_workers_job(bench)

        await times.on_time(first, late=2.0 + LATE_SECONDS)  # looked for after 1 s, and 2 s more
        await times.on_time(second)


@pytest.mark.asyncio
async def test_a_parent_that_goes_on_at_once_hides_no_job_that_fell_due(
    bench: Bench, times: Times
) -> None:
    """A parent whose children are done already keeps its slot, and nothing was taken with it."""
    other = f"{bench.queue}-other"
    runs: list[int] = []

    @times.handlers.course("course")
    async def course(job: Job[Any]) -> None:
        runs.append(job.attempt)
        if len(runs) == 2:
            await times.gate.wait()
        if len(runs) < 3:  # the second time the part has failed, and nothing is waited for
            part = Child("part", key="part", queue=other, on_failure="remove")
            await job.enqueue_children([part])

    @times.handlers.course("part")
    async def part(_: Job[Any]) -> None:
        msg = "broken"
        raise ValueError(msg)

    queues = (bench.queue, other)
    settings: dict[str, Any] = {"queues": queues, "concurrency": 1, "lock_duration": LOCK_SECONDS}
    async with bench.worker(times.handlers, **settings):
        await _listening(bench)
        first, second = await times.add(1.0), await times.add(3.0)
        await _listening(bench)
        await bench.add({}, name="course")
        await wait_until(lambda: len(runs) == 2, what="the second run")
        # The other queue has its turn: nothing is taken from this one at the run's end.
        bench.redis.hset(f"bull:{other}:turn", mapping={"name": "work", "data": "{}"})
        bench.redis.lpush(f"bull:{other}:wait", "turn")
        await times.past(first)
        times.gate.set()

        await times.on_time(first, late=MOMENT_SECONDS + LATE_SECONDS)
        await times.on_time(second)
    assert len(runs) == 3


class Busy:
    """Has the server refuse what a worker asks when it hears how its script has ended a job."""

    def __init__(self, bench: Bench, proxy: TcpProxy) -> None:
        self._bench = bench
        self._proxy = proxy
        bench.redis.config_set("lua-time-limit", 1)

    async def after(self, act: Callable[[], object], moved: Callable[[], bool]) -> None:
        """Do what makes the worker send the script, and be busy once it has ``moved`` the job.

        The answer is one delay away, the question that is refused two, the refusal three; the
        server is no longer busy when what is sent thereupon arrives.
        """
        self._proxy.delay(DELAY_SECONDS)
        act()
        await wait_until(moved, what="the script's work")
        script = asyncio.create_task(asyncio.to_thread(self._run_for_ever))
        await lasting(2.8 * DELAY_SECONDS)
        self._bench.redis.script_kill()
        await script
        self._proxy.resume()
        refusals: Any = self._bench.redis.info("errorstats")
        assert "errorstat_BUSY" in refusals, "nothing was refused"

    def _run_for_ever(self) -> None:
        with pytest.raises(ResponseError):
            self._bench.redis.eval("while true do end", 0)


@pytest.fixture
def proxy(bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]) -> TcpProxy:
    """A network in front of the test's own server."""
    return start_proxy(bench.server)


@pytest.mark.asyncio
async def test_a_refused_question_for_the_next_due_time_is_asked_again(
    bench: Bench, proxy: TcpProxy, times: Times
) -> None:
    """A job that was taken at the end of another one, and runs on, hides none that is due later."""
    busy = Busy(bench, proxy)
    settings: dict[str, Any] = {
        "redis_url": proxy.url,
        "concurrency": 2,
        "park_limit": 0,  # a slot is free, and nothing is taken while one handler has no room
        "lock_duration": LOCK_SECONDS,
        "command_timeout": 5.0,
    }
    async with bench.worker(times.handlers, **settings) as worker:
        await _listening(bench)
        first, second = await times.add(1.0, "long"), await times.add(4.0)
        await _listening(bench)
        await bench.add({}, name="hold")
        await _running(worker)
        await times.past(first)
        await busy.after(times.gate.set, lambda: bench.ids_in("active") == [first])

        await times.on_time(second)
        times.last_gate.set()


@pytest.mark.asyncio
async def test_a_queue_that_could_not_be_asked_why_it_gives_nothing_is_asked_again(
    bench: Bench, proxy: TcpProxy, times: Times
) -> None:
    """A refusal at the end of a job does not leave the queue alone until the next sweep."""
    busy = Busy(bench, proxy)
    settings: dict[str, Any] = {
        "redis_url": proxy.url,
        "concurrency": 2,
        "lock_duration": LOCK_SECONDS,
        "command_timeout": 5.0,
    }
    async with bench.worker(times.handlers, **settings) as worker:
        await bench.add({}, name="hold")
        await _running(worker)
        await _listening(bench)
        _stage_another_workers_job(bench)
        bench.redis.hset(bench.key("meta"), "concurrency", 2)
        job_id = await times.add(0.0)
        before = _fetches(worker)
        worker.wake()
        # It looks again after 1 s, then after 2 s more; it is quiet in between.
        await wait_until(lambda: _fetches(worker) == before + 2, what="the second take")
        await lasting(MOMENT_SECONDS)
        bench.redis.hset(bench.key("meta"), "concurrency", 1)
        await busy.after(times.gate.set, lambda: bench.ids_in("active") == ["foreign"])
        _end_another_workers_job(bench)

        await times.on_time(job_id, late=10.0)


def _fetches(worker: Worker) -> int:
    purposes: Any = worker.stats()["commands"]["by_purpose"]
    return int(purposes.get("fetch", {}).get("sent", 0))
