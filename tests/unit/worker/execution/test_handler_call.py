"""Calls of handlers: time-outs, aborts, threads, and what becomes of a handler that goes on."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from convolab_worker.bullmq.jobs.outcome import Completed, Failed, Lost, Returned
from convolab_worker.handlers.job.job import Job
from convolab_worker.worker.execution import handler_call
from convolab_worker.worker.execution.handler_call import AbortKind
from tests.unit.worker.execution.trials import SOON, Trial, abort_of

ONE_MORE = {"attempts": 2, "backoff": 3000}


@pytest_asyncio.fixture
async def release() -> AsyncIterator[threading.Event]:
    """What handlers that do not end wait for; when the test is over it is set, and they end."""
    event = threading.Event()
    yield event
    event.set()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=SOON)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the slot of a handler that ignores its time-out after a moment."""
    monkeypatch.setattr(handler_call, "PATIENCE_SECONDS", 0.05)


async def until_released(release: threading.Event, started: asyncio.Event | None = None) -> None:
    """Ignore every cancellation, as a handler should not."""
    if started is not None:
        started.set()
    while not release.is_set():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


# time-outs


@pytest.mark.asyncio
async def test_a_time_out_cancels_the_handler_and_fails_the_attempt() -> None:
    """Its finally clauses run, ``cancelled`` is set, and the job is tried again."""
    cleaned_up = []

    async def handler(job: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.append(job.cancelled.is_set())

    outcome = await Trial(handler, ONE_MORE, timeout=0.01).outcome()

    assert isinstance(outcome, Failed)
    assert outcome.reason == "work ran longer than its time-out of 0.01 s"
    assert outcome.retry_in == 3.0
    assert cleaned_up == [True]


@pytest.mark.asyncio
async def test_a_time_out_counts_from_the_handlers_beginning() -> None:
    """And not from where it first waits for something."""

    async def handler(_job: Job[Any]) -> None:
        time.sleep(0.1)  # noqa: ASYNC251 - it blocks the loop, as it should not
        for _ in range(100):
            await asyncio.sleep(0)

    outcome = await Trial(handler, ONE_MORE, timeout=0.1).outcome()

    assert isinstance(outcome, Failed)
    assert outcome.reason == "work ran longer than its time-out of 0.1 s"


@pytest.mark.asyncio
async def test_a_result_after_the_time_out_is_too_late() -> None:
    """A handler that swallows its cancellation has failed all the same."""

    async def handler(_job: Job[Any]) -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "late"

    outcome = await Trial(handler, timeout=0.01).outcome()

    assert isinstance(outcome, Failed)
    assert "time-out" in outcome.reason


@pytest.mark.asyncio
async def test_a_thread_is_told_of_its_time_out() -> None:
    """It can't be cancelled; it has to look at ``cancelled``."""

    def handler(job: Job[Any]) -> str:
        deadline = time.monotonic() + SOON
        while not job.cancelled.is_set() and time.monotonic() < deadline:
            time.sleep(0.001)
        return "late"

    trial = Trial(handler, timeout=0.01)

    outcome = await trial.outcome()

    assert isinstance(outcome, Failed)
    assert outcome.reason == "work ran longer than its time-out of 0.01 s"
    assert not trial.call.abandoned


@pytest.mark.asyncio
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("threaded", [False, True], ids=["loop", "thread"])
async def test_a_handler_that_ignores_its_time_out_is_abandoned(
    release: threading.Event,
    threaded: bool,  # noqa: FBT001
) -> None:
    """Its slot is free again, and the reason says that it may still be running."""

    def plain(_job: Job[Any]) -> None:
        release.wait(SOON)

    async def coroutine(_job: Job[Any]) -> None:
        await until_released(release)

    trial = Trial(plain if threaded else coroutine, timeout=0.01)

    outcome = await trial.outcome()

    assert isinstance(outcome, Failed)
    assert outcome.reason.endswith("; it is still running and was abandoned")
    assert trial.call.abandoned


@pytest.mark.asyncio
async def test_a_handler_in_time_is_not_disturbed() -> None:
    """Nothing of a time-out is left when it has ended."""

    async def handler(_job: Job[Any]) -> str:
        await asyncio.sleep(0)
        return "done"

    trial = Trial(handler, timeout=0.05)

    outcome = await trial.outcome()
    trial.call.abort(abort_of(AbortKind.TIMEOUT, 0))

    assert outcome == Completed('"done"')
    assert trial.call.aborted is None
    assert not trial.job.cancelled.is_set()


# shutdowns, cancel requests and lost locks


@pytest.mark.asyncio
async def test_a_handler_that_a_shutdown_cancels_has_its_job_returned() -> None:
    """To the head of its queue, for another worker, with no attempt used up."""
    started = asyncio.Event()

    async def handler(_job: Job[Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    outcome = await Trial(handler).aborted(started, AbortKind.SHUTDOWN, SOON)

    assert outcome == Returned()


@pytest.mark.asyncio
async def test_a_handler_that_ends_its_work_at_a_shutdown_has_its_result_written() -> None:
    """What is done is done."""
    started = asyncio.Event()

    async def handler(_job: Job[Any]) -> str:
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "just in time"

    outcome = await Trial(handler).aborted(started, AbortKind.SHUTDOWN, SOON)

    assert outcome == Completed('"just in time"')


@pytest.mark.asyncio
async def test_an_error_on_the_way_out_is_the_shutdowns() -> None:
    """A connection that breaks under a cancelled handler is not a failed attempt."""
    started = asyncio.Event()

    async def handler(_job: Job[Any]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            msg = "connection closed"
            raise ConnectionError(msg)

    outcome = await Trial(handler).aborted(started, AbortKind.SHUTDOWN, SOON)

    assert outcome == Returned()


@pytest.mark.asyncio
@pytest.mark.parametrize("threaded", [False, True], ids=["loop", "thread"])
async def test_a_handler_that_ignores_a_shutdown_has_its_job_returned(
    release: threading.Event,
    threaded: bool,  # noqa: FBT001
) -> None:
    """The worker ends in time, whatever the handler does."""
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def plain(_job: Job[Any]) -> None:
        loop.call_soon_threadsafe(started.set)
        release.wait(SOON)

    async def coroutine(_job: Job[Any]) -> None:
        await until_released(release, started)

    trial = Trial(plain if threaded else coroutine)

    outcome = await trial.aborted(started, AbortKind.SHUTDOWN, 0.02)

    assert outcome == Returned()
    assert trial.call.abandoned


@pytest.mark.asyncio
@pytest.mark.parametrize("returns", [False, True], ids=["ends", "returns"])
async def test_a_cancelled_job_comes_to_what_was_asked_or_to_its_result(returns: bool) -> None:  # noqa: FBT001
    """A handler that has its result all the same has it written."""
    started = asyncio.Event()

    async def handler(_job: Job[Any]) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not returns:
                raise
        return "done"

    outcome = await Trial(handler).aborted(started, AbortKind.CANCELLED, SOON)

    assert outcome == (Completed('"done"') if returns else Failed("cancelled"))


@pytest.mark.asyncio
@pytest.mark.parametrize("result", ["returned", "raised", "cancelled"])
async def test_a_lost_lock_loses_the_job_whatever_the_handler_does(result: str) -> None:
    """Another worker may have it: nothing is to be written."""
    started = asyncio.Event()

    async def handler(_job: Job[Any]) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if result == "cancelled":
                raise
        if result == "raised":
            msg = "no voice"
            raise RuntimeError(msg)
        return "done"

    outcome = await Trial(handler).aborted(started, AbortKind.LOCK_LOST, SOON)

    assert isinstance(outcome, Lost)


@pytest.mark.asyncio
@pytest.mark.parametrize("second", list(AbortKind))
@pytest.mark.parametrize("first", list(AbortKind))
async def test_the_first_interruption_counts(
    first: AbortKind, second: AbortKind, release: threading.Event
) -> None:
    """A second one may only shorten the patience."""
    started = asyncio.Event()

    async def handler(_job: Job[Any]) -> None:
        await until_released(release, started)

    trial = Trial(handler, timeout=60)
    ending = asyncio.create_task(trial.outcome())
    await started.wait()
    trial.call.abort(abort_of(first, 60))
    trial.call.abort(abort_of(second, 0.01))

    await ending

    assert trial.call.aborted is not None
    assert trial.call.aborted.kind is first
    assert trial.call.abandoned


# threads


@pytest.mark.asyncio
async def test_a_thread_has_the_context_of_its_job() -> None:
    """What was bound to the context when the job began is seen in the thread."""
    bound = contextvars.ContextVar("bound", default="")

    def handler(_job: Job[Any]) -> list[object]:
        return [bound.get(), threading.current_thread().daemon, threading.current_thread().name]

    bound.set("here")

    outcome = await Trial(handler).outcome()

    assert isinstance(outcome, Completed)
    assert json.loads(outcome.value) == ["here", True, "job 7"]


def test_a_thread_that_outlives_the_loop_ends_quietly(release: threading.Event) -> None:
    """An abandoned thread has nobody to tell, and says nothing."""
    ended = threading.Event()
    complaints: list[object] = []

    def handler(_job: Job[Any]) -> None:
        release.wait(SOON)
        ended.set()

    async def main() -> None:
        trial = Trial(handler, timeout=0.001)
        ending = asyncio.create_task(trial.call.run())
        await asyncio.sleep(0)
        trial.call.abort(abort_of(AbortKind.SHUTDOWN, 0.001))
        await ending

    before = threading.excepthook
    threading.excepthook = complaints.append
    try:
        asyncio.run(main())
        release.set()
        assert ended.wait(SOON)
        for thread in threading.enumerate():
            if thread.name == "job 7":
                thread.join(SOON)
    finally:
        threading.excepthook = before

    assert complaints == []


@pytest.mark.asyncio
async def test_a_frame_of_a_handlers_call_names_handler_and_job() -> None:
    """From inside the handler, the caller's frame is the one that knows."""
    found: list[object] = []

    async def handler(_job: Job[Any]) -> None:
        frame = sys._getframe().f_back  # noqa: SLF001
        assert frame is not None
        found.append(handler_call.job_of_frame(frame))

    trial = Trial(handler)
    await trial.outcome()

    place = trial.handler.place
    assert found == [{"handler": place, "job_id": "7", "job_name": "work", "queue": "q"}]
    assert handler_call.job_of_frame(sys._getframe()) is None  # noqa: SLF001
