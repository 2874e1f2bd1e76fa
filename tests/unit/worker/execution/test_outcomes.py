"""Outcomes: what a job comes to, whatever its handler returns or raises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from convolab_worker.bullmq.jobs.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Limited,
    Lost,
    Outcome,
    Postponed,
)
from convolab_worker.errors import (
    InvalidPayload,
    LockLost,
    RateLimited,
    RetryLater,
    UnrecoverableError,
)
from convolab_worker.handlers.job.children import Child
from convolab_worker.handlers.job.job import AwaitChildren, Job
from convolab_worker.payloads.decode import decode_data
from convolab_worker.worker.execution import handler_call
from convolab_worker.worker.execution.outcomes import failure
from tests.unit.worker.execution.trials import SOON, Trial, active_job

ONE_MORE = {"attempts": 2, "backoff": 3000}


class Unspeakable(Exception):
    """An exception whose own text raises."""

    def __str__(self) -> str:
        msg = "no words"
        raise ValueError(msg)

    __repr__ = __str__


async def failed(function: Callable[..., Any], opts: dict[str, Any] | None = None) -> Failed:
    """The failure that a handler ends in."""
    outcome = await Trial(function, opts).outcome()
    assert isinstance(outcome, Failed)
    return outcome


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
@pytest.mark.parametrize(
    "result",
    [{1, 2}, b"x", float("nan"), 2**60, "\ud800", pytest.param(object(), id="object")],
    ids=str,
)
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
async def test_an_invalid_payload_of_the_handlers_own_call_keeps_its_stack() -> None:
    """It says which call was refused."""

    async def handler(_job: Job[Any]) -> None:
        decode_data("{")

    outcome = await failed(handler)

    assert "in handler" in (outcome.stack or "")


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
        (BaseExceptionGroup("several", [KeyboardInterrupt()]), "KeyboardInterrupt"),
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
        (ExceptionGroup("several", [ValueError("a"), ValueError("b")]), "a; b"),
        (Unspeakable(), "Unspeakable"),
    ],
    ids=["text", "empty", "key", "lines", "number", "tuple", "os", "surrogate", "codec", "group",
         "unspeakable"],
)  # fmt: skip
def test_every_exception_has_a_reason_that_can_be_sent(error: Exception, reason: str) -> None:
    """Its message, as Node's would be; its type where the message says nothing alone."""
    outcome = failure(error, active_job(), lambda: 0.5)

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
    """RetryLater is not a failure, and needs no attempts."""

    async def handler(_job: Job[Any]) -> None:
        raise RetryLater(2.5)

    assert await Trial(handler).outcome() == Postponed(2.5)


@pytest.mark.parametrize("exception", [RetryLater, RateLimited])
@pytest.mark.parametrize("delay", [-1, "5s", float("nan"), 1e11, timedelta(seconds=5)])
def test_a_delay_is_a_number_of_seconds(
    exception: type[RetryLater | RateLimited], delay: Any
) -> None:
    with pytest.raises(ValueError, match="expected a number of seconds from 0 to 1e\\+10"):
        exception(delay)


@pytest.mark.asyncio
async def test_a_handler_may_wait_for_children() -> None:
    """Even one that catches every Exception on its way out."""
    child = Child("speak", {"line": 1})

    async def handler(job: Job[Any]) -> str:
        try:
            await job.enqueue_children([child])
        except Exception:  # noqa: BLE001 - as careless handlers do
            return "caught"

    assert await Trial(handler).outcome() == AwaitsChildren((child,))


@pytest.mark.asyncio
async def test_a_handler_may_limit_its_queue() -> None:
    """No attempt is used, and none is needed."""

    async def handler(_job: Job[Any]) -> None:
        raise RateLimited(1.5)

    assert await Trial(handler).outcome() == Limited(1.5)


# what a group of exceptions means


def grouped(*errors: BaseException) -> Callable[[Job[Any]], Any]:
    """A handler whose tasks raise these, all at once."""

    async def handler(_job: Job[Any]) -> None:
        ready = asyncio.Event()

        async def fail(error: BaseException) -> None:
            await ready.wait()
            raise error

        async with asyncio.TaskGroup() as group:
            for error in errors:
                group.create_task(fail(error))
            group.create_task(asyncio.sleep(SOON))
            await asyncio.sleep(0)
            ready.set()

    return handler


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([RetryLater(2)], Postponed(2)),
        ([RetryLater(2), RetryLater(5)], Postponed(5)),
        ([RateLimited(3), RetryLater(5)], Limited(3)),
        ([AwaitChildren((Child("a"),))], AwaitsChildren((Child("a"),))),
        (
            [AwaitChildren((Child("a"),)), AwaitChildren((Child("b"),))],
            AwaitsChildren((Child("a"), Child("b"))),
        ),
        ([ExceptionGroup("inner", [RetryLater(4)])], Postponed(4)),
        ([LockLost("gone"), ValueError("no")], Lost("gone")),
    ],
    ids=str,
)
async def test_a_group_means_what_the_exceptions_in_it_mean(
    errors: list[BaseException], expected: Outcome
) -> None:
    """A TaskGroup in a handler makes no failure of what is none."""
    assert await Trial(grouped(*errors)).outcome() == expected


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("errors", "reason", "retry_in"),
    [
        ([ValueError("no voice")], "no voice", 0),
        ([ValueError("no voice"), KeyError("x")], "no voice; KeyError: 'x'", 0),
        ([ValueError("no voice"), RetryLater(5)], "no voice", 0),
        ([UnrecoverableError("never"), ValueError("no")], "never; no", None),
        ([ExceptionGroup("inner", [UnrecoverableError("never")])], "never", None),
        (
            [AwaitChildren((Child("a"),)), AwaitChildren((Child("a", {"b": 1}),))],
            "enqueue_children: two children have the key 'a': give each one",
            0,
        ),
    ],
    ids=str,
)
async def test_a_group_fails_as_the_exceptions_in_it_do(
    errors: list[BaseException], reason: str, retry_in: float | None
) -> None:
    """Their messages are the reason; the stack shows all of them."""
    outcome = await Trial(grouped(*errors), {"attempts": 3}).outcome()

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.retry_in) == (reason, retry_in)
    if len(errors) == 1:
        assert not isinstance(outcome.error, ExceptionGroup)
    assert outcome.stack is not None
    assert "in fail" in outcome.stack or "two children" in reason
