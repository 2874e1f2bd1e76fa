"""Runs one handler as a worker runs it, without a worker and without Redis."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.jobs.child_jobs import not_ended, nothing_to_wait_for
from convolab_worker.bullmq.jobs.job_type import job_type_of
from convolab_worker.bullmq.jobs.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Limited,
    Outcome,
    Postponed,
)
from convolab_worker.bullmq.protocol.keywords import job_options
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import ConfigurationError, JobFailed
from convolab_worker.handlers.around.lifespan import Lifespans
from convolab_worker.handlers.job.steps.limits import StepLimits
from convolab_worker.payloads.encode import encode_data, encode_json
from convolab_worker.settings import Settings
from convolab_worker.telemetry.metrics import Metrics
from convolab_worker.worker.execution.executor import JobExecutor, label
from convolab_worker.worker.execution.outcomes import failure
from convolab_worker.worker.watchdog import StackReports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from convolab_worker.bullmq.jobs.job_type import JobType
    from convolab_worker.bullmq.protocol.keyword_types import Backoff
    from convolab_worker.handlers.job.children import Child
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.worker.locks import HeldLock

_CLOSING_SECONDS = 5.0
_FROM_LIFESPAN = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerRun:
    """The result of one run of a handler.

    ``outcome`` is what the worker calls it: ``completed``, ``failed`` (for good), ``retried`` (an
    attempt failed and another follows), ``postponed``, ``rate_limited`` or ``waiting_children``.
    ``progress`` and ``logs`` are what the handler reported, in order. ``retry_in`` is the seconds
    until the job runs again, if it does. ``children`` are those that the handler asked for.
    ``reason`` and ``error`` say why it failed. ``steps`` are the recorded results, those of earlier
    runs too; ``updated`` is the data that ``update_data`` wrote last.
    """

    outcome: str
    progress: list[Any]
    logs: list[str]
    retry_in: float | None = None
    children: tuple[Child, ...] = ()
    reason: str | None = None
    error: BaseException | None = None
    returned: str | None = None
    steps: Mapping[str, Any] = field(default_factory=dict)
    updated: Any = None

    @property
    def result(self) -> Any:
        """The result as it is read from the job. Raises AssertionError if there is none."""
        if self.returned is None:
            msg = f"the handler gave no result: {self._instead()}"
            raise AssertionError(msg)
        return json.loads(self.returned)

    def _instead(self) -> str:
        if self.children:
            return f"it asked for the children {', '.join(c.result_key for c in self.children)}"
        if self.outcome == "rate_limited":
            return f"it limited its queue for {self.retry_in:g} s"
        if self.outcome == "postponed":
            return f"it asked for another run in {self.retry_in:g} s"
        return f"it failed: {self.reason}"


async def run_handler(  # noqa: PLR0913 - a job has that many sides; each is a keyword
    handlers: HandlerRegistry,
    name: str | JobType[Any, Any] | Callable[..., Any],
    data: Any = None,
    *,
    queue: str | None = None,
    job_id: str | None = None,
    attempt: int = 1,
    attempts: int | None = None,
    backoff: Backoff | None = None,
    resources: Any = _FROM_LIFESPAN,
    children_results: Mapping[str, Any] | None = None,
    children_failures: Mapping[str, str] | None = None,
    steps: Mapping[str, Any] | None = None,
    starts: int | None = None,
    settings: Settings | None = None,
    raises: bool = True,
) -> HandlerRun:
    """Run a handler once, as a worker does: validation, middleware, time-out.

    ``name`` is a job's name or, as for ``JobClient.enqueue``, a handler or a JobType.
    The registry's lifespans are opened before and closed afterwards, unless ``resources`` is
    given: the handler then gets that. The job says that this is its ``attempt`` of ``attempts``;
    ``attempts`` and ``backoff`` are as for ``JobClient.enqueue``, and the handler's own without
    them. ``children_results`` and ``children_failures`` are those of the children that have ended,
    and ``steps`` the results that earlier runs have recorded, by the steps' names. ``starts`` is
    ``attempt`` by default.

    Raises what the attempt fails with: an exception of the handler or of a middleware,
    InvalidPayload, InvalidResult, JobTimeout, HandlerNotFound. With ``raises=False`` the returned
    object has it as ``reason`` and ``error``.
    """
    if not isinstance(name, str):
        job_type = job_type_of(name)
        name, queue = job_type.name, queue or job_type.queue
    settings = settings or Settings()
    recorder = _Recorder(children_results or {}, children_failures or {}, StepLimits.of(settings))
    queue = queue or _queue_of(handlers, name, settings)
    _check_attempt(attempt, attempts)
    handler = handlers.find(queue, name)
    if attempts is None and (handler is None or handler.defaults.get("attempts", 0) < attempt):
        attempts = attempt
    options = job_options("run_handler", {"attempts": attempts, "backoff": backoff})
    job = ActiveJob(
        queue=queue,
        id=job_id or uuid.uuid4().hex,
        token="test",  # noqa: S106 - no lock is taken
        name=name,
        data=encode_data({} if data is None else data).encode(),
        opts=options,
        processed_on=round(time.time() * 1000),
        attempts_made=attempt - 1,
        starts=attempt if starts is None else starts,
        steps=_recorded(steps or {}),
    )
    if resources is _FROM_LIFESPAN:
        lifespans = Lifespans(handlers.lifespans, settings)
        staged = handlers.staged(await lifespans.open())
    else:
        lifespans = Lifespans([], settings)
        staged = handlers.staged(dict.fromkeys(handlers.scopes, resources))
    executor = JobExecutor(staged, recorder.reporter, Metrics(), StackReports(), _no_child_reason)
    try:
        held = executor.receive(job, time.monotonic())
        outcome = _settled(await executor.run(held), job, recorder)
    finally:
        await executor.close()
        await lifespans.close(_CLOSING_SECONDS)
    return _told(outcome, job, recorder, raises=raises)


def _told(outcome: Outcome, job: ActiveJob, recorder: _Recorder, *, raises: bool) -> HandlerRun:
    if raises and isinstance(outcome, Failed):
        _raise(outcome, job)
    fields: dict[str, Any] = {}
    match outcome:
        case Failed():
            fields = {
                "reason": outcome.reason, "error": outcome.error, "retry_in": outcome.retry_in
            }  # fmt: skip
        case Postponed() | Limited():
            fields = {"retry_in": outcome.delay}
        case AwaitsChildren():
            fields = {"children": outcome.children}
        case Completed():
            fields = {"returned": outcome.value}
    return HandlerRun(
        outcome=label(outcome),
        progress=recorder.reported,
        logs=recorder.rows,
        steps={name: json.loads(result) for name, result in job.steps.items()},
        updated=recorder.updated,
        **fields,
    )


def _raise(failed: Failed, job: ActiveJob) -> None:
    error = failed.error
    if not isinstance(error, Exception):  # a SystemExit or CancelledError would end the test run
        raise JobFailed(job.id, failed.reason) from error
    if failed.reason not in str(error):
        error.add_note(f"the job's reason: {failed.reason}")
    raise error


def _settled(outcome: Outcome, job: ActiveJob, recorder: _Recorder) -> Outcome:
    """Turn a wait for children that have all ended into a failure, as a worker does."""
    ended = recorder.ended
    if isinstance(outcome, AwaitsChildren):
        left = not_ended(outcome.children, ended)
        if not left:
            return failure(nothing_to_wait_for(outcome.children, ended), job, lambda: 0.0)
        return AwaitsChildren(tuple(left))
    return outcome


def _queue_of(handlers: HandlerRegistry, name: str, settings: Settings) -> str:
    """Return the queue that the handler of this name is bound to, or the settings' first."""
    bound = {handler.queue for handler in handlers if name in handler.names} - {None}
    if len(bound) > 1:
        names = ", ".join(sorted(queue or "" for queue in bound))
        msg = f"{name!r} has handlers on the queues {names}: expected queue= to say which"
        raise ConfigurationError(msg)
    free = handlers.find("", name) is not None
    return settings.queues[0] if free or not bound else bound.pop() or ""


def _recorded(steps: Mapping[str, Any]) -> dict[str, bytes]:
    return {
        name: encode_data(result, what=f"steps[{name!r}]").encode()
        for name, result in steps.items()
    }


def _check_attempt(attempt: int, attempts: int | None) -> None:
    if not 1 <= attempt <= (attempts or attempt):
        msg = f"attempt={attempt!r}: expected 1 to {attempts or 'any'}"
        raise ConfigurationError(msg)


async def _no_child_reason(deferred: str) -> str:  # pragma: no cover - no child has failed here
    return deferred


class _Recorder:
    """The reporter of the one job that is run: keeps what would have gone to Redis."""

    def __init__(
        self, results: Mapping[str, Any], failures: Mapping[str, str], limits: StepLimits
    ) -> None:
        self._limits = limits
        self.updated: Any = None
        self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        failed = dict.fromkeys(failures)
        # Through JSON, as results come back in a worker.
        self.ended: dict[str, Any] = json.loads(encode_json({**failed, **results}, "results"))
        self._failures = dict(failures)
        self._lock = threading.Lock()
        self._closed = False
        self.reported: list[Any] = []
        self.rows: list[str] = []
        self.newest: str | None = None

    def reporter(self, held: HeldLock) -> _Recorder:
        self._job = held.job
        return self

    @property
    def is_closed(self) -> bool:
        return self._closed

    async def record_step(self, name: str, result: str) -> bytes:
        written = result.encode()
        self._limits.check(self._job, name, len(written))
        return self._job.steps.setdefault(name, written)

    async def update_data(self, data: str) -> None:
        self.updated = json.loads(data)

    def progress(self, value: Any) -> None:
        text = encode_json(value, what="progress")
        with self._lock:
            if not self._closed:
                self.newest = text
                self.reported.append(json.loads(text))

    def log(self, row: str) -> None:
        with self._lock:
            if not self._closed:
                self.rows.append(row)

    async def children_results(self) -> dict[str, Any]:
        return dict(self.ended)

    async def children_failures(self) -> dict[str, str]:
        return dict(self._failures)

    async def drop_children(self) -> None:
        """Nothing: no child was enqueued."""

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
