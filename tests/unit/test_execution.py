"""Execution: one call of a handler, and the outcome that is made of whatever it does."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from convolab_worker.bullmq.flows import Child
from convolab_worker.bullmq.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Lost,
    Outcome,
    Postponed,
    Returned,
)
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import InvalidPayload, RetryLater, UnrecoverableError
from convolab_worker.handlers.job import Job
from convolab_worker.handlers.registry import HandlerRegistry
from convolab_worker.worker.execution import handler_call
from convolab_worker.worker.execution.handler_call import Abort, AbortKind, HandlerCall
from convolab_worker.worker.execution.outcomes import conclude, failure, prepare

SOON = 5.0
ONE_MORE = {"attempts": 2, "backoff": 3000}


class Quiet:
    """The reporter of a job that reports nothing."""

    newest: str | None = None

    def progress(self, value: Any) -> None:
        """Take it."""

    def log(self, row: str) -> None:
        """Take it."""

    async def children_results(self) -> dict[str, Any]:
        """No children."""
        return {}

    async def children_failures(self) -> dict[str, str]:
        """No children."""
        return {}

    async def drop_children(self) -> None:
        """No children."""

    async def finish(self) -> None:
        """Nothing to write."""

    def close(self) -> None:
        """Nothing to write."""


class Unspeakable(Exception):
    """An exception whose own text raises."""

    def __str__(self) -> str:
        msg = "no words"
        raise ValueError(msg)

    __repr__ = __str__


OUTCOMES: dict[AbortKind, Outcome | None] = {
    AbortKind.TIMEOUT: None,
    AbortKind.SHUTDOWN: Returned(),
    AbortKind.CANCELLED: Failed("cancelled"),
    AbortKind.LOCK_LOST: Lost("the lock was lost while the handler ran"),
}


def abort_of(kind: AbortKind, patience: float) -> Abort:
    """An abort of that kind, as the worker makes it."""
    return Abort(kind, OUTCOMES[kind], patience)


class Trial:
    """A handler about to be run for a job with those options."""

    def __init__(
        self, function: Callable[..., Any], opts: dict[str, Any] | None = None, **options: Any
    ) -> None:
        handlers = HandlerRegistry()
        handlers.audio("work", **options)(function)
        (self.handler,) = handlers
        self.active_job = ActiveJob(
            queue="q", id="7", token="t", name="work", data=b'{"n":1}', opts=opts or {}
        )
        self.job = prepare(self.active_job, self.handler, Quiet())
        self.run = HandlerCall(self.job, self.handler)

    async def outcome(self) -> Outcome:
        """Run it to its outcome; the test fails where that takes suspiciously long."""
        async with asyncio.timeout(SOON):
            await self.run.run()
        return conclude(self.run, self.active_job, self.handler, lambda: 0.5)

    async def interrupted(self, started: asyncio.Event, why: AbortKind, patience: float) -> Outcome:
        """Run it, and interrupt it when it has started."""
        ending = asyncio.create_task(self.outcome())
        async with asyncio.timeout(SOON):
            await started.wait()
        self.run.abort(abort_of(why, patience))
        return await ending


async def failed(function: Callable[..., Any], opts: dict[str, Any] | None = None) -> Failed:
    """The failure that a handler ends in."""
    outcome = await Trial(function, opts).outcome()
    assert isinstance(outcome, Failed)
    return outcome


def a_lease(**opts: Any) -> ActiveJob:
    """A job with those options."""
    return ActiveJob(queue="q", id="7", token="t", name="work", data=b"{}", opts=opts)


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


# results


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "null"),
        (5, "5"),
        ("é", '"é"'),
        ({"url": "a", "parts": [1, 2.5, None]}, '{"url":"a","parts":[1,2.5,null]}'),
        ((1, 2), "[1,2]"),
    ],
    ids=str,
)
@pytest.mark.parametrize("threaded", [False, True], ids=["loop", "thread"])
async def test_a_result_is_written_as_json(result: object, text: str, threaded: bool) -> None:  # noqa: FBT001
    """What a handler returns, in the loop or in a thread, is what Node reads."""

    def plain(_job: Job[Any]) -> object:
        return result

    async def coroutine(_job: Job[Any]) -> object:
        return result

    outcome = await Trial(plain if threaded else coroutine).outcome()

    assert outcome == Completed(text)


@pytest.mark.asyncio
@pytest.mark.parametrize("result", [{1, 2}, b"x", float("nan"), 2**60, "\ud800", object()], ids=str)
async def test_a_result_that_is_not_json_fails_the_job_for_good(result: object) -> None:
    """The work was done, and doing it again would give the same."""

    async def handler(_job: Job[Any]) -> object:
        return result

    outcome = await failed(handler, ONE_MORE)

    assert outcome.retry_in is None
    assert outcome.reason.startswith("result: ")
    outcome.reason.encode()


@pytest.mark.asyncio
async def test_a_coroutine_that_is_returned_is_no_result() -> None:
    """A plain function that forgot to await is told so, and its coroutine is closed."""

    async def work() -> int:
        return 1

    def handler(_job: Job[Any]) -> object:
        return work()

    outcome = await failed(handler, ONE_MORE)

    assert "make it async, or await what it returns" in outcome.reason
    assert outcome.retry_in is None


@pytest.mark.asyncio
async def test_a_handler_gets_its_job() -> None:
    """With its data validated, as the annotation says."""

    async def handler(job: Job[dict[str, int]]) -> Any:
        return [job.id, job.name, job.queue, job.kind, job.data, job.attempt, job.max_attempts]

    outcome = await Trial(handler, {"attempts": 3}).outcome()

    assert outcome == Completed('["7","work","q","audio",{"n":1},1,3]')


def test_data_that_is_not_what_was_asked_for_is_refused_before_the_handler() -> None:
    """The error names the place."""

    async def handler(_job: Job[dict[str, str]]) -> None:
        pytest.fail("the handler ran")

    with pytest.raises(InvalidPayload, match="n"):
        Trial(handler)


# failures


@pytest.mark.asyncio
@pytest.mark.parametrize("threaded", [False, True], ids=["loop", "thread"])
async def test_a_failure_is_tried_again_while_attempts_are_left(threaded: bool) -> None:  # noqa: FBT001
    """The reason is the message, the wait is the job's backoff."""

    def plain(_job: Job[Any]) -> None:
        msg = "no voice"
        raise RuntimeError(msg)

    async def coroutine(job: Job[Any]) -> None:
        plain(job)

    handler = plain if threaded else coroutine

    first, last = await failed(handler, ONE_MORE), await failed(handler)

    assert (first.reason, first.retry_in) == ("no voice", 3.0)
    assert (last.reason, last.retry_in) == ("no voice", None)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [UnrecoverableError, InvalidPayload])
async def test_some_failures_are_for_good(kind: type[Exception]) -> None:
    """Whatever attempts are left."""

    async def handler(_job: Job[Any]) -> None:
        msg = "never"
        raise kind(msg)

    outcome = await failed(handler, ONE_MORE)

    assert (outcome.reason, outcome.retry_in) == ("never", None)


@pytest.mark.asyncio
async def test_a_backoff_that_can_not_be_understood_fails_the_job_with_both_reasons() -> None:
    """The handler's own comes first."""

    async def handler(_job: Job[Any]) -> None:
        msg = "no voice"
        raise RuntimeError(msg)

    outcome = await failed(handler, {"attempts": 3, "backoff": {"type": "lunar"}})

    assert outcome.reason.startswith("no voice (not tried again: backoff: unknown strategy 'lunar'")
    assert outcome.retry_in is None


@pytest.mark.asyncio
@pytest.mark.parametrize("threaded", [False, True], ids=["loop", "thread"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (SystemExit(), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (BaseException("odd"), "BaseException: odd"),
        (BaseExceptionGroup("several", [KeyboardInterrupt()]), "several"),
    ],
    ids=repr,
)
async def test_nothing_that_a_handler_raises_ends_the_worker(
    error: BaseException,
    reason: str,
    threaded: bool,  # noqa: FBT001
) -> None:
    """sys.exit, an interrupt, a cancellation of its own: each is a failed attempt."""

    def plain(_job: Job[Any]) -> None:
        raise error

    async def coroutine(job: Job[Any]) -> None:
        plain(job)

    outcome = await failed(plain if threaded else coroutine, ONE_MORE)

    assert reason in outcome.reason
    assert outcome.retry_in == 3.0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("text"), "text"),
        (ValueError(), "ValueError"),
        (KeyError("voice"), "KeyError: 'voice'"),
        (ValueError("two\nlines"), "two\nlines"),
        (ValueError(5), "5"),
        (ValueError("a", "b"), "('a', 'b')"),
        (OSError(2, "No such file", "a.mp3"), "[Errno 2] No such file: 'a.mp3'"),
        (ValueError("\ud800"), "\\ud800"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"), "'utf-8' codec can't decode"),
        (ExceptionGroup("several", [ValueError("a")]), "several (1 sub-exception)"),
        (Unspeakable(), "Unspeakable"),
    ],
    ids=["text", "empty", "key", "lines", "number", "tuple", "os", "surrogate", "codec", "group",
         "unspeakable"],
)  # fmt: skip
def test_every_exception_has_a_reason_that_can_be_sent(error: Exception, reason: str) -> None:
    """Its message, as Node's would be; its type where the message says nothing alone."""
    outcome = failure(error, a_lease(), lambda: 0.5)

    assert outcome.reason.startswith(reason)
    outcome.reason.encode()
    assert outcome.stack is not None
    outcome.stack.encode()


# stack traces


def broken(_job: Job[Any]) -> None:
    """Fail, one call deep."""
    msg = "no voice"
    raise RuntimeError(msg)


async def broken_in_the_loop(job: Job[Any]) -> None:
    """Fail, two calls deep."""
    broken(job)


@pytest.mark.asyncio
@pytest.mark.parametrize("function", [broken, broken_in_the_loop], ids=["thread", "loop"])
async def test_a_stack_trace_starts_at_the_handler(function: Callable[..., Any]) -> None:
    """A dashboard shows the handler's code, not the worker's."""
    stack = (await failed(function)).stack

    assert stack is not None
    lines = stack.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith(f"in {function.__name__}")
    assert lines[-1] == "RuntimeError: no voice"
    assert handler_call.__file__ not in stack


@pytest.mark.asyncio
async def test_a_stack_trace_shows_what_an_error_was_raised_from() -> None:
    """The cause stands before it."""

    async def handler(job: Job[Any]) -> None:
        try:
            broken(job)
        except RuntimeError as cause:
            msg = "no audio"
            raise ValueError(msg) from cause

    stack = (await failed(handler)).stack

    assert stack is not None
    assert stack.index("RuntimeError: no voice") < stack.index("ValueError: no audio")


@pytest.mark.asyncio
async def test_a_time_out_shows_where_the_handler_stood() -> None:
    """The line that it waited in, under our own exception."""

    async def waiting_for_the_voice() -> None:
        await asyncio.Event().wait()

    async def handler(_job: Job[Any]) -> None:
        await waiting_for_the_voice()

    outcome = await Trial(handler, timeout=0.01).outcome()

    assert isinstance(outcome, Failed)
    assert outcome.stack is not None
    assert "in waiting_for_the_voice" in outcome.stack
    assert "JobTimeout: work ran longer" in outcome.stack
    assert handler_call.__file__ not in outcome.stack


# what is not an end


@pytest.mark.asyncio
async def test_a_handler_may_ask_for_another_run() -> None:
    """RetryLater is no failure, and needs no attempts."""

    async def handler(_job: Job[Any]) -> None:
        raise RetryLater(2.5)

    assert await Trial(handler).outcome() == Postponed(2.5)


@pytest.mark.asyncio
async def test_a_handler_may_wait_for_children() -> None:
    """Even one that catches every Exception on its way out."""
    child = Child("speak", {"line": 1})

    async def handler(job: Job[Any]) -> str:
        try:
            await job.enqueue_children([child])
        except Exception:  # noqa: BLE001 - as careless handlers do
            return "caught"
        return "went on"

    assert await Trial(handler).outcome() == AwaitsChildren((child,))


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
    assert not trial.run.abandoned


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
    assert trial.run.abandoned


@pytest.mark.asyncio
async def test_a_handler_in_time_is_not_disturbed() -> None:
    """Nothing of a time-out is left when it has ended."""

    async def handler(_job: Job[Any]) -> str:
        await asyncio.sleep(0)
        return "done"

    trial = Trial(handler, timeout=0.05)

    outcome = await trial.outcome()
    trial.run.abort(abort_of(AbortKind.TIMEOUT, 0))

    assert outcome == Completed('"done"')
    assert trial.run.aborted is None
    assert not trial.job.cancelled.is_set()


# shutdowns and lost locks


@pytest.mark.asyncio
async def test_a_handler_that_a_shutdown_cancels_has_its_job_returned() -> None:
    """To the head of its queue, for another worker, with no attempt used up."""
    started = asyncio.Event()

    async def handler(_job: Job[Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    outcome = await Trial(handler).interrupted(started, AbortKind.SHUTDOWN, SOON)

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

    outcome = await Trial(handler).interrupted(started, AbortKind.SHUTDOWN, SOON)

    assert outcome == Completed('"just in time"')


@pytest.mark.asyncio
async def test_an_error_on_the_way_out_is_the_shutdowns() -> None:
    """A connection that breaks under a cancelled handler is no failed attempt."""
    started = asyncio.Event()

    async def handler(_job: Job[Any]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            msg = "connection closed"
            raise ConnectionError(msg)

    outcome = await Trial(handler).interrupted(started, AbortKind.SHUTDOWN, SOON)

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

    outcome = await trial.interrupted(started, AbortKind.SHUTDOWN, 0.02)

    assert outcome == Returned()
    assert trial.run.abandoned


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

    outcome = await Trial(handler).interrupted(started, AbortKind.LOCK_LOST, SOON)

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
    trial.run.abort(abort_of(first, 60))
    trial.run.abort(abort_of(second, 0.01))

    await ending

    assert trial.run.aborted is not None
    assert trial.run.aborted.kind is first
    assert trial.run.abandoned


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
        ending = asyncio.create_task(trial.run.run())
        await asyncio.sleep(0)
        trial.run.abort(abort_of(AbortKind.SHUTDOWN, 0.001))
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
    assert found == [{"handler": place, "job_id": "7", "name": "work", "queue": "q"}]
    assert handler_call.job_of_frame(sys._getframe()) is None  # noqa: SLF001
