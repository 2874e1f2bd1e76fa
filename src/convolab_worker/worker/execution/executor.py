"""Runs fetched jobs to their outcomes. Its register is the only one of the jobs in hand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from convolab_worker._chance import chance
from convolab_worker._logs import Log, named
from convolab_worker.bullmq.jobs.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Limited,
    Lost,
    Outcome,
    Postponed,
    Returned,
)
from convolab_worker.bullmq.protocol.job_options import Defaults
from convolab_worker.errors import HandlerNotFound, JobFailed, RedisUnavailable
from convolab_worker.handlers.around.failures import Failure
from convolab_worker.telemetry.frames import application_place_in
from convolab_worker.telemetry.recent_runs import RecentRun
from convolab_worker.telemetry.tracing import NO_TRACING
from convolab_worker.worker.execution.handler_call import Abort, AbortKind, HandlerCall
from convolab_worker.worker.execution.killed import died_of_stop
from convolab_worker.worker.execution.outcomes import conclude, failure, prepare
from convolab_worker.worker.execution.threads import HandlerThreads
from convolab_worker.worker.locks import HeldLock
from convolab_worker.worker.watchdog import where

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from convolab_worker._logs import JobNames
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.around.hooks import Hooks
    from convolab_worker.handlers.job.reporter import JobReporter
    from convolab_worker.handlers.registration.handler import Handler
    from convolab_worker.handlers.registration.processes import Renewal
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.telemetry.metrics import Metrics
    from convolab_worker.telemetry.tracing import Tracing
    from convolab_worker.worker.execution.processes.call import ProcessCall
    from convolab_worker.worker.execution.processes.pool import HandlerProcesses
    from convolab_worker.worker.watchdog import StackReports

# A signal to a whole group reaches a handler's program so much sooner than this process, at most.
_SIGNAL_SECONDS = 0.5
_LONGEST_REASON = 1000  # in a log line; the job has all of it
_LONGEST_SHOWN = 300  # on the console
_LABELS: dict[type, str] = {
    Completed: "completed",
    Postponed: "postponed",
    Limited: "rate_limited",
    AwaitsChildren: "waiting_children",
    Returned: "returned",
    Lost: "lost",
}
NO_OPTIONS: Mapping[str, Any] = {}
NO_HANDLER = "(no handler)"
"""Stands for the handler, and the kind, of a job whose name nobody handles."""


class _Found(Struct, frozen=True):
    """What runs the jobs of one name on one queue, and their ``defaults``."""

    handler: Handler | None
    key: str
    defaults: Defaults


class JobInHand(HeldLock, eq=False):
    """A job whose lock this worker holds: parked, running, or being completed."""

    handler: Handler | None = None
    handler_key: str = NO_HANDLER
    call: HandlerCall | None = None
    aborted: Abort | None = None  # told before its handler began
    reporter: JobReporter | None = None
    names: JobNames | None = None  # in its log lines, once it was told of
    has_slot: bool = False  # its fetcher's to write
    outcome: Outcome | None = None  # what it came to, until that is written; its fetcher's too
    span: Any = None  # in which it ran, which its last log line belongs to, too


class JobExecutor:
    """Runs jobs with ``handlers``, and keeps the register of those in hand.

    ``report_to`` makes a job's reporter; ``child_reason`` completes the text of a deferred failure.
    The log line of a job that failed for good has ``log_traceback`` characters of its traceback.
    ``defaults`` are options for jobs of which neither they nor their handler say anything.
    """

    def __init__(
        self,
        handlers: HandlerRegistry,
        report_to: Callable[[JobInHand], JobReporter],
        metrics: Metrics,
        stack_reports: StackReports,
        child_reason: Callable[[str], Awaitable[str]],
        tracing: Tracing = NO_TRACING,
        defaults: Mapping[str, Any] = NO_OPTIONS,
        *,
        log_traceback: int = 0,
    ) -> None:
        self._handlers = handlers
        self._defaults = defaults
        self._found: dict[tuple[str, str], _Found] = {}
        self._unhandled = _Found(None, NO_HANDLER, Defaults(defaults))
        self._report_to = report_to
        self.metrics = metrics
        self.stack_reports = stack_reports
        self._child_reason = child_reason
        self._tracing = tracing
        self._longest_traceback = log_traceback
        self._threads = HandlerThreads()
        self._processes: HandlerProcesses | None = None
        self.jobs: set[JobInHand] = set()
        self._loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()  # set when the worker begins to stop
        self._log = Log().bound()
        # Two lines a job that nobody reads are not even put together.
        self._tells = self._log.tells

    def use(self, handlers: HandlerRegistry) -> None:
        """Run jobs with these handlers from now on: those whose lifespans are open."""
        self._handlers = handlers
        self._found.clear()

    async def close(self) -> None:
        """End the threads and processes of handlers; what is in use ends by itself."""
        if self._processes is not None:
            await asyncio.to_thread(self._processes.close)
        self._threads.close()

    def _in_process(self, job: ActiveJob, handler: Handler, renewal: Renewal) -> ProcessCall:
        from convolab_worker.worker.execution.processes.call import ProcessCall
        from convolab_worker.worker.execution.processes.pool import HandlerProcesses

        if self._processes is None:
            self._processes = HandlerProcesses()
        return ProcessCall(self._processes, handler, job, renewal)

    # the register

    def receive(self, job: ActiveJob, renewed_at: float) -> JobInHand:
        """Register a job whose lock was set or renewed at ``renewed_at`` (monotonic)."""
        found = self._found.get((job.queue, job.name)) or self._find(job.queue, job.name)
        held = JobInHand(job, renewed_at, handler=found.handler, handler_key=found.key)
        if found.defaults.options:
            job.policy = found.defaults.complete(job.opts)
        self.jobs.add(held)
        return held

    def _find(self, queue: str, name: str) -> _Found:
        """The handler, and what it and, where it says nothing, the worker say for its jobs."""
        handler = self._handlers.find(queue, name)
        if handler is None:  # and not kept: there may be any number of such names
            return self._unhandled
        defaults = Defaults({**self._defaults, **handler.defaults})
        found = self._found[queue, name] = _Found(handler, handler.key, defaults)
        return found

    def untrack(self, held: JobInHand) -> None:
        """The job is no longer ours; doing it again does nothing."""
        self.jobs.discard(held)
        held.reporter = None  # it refers to the job: garbage that Python would have to look for

    def ids_of(self, queue: str) -> set[str]:
        return {held.job.id for held in self.jobs if held.job.queue == queue}

    def find(self, queue: str, job_id: str) -> JobInHand | None:
        for held in self.jobs:
            if held.job.id == job_id and held.job.queue == queue:
                return held
        return None

    def running(self) -> list[JobInHand]:
        return [held for held in list(self.jobs) if held.call is not None]

    # running

    def run(self, held: JobInHand) -> Coroutine[Any, Any, Outcome]:
        """Run the job, in its span if there are any; its outcome, whatever happens."""
        if self._tracing is not NO_TRACING:
            return self._traced(held)
        hooks = self._handlers.failure_hooks
        return self._reported(held, hooks) if hooks.functions else self._attempt(held)

    async def _reported(self, held: JobInHand, hooks: Hooks[Failure]) -> Outcome:
        outcome, job = await self._attempt(held), held.job
        if isinstance(outcome, Failed):
            failure = Failure(
                id=job.id,
                name=job.name,
                queue=job.queue,
                attempt=job.attempt,
                max_attempts=job.max_attempts,
                error=outcome.error or JobFailed(job.id, outcome.reason),
                raw_data=job.data,
                reason=outcome.reason,
                retry_in=outcome.retry_in,
            )
            await hooks.tell(failure)
        return outcome

    async def _traced(self, held: JobInHand) -> Outcome:
        with self._tracing.running(held.job) as tell:
            held.span = self._tracing.span()
            hooks = self._handlers.failure_hooks
            outcome = await self._reported(held, hooks)
            if isinstance(outcome, AwaitsChildren):
                outcome = AwaitsChildren(outcome.children, self._tracing.carried())
            tell(outcome)
        return outcome

    async def _attempt(self, held: JobInHand) -> Outcome:
        active_job, handler = held.job, held.handler
        if (
            handler is None
            or active_job.deferred_failure is not None
            or active_job.problem is not None
        ):
            return await self._refused(active_job)
        reporter = self._report_to(held)
        try:
            job = prepare(active_job, handler, reporter)
        except Exception as error:  # noqa: BLE001 - a payload's own class may raise anything
            return self.failure(error, active_job)
        if self._tells:
            held.names = job.id, job.name, job.queue, job.kind, job.attempt
            self._log.job("job.started", None, held.names)
        if held.aborted is not None:
            return held.aborted.outcome or Returned()
        in_process = None
        if handler.process is not None:
            in_process = self._in_process(active_job, handler, handler.process)
        call = HandlerCall(job, handler, self._threads, self._loop, in_process)
        call.on_stuck = self._report_stuck
        held.call, held.reporter = call, reporter
        try:
            if not call.start():
                await call.wait()
        finally:
            held.call = None
            call.end_programs()
        if call.aborted is not None or call.error is not None:
            return await self._interrupted(call, active_job, handler, reporter)
        if call.killed_programs:
            self._report_programs(call, active_job)
        if (unwritten := reporter.finish()) is not None:
            await unwritten
        return conclude(call, active_job, handler, chance, self._handlers.strategies)

    async def _refused(self, job: ActiveJob) -> Failed:
        """Fail a job whose handler is not called."""
        if job.deferred_failure is not None:
            return Failed(await self._deferred_reason(job))
        if job.problem is not None:
            return Failed(job.problem)
        missing = _no_handler(job, self._handlers.names_on(job.queue))
        return Failed(str(missing), error=missing)

    async def _interrupted(
        self, call: HandlerCall, job: ActiveJob, handler: Handler, reporter: JobReporter
    ) -> Outcome:
        """What a job comes to whose handler was told to end, or raised."""
        self._report_programs(call, job)
        if call.aborted is not None and call.aborted.kind is AbortKind.LOCK_LOST:
            reporter.close()
        elif (unwritten := reporter.finish()) is not None:
            await unwritten
        error = call.error if call.aborted is None else None
        if error is not None and await self._is_stopped_by(error):
            return Returned()
        return conclude(call, job, handler, chance, self._handlers.strategies)

    async def _is_stopped_by(self, error: BaseException) -> bool:
        """Whether a stop's signal, which may only be on its way to this process, caused the error.

        Then the attempt has not failed: the job goes back to its queue.
        """
        if not died_of_stop(error):
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SIGNAL_SECONDS):
                await self.stopping.wait()
        return self.stopping.is_set()

    def failure(self, error: BaseException, job: ActiveJob) -> Failed:
        """The outcome of an attempt that failed with ``error`` outside its handler."""
        return failure(error, job, chance, self._handlers.strategies)

    async def _deferred_reason(self, job: ActiveJob) -> str:
        deferred = job.deferred_failure or ""
        try:
            return await self._child_reason(deferred)
        except RedisUnavailable:
            return deferred

    def _report_stuck(self, call: HandlerCall) -> None:
        """Report where a handler stands whose time is over, or which is abandoned."""
        kind = "abandoned" if call.abandoned else "killed" if call.killed else "timed_out"
        stack = call.stack
        report = {"where": where(stack), "stack": "".join(stack.format()), **call.names}
        self.stack_reports.keep(kind, **report)
        self._log.warning(f"job.{kind}", report)

    def _report_programs(self, call: HandlerCall, job: ActiveJob) -> None:
        """Report what a handler left running, killed or not."""
        if call.aborted is not None:
            call.find_left_behind(job.processed_on / 1000, is_alone=not self.running())
        if call.killed_programs or call.running_programs:
            self._log.warning(
                "job.subprocess_left",
                {
                    "killed": [*call.killed_programs],
                    "running": [*call.running_programs],
                    **call.names,
                },
            )

    def abort(self, held: JobInHand, abort: Abort) -> None:
        """Tell the job's handler to end, or never to begin."""
        if held.call is not None:
            held.call.abort(abort)
        elif held.aborted is None:
            held.aborted = abort

    def abort_all(self, abort: Abort) -> None:
        """Tell every handler to end, or never to begin."""
        for held in list(self.jobs):
            self.abort(held, abort)

    # reporting

    def report(self, held: JobInHand, outcome: Outcome) -> None:
        """Count and log what the job has come to; in the span that it ran in, if there was one."""
        try:
            if held.span is not None:
                with self._tracing.resumed(held.span):
                    self._report(held, outcome)
            else:
                self._report(held, outcome)
        except Exception:  # noqa: BLE001 - a log that can't be written stops nothing
            return

    def _report(self, held: JobInHand, outcome: Outcome) -> None:
        job, now = held.job, time.time()
        came = "completed" if type(outcome) is Completed else label(outcome)
        begun = job.processed_on / 1000
        ran, waited = now - begun, begun - (job.timestamp + job.delay) / 1000
        ran, waited = ran if ran > 0 else 0.0, waited if waited > 0 else 0.0
        kind = NO_HANDLER if held.handler is None else held.handler.kind
        if self._tracing is not NO_TRACING:
            self._tracing.ended(job, outcome, ran)
        reason = outcome.reason if isinstance(outcome, (Failed, Lost)) else None
        self.metrics.job_ended(
            RecentRun(
                now, job.id, job.name, job.queue, kind, job.attempts_made + 1, came, ran, waited,
                reason and reason[:_LONGEST_SHOWN],
            )
        )  # fmt: skip
        if type(outcome) is Completed and not self._tells:
            return
        names = held.names or _names(held)
        if isinstance(outcome, Failed):
            self._tell_failure(outcome, named(names))
        elif isinstance(outcome, Lost):
            self._log.error("job.lost", {"reason": outcome.reason, **named(names)})
        else:
            self._log.job(f"job.{came}", round(ran * 1000), names)

    def _tell_failure(self, failed: Failed, names: dict[str, object]) -> None:
        """A failure for good is an error that somebody has to look at; one attempt is a warning."""
        if failed.error is not None:
            names["error"] = type(failed.error).__qualname__
        names["reason"] = failed.reason[:_LONGEST_REASON]
        if (place := application_place_in(failed.stack)) is not None:
            names["where"] = str(place)
        if failed.retry_in is not None:
            self._log.warning("job.retried", {"retry_in": failed.retry_in, **names})
            return
        stack = (failed.stack or "").rstrip()
        if "\n" in stack and self._longest_traceback:  # one line says no more than the reason
            names["exception"] = stack[-self._longest_traceback :]
        self._log.error("job.failed", names)


def _no_handler(job: ActiveJob, known: list[str]) -> HandlerNotFound:
    names = ", ".join(known) if known else "none"
    return HandlerNotFound(
        f"no handler for {job.name!r} on queue {job.queue!r}; handled there: {names}"
    )


def _names(held: JobInHand) -> JobNames:
    job = held.job
    kind = None if held.handler is None else held.handler.kind
    return job.id, job.name, job.queue, kind, job.attempt


def label(outcome: Outcome) -> str:
    if type(outcome) is Failed:
        return "failed" if outcome.retry_in is None else "retried"
    return _LABELS[type(outcome)]
