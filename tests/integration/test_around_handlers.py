"""What stands around handlers in a real worker: lifespans, middleware, rates, reports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import CallNext, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import JobFailed, LifespanFailed
from tests.support.commandstats import counted_commands
from tests.support.waiting import wait_until

Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]
MakeSettings = Callable[..., Settings]

pytestmark = pytest.mark.asyncio
SOON = 10.0
LONG = 60.0


def with_pool(diary: list[str], name: str = "pool") -> HandlerRegistry:
    """A registry whose lifespan opens a pool, and a handler that uses it."""
    handlers = HandlerRegistry()

    @handlers.lifespan
    async def life() -> AsyncIterator[list[str]]:
        diary.append(f"open {name}")
        yield [name]
        diary.append(f"close {name}")

    @handlers.audio(f"use-{name}")
    async def use(job: Job[Any, list[str]]) -> str:
        diary.append(f"use {name}")
        return job.resources[0]

    return handlers


# lifespans


async def test_a_host_finds_its_lifespans_open_and_leaves_them_closed(running: Running) -> None:
    """``async with worker`` opens before its body, and closes after the last job."""
    diary: list[str] = []
    handlers = with_pool(diary)
    handlers.include(with_pool(diary, "voices"))

    async with running(handlers) as (_, client):
        opened = [*diary]
        results = [
            await client.result(await client.enqueue(f"use-{name}"), SOON)
            for name in ("pool", "voices")
        ]

    assert opened == ["open pool", "open voices"]
    assert results == ["pool", "voices"]
    assert diary[-2:] == ["close voices", "close pool"]


async def test_a_drain_opens_and_closes_too(make_settings: MakeSettings) -> None:
    """Whatever it finds to do."""
    diary: list[str] = []
    settings = make_settings()
    async with JobClient(settings) as client:
        await client.enqueue("use-pool")

    result = await Worker(with_pool(diary), settings).drain()

    assert result.processed == 1
    assert diary == ["open pool", "use pool", "close pool"]


async def test_a_lifespan_that_fails_ends_the_worker_before_a_job_is_touched(
    make_settings: MakeSettings, redis: Redis, queue_name: str
) -> None:
    """The job stays where it was, and the reason is in the error."""
    handlers = HandlerRegistry()

    async def connect() -> None:
        msg = "no such host: tts.internal"
        raise OSError(msg)

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        await connect()
        yield

    @handlers.audio("x")
    async def x(job: Job[Any]) -> None:
        """Never called."""

    settings = make_settings()
    async with JobClient(settings) as client:
        await client.enqueue("x")

    with pytest.raises(LifespanFailed, match="life:.*OSError: no such host: tts.internal"):
        await Worker(handlers, settings).run()
    with pytest.raises(LifespanFailed):
        async with Worker(handlers, settings):
            pytest.fail("the body must not be reached")

    assert await redis.llen(f"bull:{queue_name}:wait") == 1


async def test_jobs_end_before_what_they_use_is_closed(make_settings: MakeSettings) -> None:
    """A stop lets a running job finish with its resources open, then closes them."""
    diary: list[str] = []
    handlers, started = with_pool(diary), asyncio.Event()

    @handlers.audio("long")
    async def long(_job: Job[Any]) -> None:
        started.set()
        try:
            await asyncio.sleep(LONG)
        finally:
            diary.append("job ends")

    settings = make_settings(shutdown_grace=0.05)
    async with JobClient(settings) as client:
        await client.enqueue("long")
        async with asyncio.timeout(SOON):
            async with Worker(handlers, settings):
                await started.wait()

    assert diary == ["open pool", "job ends", "close pool"]


async def test_a_lifespan_that_hangs_at_closing_does_not_keep_the_worker(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the grace it is cancelled, and the log names it."""
    handlers = HandlerRegistry()

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        yield
        await asyncio.sleep(LONG)

    @handlers.audio("x")
    async def x(_job: Job[Any]) -> None:
        """Do nothing."""

    async with asyncio.timeout(SOON):
        async with Worker(handlers, make_settings(shutdown_grace=0.1)):
            pass

    assert "lifespan.not_closed" in capsys.readouterr().out


async def test_a_stop_during_the_opening_ends_the_worker(make_settings: MakeSettings) -> None:
    """A lifespan that waits for a server that never comes does not hold up a stop."""
    handlers, opening = HandlerRegistry(), asyncio.Event()

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        opening.set()
        await asyncio.sleep(LONG)
        yield

    @handlers.audio("x")
    async def x(_job: Job[Any]) -> None:
        """Never called."""

    worker = Worker(handlers, make_settings())
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(SOON):
        await opening.wait()
        await worker.stop()
        await running

    assert worker.stats()["state"] == "stopped"


async def test_a_lifespan_that_dies_stops_the_worker_with_its_reason(
    make_settings: MakeSettings,
) -> None:
    """A pool whose background task has failed serves no jobs."""
    handlers, die = HandlerRegistry(), asyncio.Event()

    async def refresh() -> None:
        await die.wait()
        msg = "the token can't be refreshed"
        raise PermissionError(msg)

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(refresh())
            yield

    @handlers.audio("x")
    async def x(_job: Job[Any]) -> None:
        """Never called."""

    running = asyncio.create_task(Worker(handlers, make_settings()).run())
    die.set()
    with pytest.raises(LifespanFailed, match="the token can't be refreshed"):
        async with asyncio.timeout(SOON):
            await running


# middleware


async def test_middleware_is_around_the_jobs_of_a_worker(running: Running) -> None:
    """It changes results, and one that raises fails its job with its name, and no other."""
    handlers = HandlerRegistry()

    @handlers.middleware
    async def wrapped(job: Job[Any], call_next: CallNext) -> Any:
        if job.data["quota"] < 1:
            msg = "no quota left"
            raise LookupError(msg)
        return {"wrapped": await call_next(job)}

    @handlers.audio("loop")
    async def in_loop(_job: Job[Any]) -> int:
        return 1

    @handlers.audio("thread")
    def in_thread(_job: Job[Any]) -> int:
        return 2

    async with running(handlers) as (worker, client):
        results = [
            await client.result(await client.enqueue(name, {"quota": 1}), SOON)
            for name in ("loop", "thread")
        ]
        with pytest.raises(JobFailed, match=r"middleware .*wrapped:\d+: no quota left"):
            await client.result(await client.enqueue("loop", {"quota": 0}), SOON)
        state = worker.stats()["state"]

    assert results == [{"wrapped": 1}, {"wrapped": 2}]
    assert state == "running"


# rates


async def test_starts_are_as_far_apart_as_the_rate_says(running: Running) -> None:
    """Jobs wait for their turn, in their order, and none is tried again for it."""
    handlers = HandlerRegistry()
    starts: list[tuple[float, int]] = []

    @handlers.audio("say", rate="20/s")
    async def say(job: Job[dict[str, int]]) -> int:
        starts.append((time.monotonic(), job.data["n"]))
        return job.attempt

    async with running(handlers) as (worker, client):
        began = time.monotonic()
        ids = [await client.enqueue("say", {"n": n}) for n in range(8)]
        attempts = [await client.result(job_id, SOON) for job_id in ids]
    outcomes = worker.stats()["outcomes"]

    # From one moment on: a busy machine may begin one handler late, and the next in time.
    assert all(at - began >= 0.05 * n - 1e-3 for n, (at, _) in enumerate(starts))
    assert [n for _, n in starts] == [*range(8)]
    assert attempts == [1] * 8
    assert outcomes == {"completed": 8}


async def test_a_rate_holds_up_no_other_handler(running: Running) -> None:
    """On one queue, jobs of a handler that rests are parked; the others run past them."""
    handlers, limited = HandlerRegistry(), []

    @handlers.audio("slow", rate="1/h")
    async def slow(job: Job[Any]) -> None:
        limited.append(job.id)

    @handlers.audio("fast")
    async def fast(_job: Job[Any]) -> str:
        return "fast"

    async with running(handlers) as (worker, client):
        for _ in range(3):
            await client.enqueue("slow")
        result = await client.result(await client.enqueue("fast"), SOON)
        parked = worker.stats()["parked"]

    assert result == "fast"
    assert (len(limited), parked) == (1, 2)


async def test_a_queue_out_of_rate_is_not_taken_from(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """Its jobs stay where any worker can take them, and waiting for the rate costs nothing."""
    handlers, started = HandlerRegistry(), asyncio.Event()

    @handlers.audio("slow", rate="1/h")
    async def slow(_job: Job[Any]) -> None:
        started.set()

    async with running(handlers, idle_min=30.0, idle_max=30.0) as (worker, client):
        first = await client.enqueue("slow")
        await client.result(first, SOON)
        for _ in range(5):
            await client.enqueue("slow")
        await wait_until(lambda: worker.stats()["running"] == 0, what="the end of the job")
        spent = worker.stats()["commands"]["sent"]
        async with counted_commands(redis) as counts:
            cpu = time.thread_time()
            await asyncio.sleep(0.3)  # what must not happen has no event
            cpu = time.thread_time() - cpu
        stats = worker.stats()

    assert stats["parked"] == 0
    assert await redis.llen(f"bull:{queue_name}:wait") == 5
    assert stats["commands"]["sent"] == spent
    assert not {"evalsha", "bzpopmin", "exists"} & {*counts.calls}
    assert cpu < 0.15  # a loop that asks again and again would use all of it


async def test_a_job_that_waits_for_its_rate_keeps_its_lock(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parked for longer than a lock lasts, it is not another worker's, and runs once."""
    handlers, starts = HandlerRegistry(), []

    @handlers.audio("slow", rate="1/3s")
    async def slow(job: Job[Any]) -> int:
        starts.append(job.id)
        return job.attempt

    @handlers.audio("other")
    async def other(_job: Job[Any]) -> None:
        """Keeps the queue open, so that jobs of the first are parked."""

    settings = make_settings(lock_duration=2.0)
    async with JobClient(settings) as client, Worker(handlers, settings) as worker:
        ids = [await client.enqueue("slow") for _ in range(2)]
        await wait_until(lambda: worker.stats()["parked"], what="a parked job")
        async with Worker(handlers, settings):
            attempts = [await client.result(job_id, SOON) for job_id in ids]

    assert starts == ids
    assert attempts == [1, 1]
    assert "jobs.stalled" not in capsys.readouterr().out


async def test_a_drain_waits_for_the_rate(make_settings: MakeSettings) -> None:
    """Nothing is left because a handler rested, whether it was parked or still in the queue."""
    handlers, settings = HandlerRegistry(), make_settings()
    shared, own = settings.queues[0], f"{settings.queues[0]}-own"
    settings = settings.replace(queues=(shared, own))

    @handlers.audio("shared", queue=shared, rate="20/s")
    @handlers.audio("own", queue=own, rate="20/s")
    async def run(_job: Job[Any]) -> None:
        """Do nothing."""

    @handlers.audio("free", queue=shared)
    async def free(_job: Job[Any]) -> None:
        """Do nothing."""

    async with JobClient(settings) as client:
        for _ in range(4):
            await client.enqueue("own", queue=own)
            await client.enqueue("shared")
        await client.enqueue("free")
        async with asyncio.timeout(SOON):
            result = await Worker(handlers, settings).drain()
        counts = await client.counts()

    assert (result.processed, result.remaining) == (9, 0)
    assert {queue: states["completed"] for queue, states in counts.items()} == {shared: 5, own: 4}


async def test_a_drain_that_ends_before_the_rate_says_when_to_come_back(
    make_settings: MakeSettings,
) -> None:
    """What is left is counted, and due when the handler may start again."""
    handlers, started = HandlerRegistry(), asyncio.Event()

    @handlers.audio("slow", rate="1/h")
    async def slow(_job: Job[Any]) -> None:
        started.set()

    settings = make_settings(shutdown_grace=0.1)
    async with JobClient(settings) as client:
        for _ in range(3):
            await client.enqueue("slow")

    result = await Worker(handlers, settings).drain(budget=1.0)

    assert (result.processed, result.remaining) == (1, 2)
    assert result.next_due_at == pytest.approx(time.time() + 3600, abs=LONG)


# reports


async def test_a_job_past_its_time_out_is_told_of_with_the_line_where_it_stands(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """An async handler's innermost await, in the log and in stats(), until the next report."""
    handlers = HandlerRegistry()

    async def synthesise() -> None:
        await asyncio.sleep(LONG)

    @handlers.audio("stuck", timeout=0.05)
    async def stuck(_job: Job[Any]) -> None:
        await synthesise()

    async with running(handlers) as (worker, client):
        job_id = await client.enqueue("stuck")
        with pytest.raises(JobFailed, match="time-out"):
            await client.result(job_id, SOON)
        report = worker.stats()["stuck"]["timed_out"]

    assert (report["job_id"], report["job_name"]) == (job_id, "stuck")
    assert "in synthesise" in report["stack"]
    assert "asyncio.sleep(LONG)" in report["stack"]
    assert report["at"] == pytest.approx(time.time(), abs=LONG)
    assert "job.timed_out" in capsys.readouterr().out


async def test_a_thread_past_its_time_out_is_told_of_likewise(running: Running) -> None:
    """By its own frames, without those that started it."""
    handlers, release = HandlerRegistry(), threading.Event()

    def grind() -> None:
        release.wait(LONG)

    @handlers.audio("stuck", timeout=0.05)
    def stuck(job: Job[Any]) -> None:
        while not job.cancelled.is_set():
            release.wait(0.01)

    @handlers.audio("deaf", timeout=0.05)
    def deaf(_job: Job[Any]) -> None:
        grind()

    async with running(handlers) as (worker, client):
        with pytest.raises(JobFailed, match="time-out"):
            await client.result(await client.enqueue("stuck"), SOON)
        first = worker.stats()["stuck"]["timed_out"]
        job_id = await client.enqueue("deaf")
        await wait_until(
            lambda: worker.stats()["stuck"]["timed_out"]["job_id"] == job_id, what="the report"
        )
        second = worker.stats()["stuck"]["timed_out"]
        release.set()

    abandoned = worker.stats()["stuck"]["abandoned"]
    assert abandoned is None  # the thread was released in time
    assert first["stack"].startswith(f'  File "{__file__}"')
    assert "in stuck" in first["stack"]
    assert "in grind" in second["stack"]


async def test_a_handler_that_ignores_its_end_is_told_of_where_it_stands(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for it any more; the log says what it does instead of ending."""
    handlers, started, release = HandlerRegistry(), threading.Event(), threading.Event()

    def grind() -> None:
        started.set()
        release.wait(LONG)

    @handlers.audio("deaf")
    def deaf(_job: Job[Any]) -> None:
        grind()

    settings = make_settings(shutdown_grace=0.05)
    async with JobClient(settings) as client, Worker(handlers, settings) as worker:
        job_id = await client.enqueue("deaf")
        await asyncio.to_thread(started.wait, SOON)
    release.set()
    report = worker.stats()["stuck"]["abandoned"]

    assert report["job_id"] == job_id
    assert "in grind" in report["stack"]
    assert "job.abandoned" in capsys.readouterr().out


async def test_a_handler_that_blocks_the_loop_is_in_the_stats(running: Running) -> None:
    """With the line where it stood, for a page that is looked at afterwards."""
    handlers = HandlerRegistry()

    @handlers.audio("blocking")
    async def blocking(_job: Job[Any]) -> None:
        time.sleep(1.6)  # noqa: ASYNC251 - that is what is told of

    async with running(handlers, lock_duration=2.0) as (worker, client):
        job_id = await client.enqueue("blocking")
        await client.result(job_id, SOON)
        report = worker.stats()["stuck"]["blocked"]

    assert report["job_id"] == job_id
    assert report["where"].endswith("in blocking")
    assert report["blocked_seconds"] >= 1
