"""Threads of plain handlers: kept from call to call, replaced when they are abandoned."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from convolab_worker.bullmq.jobs.outcome import Completed, Failed
from convolab_worker.handlers.job.job import Job
from convolab_worker.worker.execution.handler_call import AbortKind, HandlerCall
from convolab_worker.worker.execution.threads import HandlerThreads
from tests.unit.worker.execution.trials import SOON, Trial, abort_of

pytestmark = pytest.mark.asyncio
ONE_MORE = {"attempts": 2}


@pytest.fixture
def threads() -> Iterator[HandlerThreads]:
    """A worker's threads."""
    threads = HandlerThreads()
    yield threads
    threads.close()


async def called(threads: HandlerThreads, function: Any) -> Any:
    """What the function gives in one of the threads."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()

    def tell(*given: Any) -> None:
        loop.call_soon_threadsafe(ended.set_result, given)

    threads.call("job", function, tell)
    value, error = await asyncio.wait_for(ended, SOON)
    assert error is None
    return value


async def test_one_call_after_another_is_made_in_one_thread(threads: HandlerThreads) -> None:
    """What is local to a thread lives on."""
    local = threading.local()

    def count() -> int:
        local.calls = getattr(local, "calls", 0) + 1
        return int(local.calls)

    assert [await called(threads, count) for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_calls_at_once_have_a_thread_each(threads: HandlerThreads) -> None:
    """No call waits for another one."""
    all_here = threading.Barrier(3)

    def meet() -> int:
        all_here.wait(SOON)
        return threading.get_ident()

    idents = await asyncio.gather(*[called(threads, meet) for _ in range(3)])
    again = [await called(threads, threading.get_ident) for _ in range(3)]

    assert len(set(idents)) == 3
    assert set(again) <= set(idents)


async def test_a_thread_that_is_abandoned_takes_no_other_call(threads: HandlerThreads) -> None:
    """Its job's handler may go on for ever; the next job has a thread that is new, and local."""
    release, ended = threading.Event(), threading.Event()

    def handler(_job: Job[Any]) -> None:
        release.wait(SOON)
        ended.set()

    trial = Trial(handler)
    trial.call = HandlerCall(trial.job, trial.handler, threads, asyncio.get_running_loop())
    running = asyncio.create_task(trial.call.run())
    await asyncio.sleep(0)
    stuck = trial.call._thread  # noqa: SLF001 - which thread it is nobody tells
    trial.call.abort(abort_of(AbortKind.SHUTDOWN, 0))
    await running
    assert stuck is not None

    other = await called(threads, threading.get_ident)
    release.set()
    await asyncio.to_thread(ended.wait, SOON)
    await asyncio.to_thread(stuck._thread.join, SOON)  # noqa: SLF001 - likewise

    assert other != stuck.ident
    assert not stuck._thread.is_alive()  # noqa: SLF001 - likewise
    assert await called(threads, threading.get_ident) == other


async def test_a_call_that_ends_as_it_is_abandoned_leaves_a_thread_that_nobody_gets(
    threads: HandlerThreads,
) -> None:
    """It is idle already, and its end has not been heard of yet."""
    loop, ended = asyncio.get_running_loop(), threading.Event()
    told: asyncio.Future[Any] = loop.create_future()

    def tell(*given: Any) -> None:
        loop.call_soon_threadsafe(told.set_result, given)
        ended.set()

    thread = threads.call("job", threading.current_thread, tell)
    ended.wait(SOON)  # without a turn of the loop
    threads.abandon(thread)

    first, _ = await told
    assert await called(threads, threading.current_thread) is not first


async def test_a_thread_sees_the_context_of_its_own_job_alone() -> None:
    """Nothing of one job's context is left for the next in the same thread."""
    bound = contextvars.ContextVar("bound", default="nothing")

    def handler(job: Job[Any]) -> list[object]:
        seen = bound.get()
        bound.set("the handler's own")
        return [seen, job.id]

    trial = Trial(handler)
    seen = []
    for name in ("one", "two"):
        bound.set(name)
        call = HandlerCall(trial.job, trial.handler, trial.threads, asyncio.get_running_loop())
        await call.run()
        seen.append(call.result())
    trial.threads.close()

    assert seen == [["one", "7"], ["two", "7"]]


async def test_no_more_threads_cost_one_job_its_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has a limit; the next job may find a thread again."""

    def refuse(_thread: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    def handler(_job: Job[Any]) -> str:
        return "done"

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        outcome = await Trial(handler, ONE_MORE).outcome()

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.retry_in) == ("can't start new thread", 0)
    assert await Trial(handler, ONE_MORE).outcome() == Completed('"done"')


async def test_threads_end_when_they_are_closed_and_their_calls_are_over() -> None:
    """Idle ones at once, the others as soon as they can."""
    threads, release = HandlerThreads(), threading.Event()
    idle = await called(threads, threading.current_thread)
    busy: list[threading.Thread] = []
    started = threading.Event()

    def work() -> None:
        busy.append(threading.current_thread())
        started.set()
        release.wait(SOON)

    running = [asyncio.create_task(called(threads, work))]
    await asyncio.to_thread(started.wait, SOON)
    other = asyncio.create_task(called(threads, threading.current_thread))
    second = await other

    threads.close()
    await asyncio.to_thread(second.join, SOON)
    release.set()
    await asyncio.gather(*running)
    await asyncio.to_thread(busy[0].join, SOON)

    assert idle is busy[0]
    assert not second.is_alive()
    assert not busy[0].is_alive()
