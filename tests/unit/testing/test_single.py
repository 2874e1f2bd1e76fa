"""run_handler: one run of a handler without Redis, and everything a worker would have done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from convolab_worker import CallNext, Child, Exponential, HandlerRegistry, Job
from convolab_worker.errors import (
    ConfigurationError,
    HandlerNotFound,
    InvalidPayload,
    InvalidResult,
    JobFailed,
    JobTimeout,
    LifespanFailed,
    RetryLater,
    UnrecoverableError,
)
from convolab_worker.testing import run_handler

pytestmark = pytest.mark.asyncio
LONG = 60.0


@dataclass
class Request:
    """The data of a job."""

    text: str
    speed: float = 1.0


def one(function: Any, **options: Any) -> HandlerRegistry:
    """A registry with that function for ``x``."""
    handlers = HandlerRegistry()
    handlers.audio("x", **options)(function)
    return handlers


async def test_the_handler_itself_says_what_is_run() -> None:
    """As for enqueue: of two of one name, the one of its own queue."""
    handlers = HandlerRegistry()

    @handlers.audio("x")
    async def anywhere(job: Job[Any]) -> str:
        return job.queue

    @handlers.audio("x", queue="special")
    async def special(job: Job[Any]) -> str:
        return f"{job.queue}!"

    assert (await run_handler(handlers, anywhere)).result == "convolab"
    assert (await run_handler(handlers, special)).result == "special!"
    with pytest.raises(ConfigurationError, match="is not a registered handler"):
        await run_handler(handlers, one)


async def test_result_progress_and_logs_are_what_redis_would_have_got() -> None:
    """The result has been through JSON, and so have the data and the progress."""

    async def handler(job: Job[Request]) -> dict[str, Any]:
        await job.progress((1, 2))
        job.log.info("speaking", chars=len(job.data.text))
        return {"parts": (job.data.text, job.data.speed)}

    run = await run_handler(one(handler), "x", Request("Guten Tag"))

    assert run.outcome == "completed"
    assert run.result == {"parts": ["Guten Tag", 1.0]}
    assert run.progress == [[1, 2]]
    assert run.logs == ["[info] speaking chars=9"]


async def test_a_thread_reports_too() -> None:
    """Progress and logs of a plain function are kept in order."""

    def handler(job: Job[Any]) -> int:
        for percent in (10, 20):
            job.progress(percent)
        job.log.warning("done")
        return 3

    run = await run_handler(one(handler), "x")

    assert (run.result, run.progress, run.logs) == (3, [10, 20], ["[warning] done"])


async def test_the_job_is_what_was_asked_for() -> None:
    """Name, queue, id and attempts."""

    async def handler(job: Job[Any]) -> list[Any]:
        return [job.name, job.queue, job.id, job.kind, job.attempt, job.max_attempts]

    run = await run_handler(one(handler), "x", queue="q", job_id="7", attempt=2, attempts=3)

    assert run.result == ["x", "q", "7", "audio", 2, 3]


async def test_a_handler_of_one_queue_is_found_without_naming_it() -> None:
    """Of two queues the test has to say which."""

    async def handler(job: Job[Any]) -> str:
        return job.queue

    handlers = one(handler, queue="speech")
    run = await run_handler(handlers, "x")
    handlers.image("x", queue="pictures")(handler)

    assert run.result == "speech"
    with pytest.raises(ConfigurationError, match=r"pictures, speech: expected queue="):
        await run_handler(handlers, "x")


def broken(_job: Job[Request]) -> None:
    """Fail."""
    msg = "broken"
    raise LookupError(msg)


def no_json(_job: Job[Request]) -> object:
    """Give what can't be written."""
    return {1, 2}


async def slow(_job: Job[Request]) -> None:
    """Run longer than the time-out."""
    await asyncio.sleep(LONG)


@pytest.mark.parametrize(
    ("function", "data", "error", "match"),
    [
        (broken, {"text": ""}, LookupError, "^broken$"),
        (broken, {"txt": ""}, InvalidPayload, "text: required field is missing"),
        (no_json, {"text": ""}, InvalidResult, "a set has no order"),
        (slow, {"text": ""}, JobTimeout, "longer than its time-out of 0.05 s"),
    ],
)
async def test_what_the_attempt_fails_with_is_raised(
    function: Any, data: Any, error: type[Exception], match: str
) -> None:
    """As it was raised, so that a test can expect it."""
    with pytest.raises(error, match=match):
        await run_handler(one(function, timeout=0.05), "x", data)


async def test_a_name_that_nobody_handles_is_said_as_the_worker_says_it() -> None:
    """With the names that are handled."""
    with pytest.raises(HandlerNotFound, match="no handler for 'y' on queue .* there: x"):
        await run_handler(one(broken), "y")


async def test_what_would_end_the_test_is_raised_as_a_failed_job() -> None:
    """A handler's sys.exit() fails its job, and not the run of tests."""

    async def handler(_job: Job[Any]) -> None:
        raise SystemExit(3)

    with pytest.raises(JobFailed, match="SystemExit: 3"):
        await run_handler(one(handler), "x")


async def test_an_outcome_can_be_looked_at_instead() -> None:
    """Reason, error, and when the next attempt would be."""
    handlers = one(broken)

    first = await run_handler(handlers, "x", {"text": ""}, attempts=2, backoff=3.0, raises=False)
    last = await run_handler(handlers, "x", {"text": ""}, attempt=2, attempts=2, raises=False)

    assert (first.outcome, first.reason, first.retry_in) == ("retried", "broken", 3.0)
    assert (last.outcome, last.retry_in) == ("failed", None)
    assert isinstance(last.error, LookupError)
    with pytest.raises(AssertionError, match="gave no result: it failed: broken"):
        _ = last.result


async def test_asking_for_another_run_is_an_outcome() -> None:
    """RetryLater raises nothing: it is not a failure."""

    async def handler(_job: Job[Any]) -> None:
        raise RetryLater(delay=30)

    run = await run_handler(one(handler), "x")

    assert (run.outcome, run.retry_in) == ("postponed", 30)
    with pytest.raises(AssertionError, match="another run in 30 s"):
        _ = run.result


async def lesson(job: Job[Any]) -> Any:
    """A handler of two stages."""
    done = await job.children_results()
    if "audio" not in done:
        await job.enqueue_children([Child("generate-audio", key="audio"), Child("picture")])
    return {"audio": done["audio"], "why": await job.children_failures()}


async def test_children_are_asked_for_and_given() -> None:
    """The first call asks, the second has the results; a failed part is None, with its reason."""
    handlers = one(lesson)

    first = await run_handler(handlers, "x")
    second = await run_handler(
        handlers,
        "x",
        children_results={"audio": {"seconds": 3}},
        children_failures={"picture": "no paint"},
    )

    assert first.outcome == "waiting_children"
    assert [child.result_key for child in first.children] == ["audio", "picture"]
    assert second.result == {"audio": {"seconds": 3}, "why": {"picture": "no paint"}}
    with pytest.raises(AssertionError, match="asked for the children audio, picture"):
        _ = first.result


async def test_children_that_have_ended_are_refused_as_in_a_worker() -> None:
    """A handler that would go round for ever fails its test."""

    async def forgetful(job: Job[Any]) -> None:
        await job.enqueue_children([Child("part")])

    with pytest.raises(Exception, match=r"all of them have ended \(part\)"):
        await run_handler(one(forgetful), "x", children_results={"part": 1})


async def test_lifespan_and_middleware_are_applied() -> None:
    """The lifespan is open while the handler runs, and closed after it."""
    handlers, diary = HandlerRegistry(), []

    @handlers.lifespan
    async def life() -> AsyncIterator[str]:
        diary.append("open")
        yield "real"
        diary.append("close")

    @handlers.middleware
    async def shout(job: Job[Any], call_next: CallNext) -> Any:
        return f"{await call_next(job)}!"

    @handlers.audio("x")
    async def handler(job: Job[Any, str]) -> str:
        diary.append("run")
        return job.resources

    real = await run_handler(handlers, "x")
    given = await run_handler(handlers, "x", resources="fake")

    assert (real.result, given.result) == ("real!", "fake!")
    assert diary == ["open", "run", "close", "run"]


async def test_a_lifespan_that_fails_is_raised() -> None:
    """As the worker would end with it."""
    handlers = one(broken)

    async def connect() -> None:
        msg = "no route"
        raise OSError(msg)

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        await connect()
        yield

    with pytest.raises(LifespanFailed, match="OSError: no route"):
        await run_handler(handlers, "x", {"text": ""})


async def test_a_middleware_that_raises_is_named_in_a_note() -> None:
    """The error is its own, and the job's reason is noted with it."""
    handlers = one(broken)

    @handlers.middleware
    async def quota(_job: Job[Any], _call_next: CallNext) -> Any:
        msg = "spent"
        raise UnrecoverableError(msg)

    with pytest.raises(UnrecoverableError, match="^spent\n") as failed:
        await run_handler(handlers, "x", {"text": ""})

    assert "quota" in failed.value.__notes__[0]


@pytest.mark.parametrize(
    ("attempt", "attempts", "seen", "retry_in"),
    [(1, None, "1/3", 8.0), (3, None, "3/3", None), (4, None, "4/4", None), (1, 1, "1/1", None)],
)
async def test_the_handlers_own_policy_counts_where_none_is_given(
    attempt: int, attempts: int | None, seen: str, retry_in: float | None
) -> None:
    """As for a job that says nothing."""
    handlers = HandlerRegistry()

    @handlers.audio("x", attempts=3, backoff=Exponential(8, jitter=0))
    async def x(job: Job[Any]) -> None:
        msg = f"{job.attempt}/{job.max_attempts}"
        raise RuntimeError(msg)

    run = await run_handler(handlers, "x", attempt=attempt, attempts=attempts, raises=False)

    assert (run.reason, run.retry_in) == (seen, retry_in)


@pytest.mark.parametrize(("attempt", "attempts"), [(0, None), (3, 2)])
async def test_an_attempt_that_can_not_be_is_refused(attempt: int, attempts: int | None) -> None:
    """Attempts count from 1."""
    with pytest.raises(ConfigurationError, match="attempt="):
        await run_handler(one(broken), "x", {"text": ""}, attempt=attempt, attempts=attempts)
