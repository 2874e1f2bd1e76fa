"""Handlers that block, break, leak, exit, or never end."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job
from convolab_worker.worker.execution import handler_call
from tests.faults.harness import Bench, eventually
from tests.support.waiting import wait_until, within


@pytest.fixture
def bench(safe_bench: Bench) -> Bench:
    """None of these faults is the server's."""
    return safe_bench


class _UnspeakableError(Exception):
    def __str__(self) -> str:
        msg = "no text"
        raise RuntimeError(msg)

    __repr__ = __str__


class _OddBase(BaseException):
    pass


def _exit() -> NoReturn:
    sys.exit(3)


def _raiser(error: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    def raise_it() -> NoReturn:
        raise error()

    return raise_it


BREAKING: dict[str, Callable[[], NoReturn]] = {
    "KeyboardInterrupt": _raiser(KeyboardInterrupt),
    "sys.exit": _exit,
    "GeneratorExit": _raiser(GeneratorExit),
    "CancelledError": _raiser(asyncio.CancelledError),
    "BaseException": _raiser(_OddBase),
    "StopIteration": _raiser(StopIteration),
    "group": _raiser(lambda: BaseExceptionGroup("several", [ValueError("one"), _OddBase()])),
    "unspeakable": _raiser(_UnspeakableError),
    "surrogate": _raiser(lambda: ValueError("\ud800")),
    "MemoryError": _raiser(MemoryError),
    "RecursionError": _raiser(RecursionError),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("thread", [False, True], ids=["async", "thread"])
@pytest.mark.parametrize("breaking", BREAKING)
async def test_whatever_a_handler_raises_fails_its_job_alone(
    bench: Bench,
    breaking: str,
    thread: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A handler may raise anything: its job fails with a reason, and the next one runs."""
    handlers = HandlerRegistry()

    if thread:

        @handlers.audio("break")
        def break_thread(_: Job[Any]) -> None:
            BREAKING[breaking]()

    else:

        @handlers.audio("break")
        async def break_loop(_: Job[Any]) -> None:
            BREAKING[breaking]()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        bench.ledger.end(job.id)

    async with bench.worker(handlers, concurrency=1) as worker:
        (broken,) = await bench.add({}, name="break")
        (good,) = await bench.add({})

        await bench.all_in("failed", [broken])
        await bench.all_in("completed", [good])
        await wait_until(lambda: worker.stats()["free"] == 1)
        assert bench.field(broken, "failedReason")
        assert bench.states().keys() == {"failed", "completed"}


@dataclass
class _Picky:
    size: int

    def __post_init__(self) -> None:
        msg = "picky"
        raise KeyError(msg)


@pytest.mark.asyncio
async def test_a_payload_class_that_breaks_fails_its_job_alone(bench: Bench) -> None:
    """A payload class whose own code raises fails the job, and the worker goes on."""
    handlers = HandlerRegistry()

    @handlers.audio("picky")
    async def picky(_: Job[_Picky]) -> None:
        pass

    @handlers.audio("work")
    async def work(_: Job[Any]) -> None:
        pass

    async with bench.worker(handlers, concurrency=1):
        (broken,) = await bench.add({"size": 1}, name="picky")
        (good,) = await bench.add({})

        await bench.all_in("failed", [broken])
        await bench.all_in("completed", [good])


@pytest.mark.asyncio
async def test_a_blocked_loop_keeps_its_locks_and_names_the_handler(bench: Bench) -> None:
    """A handler that blocks the loop for longer than a lock lasts runs once; the log says where."""
    worker = bench.process(lock_duration=3.0)
    await worker.says("worker.started")
    (blocker, beside) = await bench.add(
        {"do": "block", "seconds": 5.0}, {"do": "sleep", "seconds": 0.5}
    )
    await bench.started(blocker)
    peer = bench.process()
    await peer.says("worker.started")

    await bench.settled([blocker, beside], within=15)

    assert len(bench.ledger.starts()) == 2
    assert not worker.events("job.lost")
    blocked = [event for event in worker.events() if "blocked" in event["event"]]
    assert blocked, "no log line says that the loop was blocked"
    text = str(blocked)
    assert blocker in text
    assert "work" in text
    assert "_block" in text, "the log does not say where the handler stood"


@pytest.mark.asyncio
async def test_a_lost_lock_cancels_the_handler_and_writes_nothing(bench: Bench) -> None:
    """When another holds the lock the handler is cancelled, and nothing is written of the job."""
    handlers = HandlerRegistry()
    cancelled = asyncio.Event()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        bench.ledger.start(job.id)
        try:
            await asyncio.Event().wait()
        finally:
            assert job.cancelled.is_set()
            await job.progress(99)
            job.log.info("too.late")
            cancelled.set()

    with capture_logs() as logs:
        async with bench.worker(handlers, progress_interval=0.0) as worker:
            (job_id,) = await bench.add({})
            await bench.started(job_id)
            bench.redis.set(bench.key(f"{job_id}:lock"), "another worker's", ex=60)
            before = bench.redis.hgetall(bench.key(job_id))

            await within(cancelled.wait(), 3)
            await wait_until(lambda: worker.stats()["outcomes"].get("lost") == 1)

            assert worker.stats()["running"] == 0
            assert bench.states() == {"active": [job_id]}
            assert bench.redis.hgetall(bench.key(job_id)) == before
            assert bench.redis.lrange(bench.key(f"{job_id}:logs"), 0, -1) == []
            assert bench.redis.get(bench.key(f"{job_id}:lock")) == "another worker's"
    assert [line["job_id"] for line in logs if line["event"] == "job.lost"] == [job_id]


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_job_that_was_lost_to_a_worker_that_died_is_recovered(bench: Bench) -> None:
    """A job that this worker lost to one which then vanished runs here again."""
    handlers = HandlerRegistry()
    calls: list[str] = []

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        calls.append(job.id)
        if len(calls) == 1:
            await asyncio.Event().wait()

    async with bench.worker(handlers):
        (job_id,) = await bench.add({})
        await wait_until(lambda: calls)

        bench.redis.set(bench.key(f"{job_id}:lock"), "another worker's", px=1500)

        await bench.all_in("completed", [job_id])
    assert calls == [job_id, job_id]


@pytest.mark.asyncio
async def test_a_lock_that_ran_out_while_nobody_took_the_job_is_taken_again(
    bench: Bench,
) -> None:
    """A lock that vanished, and which no other worker has taken, is renewed: the job runs once."""
    handlers = HandlerRegistry()
    gate = asyncio.Event()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        bench.ledger.start(job.id)
        await gate.wait()
        bench.ledger.end(job.id)

    async with bench.worker(handlers):
        (job_id,) = await bench.add({})
        await bench.started(job_id)

        bench.redis.delete(bench.key(f"{job_id}:lock"))
        await wait_until(lambda: bench.redis.exists(bench.key(f"{job_id}:lock")), timeout=3)
        gate.set()

        await bench.settled([job_id])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the patience with a handler that does not end when it is told to."""
    monkeypatch.setattr(handler_call, "PATIENCE_SECONDS", 0.3)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Ends the threads that a test has left behind."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.asyncio
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["obedient", "stubborn", "thread"])
async def test_a_time_out_fails_the_job_and_frees_the_slot(
    bench: Bench, release: threading.Event, kind: str
) -> None:
    """A job that outlives its time-out fails with JobTimeout and the next runs in its slot."""
    handlers = HandlerRegistry()

    @handlers.audio("obedient", timeout=0.2)
    async def obedient(_: Job[Any]) -> None:
        await asyncio.Event().wait()

    @handlers.audio("stubborn", timeout=0.2)
    async def stubborn(_: Job[Any]) -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await wait_until(release.is_set)

    @handlers.audio("thread", timeout=0.2)
    def thread(_: Job[Any]) -> None:
        release.wait()

    @handlers.audio("work")
    async def work(_: Job[Any]) -> None:
        pass

    async with bench.worker(handlers, concurrency=1):
        (late,) = await bench.add({}, name=kind)
        (good,) = await bench.add({})

        await bench.all_in("failed", [late])
        await bench.all_in("completed", [good])
        assert "time-out of 0.2 s" in str(bench.field(late, "failedReason"))
    release.set()


@pytest.mark.asyncio
async def test_a_handler_that_leaks_tasks_and_threads_harms_nobody(bench: Bench) -> None:
    """Tasks that a handler leaves behind, failing ones too, don't touch the worker."""
    handlers = HandlerRegistry()
    leaked: list[asyncio.Task[None]] = []

    async def forever() -> None:
        await asyncio.Event().wait()

    async def fail() -> None:
        raise _OddBase

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        bench.ledger.start(job.id)
        leaked.append(asyncio.create_task(forever()))
        leaked.append(asyncio.create_task(fail()))
        bench.ledger.end(job.id)

    async with bench.worker(handlers):
        ids = await bench.add(*[{}] * 5)
        await bench.settled(ids)
    for task in leaked:
        task.cancel()
    await asyncio.gather(*leaked, return_exceptions=True)


@pytest.mark.asyncio
async def test_a_callback_that_breaks_harms_nobody(bench: Bench) -> None:
    """What a handler leaves behind for the loop to call fails alone: a callback, a bad event."""
    handlers = HandlerRegistry()
    broken: list[dict[str, Any]] = []

    def fail() -> None:
        raise _OddBase

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        bench.ledger.start(job.id)
        loop = asyncio.get_running_loop()
        loop.call_soon(fail)
        loop.call_later(0, int, "not a number")
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: fail())
        bench.ledger.end(job.id)

    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
    async with bench.worker(handlers):
        ids = await bench.add(*[{}] * 3)
        await bench.settled(ids)
    assert len(broken) == 9


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_job_that_blocks_for_a_while_does_not_break_the_connection(bench: Bench) -> None:
    """After a blocked loop the command link is as good as before, whatever its time-out."""
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(job: Job[Any]) -> None:
        bench.ledger.start(job.id)
        if job.data:
            threading.Event().wait(1.5)  # on the loop's own thread: that is the fault
        bench.ledger.end(job.id)

    with capture_logs() as logs:
        async with bench.worker(handlers, command_timeout=0.3, concurrency=2):
            ids = await bench.add({"blocks": True}, {"blocks": True})
            await bench.settled(ids)
            (more,) = await bench.add({})
            took = await eventually(lambda: bench.ledger.starts(more))
    assert took < 1.0
    assert not [line for line in logs if line["event"] in ("job.lost", "redis.unavailable")]
