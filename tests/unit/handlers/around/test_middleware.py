"""Middleware: around each job in order, seen by none but its own jobs, blamed for what it does."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from convolab_worker import CallNext, Settings, Worker
from convolab_worker.bullmq.jobs.outcome import Completed, Failed, Returned
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import ConfigurationError, JobTimeout, RetryLater, UnrecoverableError
from convolab_worker.handlers.job.children import Child
from convolab_worker.handlers.job.job import Job
from convolab_worker.handlers.registration.registry import HandlerRegistry
from convolab_worker.testing import run_handler
from convolab_worker.worker.execution.handler_call import AbortKind, HandlerCall
from convolab_worker.worker.execution.outcomes import conclude, prepare
from convolab_worker.worker.execution.threads import HandlerThreads
from tests.unit.worker.execution.trials import Quiet, abort_of

pytestmark = pytest.mark.asyncio
SOON = 5.0
LONG = 60.0
SPAN: contextvars.ContextVar[str] = contextvars.ContextVar("span", default="none")


@pytest.fixture
def diary() -> list[str]:
    """What happened, in order."""
    return []


def with_middleware(diary: list[str], *names: str, kind: str | None = None) -> HandlerRegistry:
    """A registry whose middleware keeps a diary, and a handler of each kind of function."""
    handlers = HandlerRegistry()
    for name in names:

        @handlers.middleware(kind=kind)
        async def around(job: Job[Any], call_next: CallNext, name: str = name) -> Any:
            diary.append(f"{name} before")
            result = await call_next(job)
            diary.append(f"{name} after")
            return result

    return handlers


async def test_the_first_registered_is_the_outermost(diary: list[str]) -> None:
    """And all of them are around the handler."""
    handlers = with_middleware(diary, "first", "second")

    @handlers.audio("x")
    async def x(_job: Job[Any]) -> int:
        diary.append("handler")
        return 1

    run = await run_handler(handlers, "x")

    assert run.result == 1
    assert diary == ["first before", "second before", "handler", "second after", "first after"]


async def test_one_of_a_kind_is_around_that_kind_alone(diary: list[str]) -> None:
    """Jobs of other kinds do not pass through it."""
    handlers = with_middleware(diary, "audio", kind="audio")

    @handlers.audio("sound")
    @handlers.image("picture")
    async def x(_job: Job[Any]) -> None:
        """Do nothing."""

    await run_handler(handlers, "picture")
    before = [*diary]
    await run_handler(handlers, "sound")

    assert (before, diary) == ([], ["audio before", "audio after"])


async def test_an_included_registrys_is_inside_and_around_its_own_handlers_alone(
    diary: list[str],
) -> None:
    """Whatever is registered after the inclusion counts too, since modules have their order."""
    inner, outer = with_middleware(diary, "inner"), HandlerRegistry()

    @inner.audio("inside")
    @outer.audio("outside")
    async def x(_job: Job[Any]) -> None:
        """Do nothing."""

    outer.include(inner)

    @outer.middleware
    async def late(job: Job[Any], call_next: CallNext) -> Any:
        diary.append("outer")
        return await call_next(job)

    await run_handler(outer, "inside")
    await run_handler(outer, "outside")

    assert diary == ["outer", "inner before", "inner after", "outer"]


async def test_it_may_change_the_result() -> None:
    """What the outermost gives is the job's result."""
    handlers = HandlerRegistry()

    @handlers.middleware
    async def twice(job: Job[Any], call_next: CallNext) -> Any:
        return 2 * await call_next(job)

    @handlers.audio("x")
    async def x(_job: Job[Any]) -> int:
        return 21

    assert (await run_handler(handlers, "x")).result == 42


async def test_it_sees_the_handlers_exception_and_may_handle_it() -> None:
    """An exception that it does not let out is not a failure."""
    handlers, seen = HandlerRegistry(), []

    @handlers.middleware
    async def lenient(job: Job[Any], call_next: CallNext) -> Any:
        try:
            return await call_next(job)
        except ValueError as error:
            seen.append(str(error))
            return "instead"

    @handlers.audio("x")
    async def x(_job: Job[Any]) -> None:
        msg = "broken"
        raise ValueError(msg)

    assert (await run_handler(handlers, "x")).result == "instead"
    assert seen == ["broken"]


@pytest.mark.parametrize("threaded", [False, True], ids=["loop", "thread"])
async def test_a_handlers_exception_passes_unchanged(diary: list[str], threaded: bool) -> None:  # noqa: FBT001
    """The reason has no word of the middleware, and the traceback starts at it."""
    handlers = with_middleware(diary, "first", "second")

    async def in_loop(_job: Job[Any]) -> None:
        msg = "broken"
        raise ValueError(msg)

    def in_thread(_job: Job[Any]) -> None:
        msg = "broken"
        raise ValueError(msg)

    handlers.audio("x")(in_thread if threaded else in_loop)

    run = await run_handler(handlers, "x", raises=False)

    assert (run.outcome, run.reason) == ("failed", "broken")
    assert isinstance(run.error, ValueError)


@pytest.mark.parametrize("when", ["before", "after", "instead"])
async def test_one_that_raises_fails_the_job_with_its_name(when: str) -> None:
    """Whether the handler was called or not, and whatever it did."""
    handlers = HandlerRegistry()

    @handlers.middleware
    async def outer(job: Job[Any], call_next: CallNext) -> Any:
        return await call_next(job)

    @handlers.middleware
    async def quota(job: Job[Any], call_next: CallNext) -> Any:
        try:
            if when != "before":
                await call_next(job)
        finally:
            msg = "no quota"
            raise LookupError(msg)

    @handlers.audio("x")
    async def x(_job: Job[Any]) -> None:
        if when == "instead":
            msg = "broken"
            raise ValueError(msg)

    run = await run_handler(handlers, "x", attempts=2, raises=False)

    assert run.reason is not None
    assert "middleware " in run.reason
    assert "<locals>.quota:" in run.reason
    assert run.reason.endswith(": no quota")
    assert run.outcome == "retried"


async def test_what_is_raised_for_the_worker_keeps_its_meaning(diary: list[str]) -> None:
    """RetryLater, UnrecoverableError and the wait for children, from handler and middleware."""
    handlers = with_middleware(diary, "around")

    @handlers.middleware(kind="image")
    async def busy(_job: Job[Any], _call_next: CallNext) -> Any:
        raise RetryLater(delay=7)

    @handlers.middleware(kind="dialogue")
    async def refused(_job: Job[Any], _call_next: CallNext) -> Any:
        msg = "never"
        raise UnrecoverableError(msg)

    @handlers.audio("later")
    async def later(_job: Job[Any]) -> None:
        raise RetryLater(delay=5)

    @handlers.audio("broken")
    async def broken(_job: Job[Any]) -> None:
        msg = "for good"
        raise UnrecoverableError(msg)

    @handlers.course("course")
    async def course(job: Job[Any]) -> None:
        await job.enqueue_children([Child("part")])

    @handlers.image("picture")
    @handlers.dialogue("talk")
    async def x(_job: Job[Any]) -> None:
        """Never called."""

    runs = {
        name: await run_handler(handlers, name, attempts=3, raises=False)
        for name in ("later", "broken", "course", "picture", "talk")
    }

    assert (runs["later"].outcome, runs["later"].retry_in) == ("postponed", 5)
    assert (runs["broken"].outcome, runs["broken"].reason) == ("failed", "for good")
    assert [child.name for child in runs["course"].children] == ["part"]
    assert (runs["picture"].outcome, runs["picture"].retry_in) == ("postponed", 7)
    assert runs["talk"].outcome == "failed"


async def test_the_time_out_covers_it() -> None:
    """A middleware that waits is cancelled with the rest of the job."""
    handlers, cancelled = HandlerRegistry(), []

    @handlers.middleware
    async def slow(_job: Job[Any], _call_next: CallNext) -> Any:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    @handlers.audio("x", timeout=0.01)
    async def x(_job: Job[Any]) -> None:
        """Never called."""

    with pytest.raises(JobTimeout, match="longer than its time-out"):
        await run_handler(handlers, "x")
    assert cancelled == [True]


async def test_a_thread_goes_through_it_with_its_context(diary: list[str]) -> None:
    """What the middleware sets is seen in the thread, as a span is."""
    handlers = with_middleware(diary, "around")

    @handlers.middleware
    async def traced(job: Job[Any], call_next: CallNext) -> Any:
        SPAN.set(f"span of {job.name}")
        return await call_next(job)

    @handlers.audio("x")
    def x(_job: Job[Any]) -> list[object]:
        return [SPAN.get(), threading.current_thread() is threading.main_thread()]

    assert (await run_handler(handlers, "x")).result == ["span of x", False]
    assert diary == ["around before", "around after"]


class Trial:
    """A threaded handler behind a middleware, about to be run."""

    def __init__(self, diary: list[str], **options: Any) -> None:
        handlers = with_middleware(diary, "around")
        self.started, self.release = threading.Event(), threading.Event()

        def x(job: Job[Any]) -> str:
            self.started.set()
            self.release.wait(SOON)
            return "cancelled" if job.cancelled.is_set() else "undisturbed"

        handlers.audio("x", **options)(x)
        (self.handler,) = handlers.staged({})
        self.active_job = ActiveJob(queue="q", id="7", token="t", name="x", data=b"{}", opts={})
        self.threads = HandlerThreads()
        job = prepare(self.active_job, self.handler, Quiet())
        self.call = HandlerCall(job, self.handler, self.threads, asyncio.get_running_loop())

    async def aborted(self, kind: AbortKind, patience: float) -> Any:
        """Run it, abort it when the thread runs, and give the outcome."""
        ending = asyncio.create_task(self.call.run())
        async with asyncio.timeout(SOON):
            await asyncio.to_thread(self.started.wait)
            self.call.abort(abort_of(kind, patience))
            if patience > 1:
                self.release.set()
            await ending
        self.threads.close()
        return conclude(self.call, self.active_job, self.handler, lambda: 0.5)


async def test_a_thread_that_ends_its_work_at_a_shutdown_has_its_result_written(
    diary: list[str],
) -> None:
    """As without middleware: it can't be cancelled, and what it gives in time counts."""
    outcome = await Trial(diary).aborted(AbortKind.SHUTDOWN, SOON)

    assert outcome == Completed('"cancelled"')
    assert diary == ["around before", "around after"]


async def test_a_thread_that_ends_after_the_time_out_is_too_late(diary: list[str]) -> None:
    """Its middleware sees its result, and the attempt has failed all the same."""
    trial = Trial(diary, timeout=LONG)
    outcome = await trial.aborted(AbortKind.TIMEOUT, SOON)

    assert isinstance(outcome, Failed)
    assert "time-out" in outcome.reason
    assert not trial.call.abandoned


async def test_a_thread_that_does_not_end_is_abandoned_behind_its_middleware(
    diary: list[str],
) -> None:
    """The job goes back, and the task that waits for the thread can be cancelled."""
    trial = Trial(diary)

    outcome = await trial.aborted(AbortKind.SHUTDOWN, 0.01)
    waiting = [task for task in asyncio.all_tasks() if task.get_name().startswith("job ")]
    for task in waiting:
        task.cancel()
    done, left = await asyncio.wait(waiting, timeout=SOON)
    trial.release.set()

    assert outcome == Returned()
    assert (len(done), len(left)) == (1, 0)


async def plain(_job: Job[Any], _call_next: CallNext) -> None:
    """Fits."""


def not_async(_job: Job[Any], _call_next: CallNext) -> None:
    """Does not fit."""


async def one_argument(_job: Job[Any]) -> None:
    """Does not fit."""


@pytest.mark.parametrize(
    ("function", "kind", "expected"),
    [
        (not_async, None, "not_async:.*expected `async def`"),
        (one_argument, None, "one_argument:.*expected the arguments"),
        (plain, "", "kind=''.*expected a word"),
        (plain, "my video", "kind='my video'.*expected a word"),
    ],
)
async def test_what_can_not_be_middleware_is_refused(
    function: Any, kind: str | None, expected: str
) -> None:
    """With its place, at registration."""
    with pytest.raises(ConfigurationError, match=expected):
        HandlerRegistry().middleware(kind=kind)(function)


async def test_middleware_for_a_kind_that_no_handler_has_is_refused_when_a_worker_is_made() -> None:
    """Its handlers may be registered later than it."""
    handlers = HandlerRegistry()
    handlers.middleware(kind="video")(plain)
    handlers.image("draw")(one_argument)

    with pytest.raises(ConfigurationError, match="plain:.*kind='video'.*no handler.* image"):
        Worker(handlers, Settings())

    handlers.job("render", kind="video")(one_argument)
    Worker(handlers, Settings())
