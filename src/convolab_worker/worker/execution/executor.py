"""Runs taken jobs to their outcomes, and tells what came of each."""

from __future__ import annotations

import logging
import random
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from convolab_worker.bullmq.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Lost,
    Outcome,
    Postponed,
    Returned,
)
from convolab_worker.errors import HandlerNotFound, RedisUnavailable
from convolab_worker.handlers.job import Line
from convolab_worker.telemetry.recent_runs import Entry
from convolab_worker.telemetry.tracing import NO_TRACING
from convolab_worker.worker.execution.handler_call import (
    PATIENCE_SECONDS,
    Run,
    Why,
    conclude,
    failure,
    prepare,
)
from convolab_worker.worker.stack_reports import innermost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.registry import Handler, HandlerRegistry
    from convolab_worker.telemetry.logging import Telemetry
    from convolab_worker.telemetry.tracing import Tracing
    from convolab_worker.worker.stack_reports import StackReports

# What a handler gets between being cancelled at a shutdown and losing its slot.
STOP_PATIENCE_SECONDS = 0.5
_LONGEST_REASON = 1000  # in a log line; the job has all of it
_LONGEST_SHOWN = 300  # in the recent_runs
_LABELS = {
    Completed: "completed",
    Postponed: "postponed",
    AwaitsChildren: "waiting_children",
    Returned: "returned",
    Lost: "lost",
}
_FRAME = re.compile(r'File "(.+?)", line (\d+), in (\S+)')
# Stands for the handler of a job whose name nobody handles.
NO_HANDLER = "(no handler)"


class OpenLine(Line, Protocol):
    """A job's line, and its end."""

    async def finish(self) -> None:
        """Write what is unwritten, before the job's outcome is, and nothing after it."""

    def drop(self) -> None:
        """Write nothing more: the job is another worker's."""

    @property
    def newest(self) -> str | None:
        """The job's newest progress, as JSON."""


class Lines(Protocol):
    """Where jobs' lines are got from."""

    def line(self, active_job: ActiveJob) -> OpenLine:
        """The line of one job."""


class Runner:
    """The running jobs of one worker."""

    def __init__(
        self,
        handlers: HandlerRegistry,
        reports: Lines,
        telemetry: Telemetry,
        stack_reports: StackReports,
        child_reason: Callable[[str], Awaitable[str]],
        tracing: Tracing = NO_TRACING,
    ) -> None:
        """Keep the collaborators; ``child_reason`` completes a deferred failure's text."""
        self._tracing = tracing
        self.handlers = handlers
        self._reports = reports
        self._telemetry = telemetry
        self._whereabouts = stack_reports
        self._child_reason = child_reason
        self._log = structlog.get_logger("convolab_worker").bind()
        # Two lines a job that nobody reads are not even put together.
        is_enabled = getattr(self._log, "is_enabled_for", None)
        self._tells = is_enabled is None or bool(is_enabled(logging.INFO))
        self._runs: dict[ActiveJob, tuple[Run, OpenLine]] = {}
        self.outcomes: Counter[str] = Counter()

    def handler_of(self, active_job: ActiveJob) -> Handler | None:
        """The handler that the job is for."""
        return self.handlers.find(active_job.queue, active_job.name)

    def run(self, active_job: ActiveJob) -> Coroutine[Any, Any, Outcome]:
        """Run the job, in its span if there are any; its outcome, whatever happens."""
        return (
            self._outcome(active_job) if self._tracing is NO_TRACING else self._traced(active_job)
        )

    async def _traced(self, active_job: ActiveJob) -> Outcome:
        with self._tracing.running(active_job) as tell:
            outcome = await self._outcome(active_job)
            if isinstance(outcome, AwaitsChildren):
                outcome = AwaitsChildren(outcome.children, self._tracing.carried())
            tell(outcome)
        return outcome

    async def _outcome(self, active_job: ActiveJob) -> Outcome:
        if active_job.deferred_failure is not None:
            return Failed(await self._deferred_reason(active_job))
        if active_job.problem is not None:
            return Failed(active_job.problem)
        handler = self.handler_of(active_job)
        if handler is None:
            missing = _no_handler(active_job, self.handlers.names_on(active_job.queue))
            return Failed(str(missing), error=missing)
        line = self._reports.line(active_job)
        try:
            job = prepare(active_job, handler, line)
        except Exception as error:  # noqa: BLE001 - a payload's own class may raise anything
            return self.failure(error, active_job)
        if self._tells:
            self._log.info("job.started", **_names(active_job, handler))
        run = Run(job, handler)
        self._runs[active_job] = run, line
        run.on_stuck = self._report_stuck
        try:
            await run.end()
        finally:
            del self._runs[active_job]
        if run.why is Why.LOST:
            line.drop()
        else:
            await line.finish()
        return conclude(run, active_job, handler, random.random, self.handlers.strategies)

    def failure(self, error: BaseException, active_job: ActiveJob) -> Failed:
        """The outcome of an attempt that failed with ``error`` outside its handler."""
        return failure(error, active_job, random.random, self.handlers.strategies)

    async def _deferred_reason(self, active_job: ActiveJob) -> str:
        deferred = active_job.deferred_failure or ""
        try:
            return await self._child_reason(deferred)
        except RedisUnavailable:
            return deferred

    def _report_stuck(self, run: Run) -> None:
        """Tell where a handler stands whose time is over, or that nobody waits for any more."""
        kind = "abandoned" if run.abandoned else "timed_out"
        stack = run.stack
        report = {"where": innermost(stack), "stack": "".join(stack.format()), **run.names}
        self._whereabouts.keep(kind, **report)
        self._log.warning(f"job.{kind}", **report)

    def report(self, active_job: ActiveJob, outcome: Outcome) -> None:
        """Count and log what came of a job."""
        handler = self.handler_of(active_job)
        came = label(outcome)
        self.outcomes[came] += 1
        now = time.time()
        ran = max(now - active_job.processed_on / 1000, 0.0)
        waited = max(
            (active_job.processed_on - active_job.timestamp - active_job.delay) / 1000, 0.0
        )
        kind = NO_HANDLER if handler is None else handler.kind
        self._telemetry.job_finished(kind, came, ran, waited)
        self._tracing.ended(active_job, outcome, ran)
        reason = outcome.reason if isinstance(outcome, Failed | Lost) else None
        self._telemetry.recent_runs.ended(
            Entry(
                now, active_job.id, active_job.name, active_job.queue, kind, active_job.attempt,
                came, ran, waited, reason and reason[:_LONGEST_SHOWN],
            )
        )  # fmt: skip
        if type(outcome) is Completed and not self._tells:
            return
        names = _names(active_job, handler)
        if isinstance(outcome, Failed):
            self._log.warning(
                f"job.{came}",
                reason=outcome.reason[:_LONGEST_REASON],
                where=_place(outcome.stack),
                retry_in=outcome.retry_in,
                **names,
            )
        elif isinstance(outcome, Lost):
            self._log.error("job.lost", reason=outcome.reason, **names)
        else:
            self._log.info(f"job.{came}", duration_ms=round(ran * 1000), **names)

    def interrupt(self) -> None:
        """Tell every running handler to end now: the worker stops."""
        for run, _ in list(self._runs.values()):
            run.interrupt(Why.STOP, STOP_PATIENCE_SECONDS)

    def lose(self, active_job: ActiveJob) -> bool:
        """The active_job's lock is gone: cancel its handler, if one is running."""
        running = self._runs.get(active_job)
        if running is not None:
            running[0].interrupt(Why.LOST, STOP_PATIENCE_SECONDS)
        return running is not None

    def cancel(self, active_job: ActiveJob, asked: Failed | Returned) -> bool:
        """Somebody wants the job to end as ``asked``: cancel its handler, if one is running."""
        running = self._runs.get(active_job)
        if running is not None:
            running[0].asked = asked
            running[0].interrupt(Why.CANCELLED, PATIENCE_SECONDS)
        return running is not None

    def running(self) -> list[tuple[ActiveJob, str | None]]:
        """The jobs whose handlers run now, each with its newest progress as JSON."""
        return [(active_job, line.newest) for active_job, (_, line) in self._runs.items()]


def _place(stack: str | None) -> str | None:
    """The innermost line of a traceback, as FILE:LINE in FUNCTION."""
    frames = _FRAME.findall(stack or "")
    return "{}:{} in {}".format(*frames[-1]) if frames else None


def _no_handler(active_job: ActiveJob, known: list[str]) -> HandlerNotFound:
    names = ", ".join(known) if known else "none"
    return HandlerNotFound(
        f"no handler for {active_job.name!r} on queue {active_job.queue!r}; handled there: {names}"
    )


def _names(active_job: ActiveJob, handler: Handler | None) -> dict[str, object]:
    return {
        "job_id": active_job.id,
        "name": active_job.name,
        "queue": active_job.queue,
        "kind": None if handler is None else handler.kind,
        "attempt": active_job.attempt,
    }


def label(outcome: Outcome) -> str:
    """The outcome's name in logs and counts."""
    if isinstance(outcome, Failed):
        return "failed" if outcome.retry_in is None else "retried"
    return _LABELS[type(outcome)]
