"""The executor: its register of jobs in hand, aborts at any moment, and what it reports."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from structlog.contextvars import bind_contextvars, get_contextvars
from structlog.testing import capture_logs

from convolab_worker.bullmq.jobs.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Lost,
    Outcome,
    Postponed,
    Returned,
)
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import InvalidPayload, RedisUnavailable
from convolab_worker.handlers.around.failures import Failure
from convolab_worker.handlers.job.job import Job
from convolab_worker.handlers.registration.registry import HandlerRegistry
from convolab_worker.telemetry.metrics import Metrics
from convolab_worker.worker.execution.executor import NO_HANDLER, JobExecutor, JobInHand, label
from convolab_worker.worker.execution.handler_call import (
    LOCK_LOST,
    SHUTDOWN,
    Abort,
    cancellation,
)
from convolab_worker.worker.watchdog import StackReports
from tests.unit.worker.execution.trials import SOON, Quiet

pytestmark = pytest.mark.asyncio


class Reporter(Quiet):
    """A reporter that notes how it ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def finish(self) -> None:
        """Note it."""
        self.ended.append("finished")

    def close(self) -> None:
        """Note it."""
        self.ended.append("closed")


class Stage:
    """An executor with one handler, ``work``, that waits until it is told to go on."""

    def __init__(self) -> None:
        self.handlers = HandlerRegistry()
        self.handlers.audio("work")(self._work)
        self.started, self.gate = asyncio.Event(), asyncio.Event()
        self.calls = 0
        self.reporter = Reporter()
        self.metrics = Metrics()
        self.executor = JobExecutor(
            self.handlers, lambda _: self.reporter, self.metrics, StackReports(),
            self._child_reason, log_traceback=50,
        )  # fmt: skip

    async def _work(self, _job: Job[Any]) -> str:
        self.calls += 1
        self.started.set()
        await self.gate.wait()
        return "done"

    async def _child_reason(self, deferred: str) -> str:
        if deferred == "unknown":
            raise RedisUnavailable(deferred)
        return f"{deferred}: no voice"

    def receive(self, job_id: str = "7", **changes: Any) -> JobInHand:
        """Take a job in hand."""
        fields = {"queue": "q", "token": "t", "name": "work", "data": b"{}", "opts": {}}
        return self.executor.receive(
            ActiveJob(**{**fields, "id": job_id, **changes}), time.monotonic()
        )

    async def run(self, held: JobInHand) -> Outcome:
        """Run it to its outcome; the test fails where that takes suspiciously long."""
        async with asyncio.timeout(SOON):
            return await self.executor.run(held)


@pytest_asyncio.fixture
async def stage() -> Stage:
    """A stage of the test's own."""
    return Stage()


# the register


async def test_a_job_is_in_hand_until_it_is_untracked(stage: Stage) -> None:
    """Untracking it again does nothing."""
    held = stage.receive()
    before = {*stage.executor.jobs}

    stage.executor.untrack(held)
    stage.executor.untrack(held)

    assert (before, stage.executor.jobs) == ({held}, set())


async def test_jobs_are_found_by_queue_and_id(stage: Stage) -> None:
    """Two queues may have jobs of one id."""
    one, other = stage.receive("1"), stage.receive("1", queue="other")
    stage.receive("2")

    assert stage.executor.find("q", "1") is one
    assert stage.executor.find("other", "1") is other
    assert stage.executor.find("other", "2") is None
    assert stage.executor.ids_of("q") == {"1", "2"}


async def test_a_job_that_is_received_again_is_another_one(stage: Stage) -> None:
    """The end of its first run does not untrack the second."""
    first = stage.receive()
    second = stage.receive()

    stage.executor.untrack(first)

    assert stage.executor.jobs == {second}


async def test_a_job_has_its_handler_from_the_start(stage: Stage) -> None:
    """Slots count by it; a job that nobody handles has a key of its own."""
    (handler,) = stage.handlers
    known, unknown = stage.receive(), stage.receive("8", name="other")

    assert (known.handler, known.handler_key) == (handler, handler.key)
    assert (unknown.handler, unknown.handler_key) == (None, NO_HANDLER)


async def test_only_jobs_whose_handlers_run_are_running(stage: Stage) -> None:
    """A parked one does not, nor one that has ended."""
    parked, held = stage.receive("parked"), stage.receive("runs")
    running = asyncio.create_task(stage.run(held))
    await stage.started.wait()

    during = stage.executor.running()
    stage.gate.set()
    await running

    assert during == [held]
    assert stage.executor.running() == []
    assert stage.executor.jobs == {parked, held}


# running


async def test_a_job_comes_to_what_its_handler_returns(stage: Stage) -> None:
    """Its reports are written before."""
    stage.gate.set()

    assert await stage.run(stage.receive()) == Completed('"done"')
    assert stage.reporter.ended == ["finished"]


async def test_a_job_without_a_handler_fails_with_the_names_that_are_handled(stage: Stage) -> None:
    """Whoever deploys sees what is missing."""
    outcome = await stage.run(stage.receive(name="other"))

    assert isinstance(outcome, Failed)
    assert outcome.reason == "no handler for 'other' on queue 'q'; handled there: work"


async def test_a_job_that_can_not_be_read_fails_with_its_problem(stage: Stage) -> None:
    """Its handler is not called."""
    outcome = await stage.run(stage.receive(problem="it is a list"))

    assert (outcome, stage.calls) == (Failed("it is a list"), 0)


@pytest.mark.parametrize(
    ("deferred", "reason"), [("child 1", "child 1: no voice"), ("unknown", "unknown")]
)
async def test_a_deferred_failure_has_the_childs_own_reason_where_it_is_known(
    stage: Stage, deferred: str, reason: str
) -> None:
    """The handler is not called; what Redis does not answer is left out."""
    outcome = await stage.run(stage.receive(deferred_failure=deferred))

    assert (outcome, stage.calls) == (Failed(reason), 0)


async def test_data_that_is_no_json_fails_the_job(stage: Stage) -> None:
    """Its handler is not called."""
    outcome = await stage.run(stage.receive(data=b"{"))

    assert isinstance(outcome, Failed)
    assert (outcome.retry_in, stage.calls) == (None, 0)


# aborts


@pytest.mark.parametrize(
    ("abort", "expected"),
    [
        pytest.param(SHUTDOWN, Returned(), id="shutdown"),
        pytest.param(cancellation(Failed("asked")), Failed("asked"), id="cancelled"),
        pytest.param(cancellation(Returned()), Returned(), id="cancelled-to-return"),
        pytest.param(LOCK_LOST, LOCK_LOST.outcome, id="lock-lost"),
    ],
)
@pytest.mark.parametrize("runs", [False, True], ids=["before it begins", "while it runs"])
async def test_an_aborted_job_comes_to_what_the_abort_says(
    stage: Stage,
    abort: Abort,
    expected: Outcome,
    runs: bool,  # noqa: FBT001
) -> None:
    """A handler that has not begun is never called."""
    held = stage.receive()
    if runs:
        running = asyncio.create_task(stage.run(held))
        await stage.started.wait()
        stage.executor.abort(held, abort)
        outcome = await running
    else:
        stage.executor.abort(held, abort)
        outcome = await stage.run(held)

    assert (outcome, stage.calls) == (expected, int(runs))


async def test_of_two_aborts_before_a_handler_begins_the_first_counts(stage: Stage) -> None:
    """A cancelled job that a shutdown meets ends as asked."""
    held = stage.receive()

    stage.executor.abort(held, cancellation(Failed("asked")))
    stage.executor.abort(held, SHUTDOWN)

    assert await stage.run(held) == Failed("asked")


async def test_an_abort_after_its_handler_has_ended_changes_nothing(stage: Stage) -> None:
    """What the job came to is being written."""
    held = stage.receive()
    stage.gate.set()
    outcome = await stage.run(held)

    stage.executor.abort(held, SHUTDOWN)

    assert outcome == Completed('"done"')


async def test_every_job_in_hand_is_aborted_at_once(stage: Stage) -> None:
    """Those that run, and those that have not begun."""
    runs, waits = stage.receive("runs"), stage.receive("waits")
    running = asyncio.create_task(stage.run(runs))
    await stage.started.wait()

    stage.executor.abort_all(SHUTDOWN)

    assert (await running, await stage.run(waits)) == (Returned(), Returned())
    assert stage.calls == 1


async def test_nothing_more_is_reported_of_a_job_that_another_worker_may_have(
    stage: Stage,
) -> None:
    """Its unwritten reports are dropped."""
    held = stage.receive()
    running = asyncio.create_task(stage.run(held))
    await stage.started.wait()

    stage.executor.abort(held, LOCK_LOST)
    await running

    assert stage.reporter.ended == ["closed"]


# what is told of it


@pytest.mark.parametrize(
    ("outcome", "came", "level"),
    [
        (Completed("1"), "completed", "info"),
        (Failed("no voice"), "failed", "error"),
        (Failed("no voice", None, 3.0), "retried", "warning"),
        (Postponed(2.0), "postponed", "info"),
        (AwaitsChildren(()), "waiting_children", "info"),
        (Returned(), "returned", "info"),
        (Lost("gone"), "lost", "error"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
async def test_an_outcome_is_counted_and_logged(
    stage: Stage, outcome: Outcome, came: str, level: str
) -> None:
    """By its name."""
    held = stage.receive(attempts_made=1)

    with capture_logs() as captured:
        stage.executor.report(held, outcome)

    (line,) = captured
    assert label(outcome) == came
    assert (line["event"], line["log_level"]) == (f"job.{came}", level)
    assert (line["job_id"], line["queue"], line["kind"], line["attempt"]) == ("7", "q", "audio", 2)
    assert stage.metrics.outcomes == {came: 1}
    assert stage.metrics.recent_runs.recent()[0]["outcome"] == came


async def test_a_failure_is_logged_with_its_place_and_a_bounded_reason(stage: Stage) -> None:
    """The job has all of it."""
    stack = 'Traceback:\n  File "/app/a.py", line 1, in outer\n  File "/app/b.py", line 2, in inner'

    with capture_logs() as captured:
        stage.executor.report(stage.receive(), Failed("x" * 5_000, stack))

    assert captured[0]["where"] == "/app/b.py:2 in inner"
    assert len(captured[0]["reason"]) == 1_000
    assert len(stage.metrics.recent_runs.recent()[0]["reason"]) == 300


async def test_a_failure_for_good_has_the_end_of_its_traceback(stage: Stage) -> None:
    """And the exception's type; a retried attempt, which may pass by itself, has no traceback."""
    stack = "Traceback:\n" + "x" * 100 + "\nValueError: no voice\n"
    failed = Failed("no voice", stack, error=ValueError("no voice"))
    retried = Failed("no voice", stack, 1.0, error=ValueError("no voice"))

    with capture_logs() as captured:
        stage.executor.report(stage.receive(), failed)
        stage.executor.report(stage.receive(), retried)

    final, again = captured
    assert (final["error"], again["error"]) == ("ValueError", "ValueError")
    assert len(final["exception"]) == 50
    assert final["exception"].endswith("x\nValueError: no voice")
    assert "exception" not in again


@dataclass
class Strict:
    """Data with a check of its own, which has a bug."""

    n: int

    def __post_init__(self) -> None:
        raise AttributeError


async def test_data_that_does_not_fit_has_no_stack_of_libraries(stage: Stage) -> None:
    """One line says all; a line of the application's own in the reading of it is told."""

    async def plain(_job: Job[dict[str, str]]) -> None: ...

    async def strict(_job: Job[Strict]) -> None: ...

    stacks = []
    for handler in (plain, strict):
        stage.handlers.audio(handler.__name__)(handler)
        held = stage.receive(name=handler.__name__, data=b'{"n":1}')
        outcome = await stage.run(held)
        assert isinstance(outcome, Failed)
        stacks.append(outcome.stack or "")

    assert stacks[0].startswith("convolab_worker.errors.InvalidPayload: data.n: expected str")
    assert stacks[0].count("\n") == 1
    assert "in __post_init__" in stacks[1]


async def test_a_stack_of_one_line_is_not_logged_beside_its_reason(stage: Stage) -> None:
    """As of data that does not fit: there is no line of the application to look at."""
    failed = Failed(
        "data.n: no", "InvalidPayload: data.n: no\n", error=InvalidPayload("data.n: no")
    )

    with capture_logs() as captured:
        stage.executor.report(stage.receive(), failed)

    assert captured[0]["reason"] == "data.n: no"
    assert not {"where", "exception"} & set(captured[0])


async def test_every_failed_attempt_is_told_and_no_hook_can_break_a_job(stage: Stage) -> None:
    """Plain and async functions, one that raises among them; each hears of the exception."""
    heard: list[tuple[str, str, bool]] = []

    @stage.handlers.on_failure
    def broken(failure: Failure) -> None:
        raise RuntimeError(failure.reason)

    @stage.handlers.on_failure
    async def hear(failure: Failure) -> None:
        await asyncio.sleep(0)
        heard.append((failure.name, type(failure.error).__name__, failure.final))

    @stage.handlers.audio("fails")
    async def fails(_: Job[Any]) -> None:
        msg = "no voice"
        raise ValueError(msg)

    with capture_logs() as captured:
        retried = await stage.run(stage.receive(name="fails", opts={"attempts": 2}))
        nobody = await stage.run(stage.receive(name="unknown"))
        await stage.run(stage.receive(deferred_failure="child"))
        stage.gate.set()
        await stage.run(stage.receive())

    assert (type(retried), type(nobody)) == (Failed, Failed)
    assert heard == [
        ("fails", "ValueError", False),
        ("unknown", "HandlerNotFound", True),
        ("work", "JobFailed", True),
    ]
    assert [line["event"] for line in captured if line["log_level"] == "error"] == [
        "on_failure.raised"
    ] * 3


async def test_what_a_hook_binds_to_the_log_is_not_for_the_next_job(stage: Stage) -> None:
    seen: list[dict[str, Any]] = []

    @stage.handlers.on_failure
    def bind(failure: Failure) -> None:
        bind_contextvars(customer=failure.name)

    @stage.handlers.audio("sees")
    async def sees(_: Job[Any]) -> None:
        seen.append(get_contextvars())

    await stage.run(stage.receive(name="unknown"))
    await stage.run(stage.receive(name="sees"))

    assert "customer" not in seen[0]


async def test_what_runs_in_a_handler_logs_with_the_jobs_names(stage: Stage) -> None:
    """In the loop and in a thread; what runs beside them does not."""
    seen: dict[str, dict[str, Any]] = {}

    @stage.handlers.audio("async")
    async def asynchronous(_: Job[Any]) -> None:
        seen["async"] = get_contextvars()

    @stage.handlers.audio("plain")
    def plain(_: Job[Any]) -> None:
        seen["plain"] = get_contextvars()

    for name in ("async", "plain"):
        await stage.run(stage.receive(name=name, attempts_made=1))

    for name in ("async", "plain"):
        assert seen[name] == {"job_id": "7", "job_name": name, "queue": "q", "attempt": 2}
    assert get_contextvars() == {}
