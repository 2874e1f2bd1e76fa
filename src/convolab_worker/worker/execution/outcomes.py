"""What a job comes to, from what its handler returned or raised."""

from __future__ import annotations

import inspect
import itertools
import traceback
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.child_jobs import check_keys
from convolab_worker.bullmq.outcome import (
    AwaitsChildren,
    Completed,
    Failed,
    Limited,
    Lost,
    Outcome,
    Postponed,
)
from convolab_worker.errors import (
    ConfigurationError,
    InvalidPayload,
    InvalidResult,
    JobTimeout,
    LockLost,
    RateLimited,
    RetryLater,
    UnrecoverableError,
)
from convolab_worker.handlers.around import middleware
from convolab_worker.handlers.groups import members
from convolab_worker.handlers.job.job import AwaitChildren, Job
from convolab_worker.handlers.retry import NO_STRATEGIES, FailedAttempt, retry_delay
from convolab_worker.payloads.encode import encode_json
from convolab_worker.telemetry.frames import names_application
from convolab_worker.worker.execution import handler_call, threads
from convolab_worker.worker.execution.handler_call import AbortKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.handlers.job.reporter import JobReporter
    from convolab_worker.handlers.registration.handler import Handler
    from convolab_worker.handlers.retry import Strategies
    from convolab_worker.worker.execution.handler_call import HandlerCall

_FINAL = (UnrecoverableError, InvalidPayload, InvalidResult)
_NO_FAILURE = (AwaitChildren, RateLimited, RetryLater)
# Files whose frames say nothing to whoever wrote the handler.
_OURS = frozenset({__file__, handler_call.__file__, middleware.__file__, threads.__file__})
# Results that need no check whether they are awaitable, which takes longer than to write them.
_PLAIN = frozenset({type(None), bool, int, float, str, dict, list})


def prepare(active_job: ActiveJob, handler: Handler, reporter: JobReporter) -> Job[Any]:
    """Decode and validate a job's data. Raises InvalidPayload.

    A handler's process does that itself; here it is for middleware alone.
    """
    is_read_here = handler.process is None or bool(handler.middleware)
    data = handler.decode(active_job.data) if is_read_here else None
    return Job(
        active_job, kind=handler.kind, data=data, reporter=reporter, resources=handler.resources
    )


def conclude(
    call: HandlerCall,
    active_job: ActiveJob,
    handler: Handler,
    random: Callable[[], float],
    strategies: Strategies = NO_STRATEGIES,
) -> Outcome:
    abort = call.aborted
    if abort is not None:
        if abort.outcome is None:
            return failure(_timed_out(call, active_job, handler), active_job, random, strategies)
        if abort.kind is AbortKind.LOCK_LOST or not call.returned:
            return abort.outcome
    return _from_result(call, active_job, random, strategies)


def _from_result(
    call: HandlerCall, active_job: ActiveJob, random: Callable[[], float], strategies: Strategies
) -> Outcome:
    try:
        return Completed(encoded_result(call.result()))
    except BaseException as error:  # noqa: BLE001 - a value from here on
        try:
            came = _without_failure(members(error))
        except ConfigurationError as wrong:  # children that can't be asked for together
            return failure(wrong, active_job, random, strategies)
        return came or failure(error, active_job, random, strategies, middleware=call.blame(error))


def _without_failure(errors: Sequence[BaseException]) -> Outcome | None:
    """What the job comes to where none of what was raised is a failure; None where one is.

    Of several, the longest delay counts, and all children are asked for.
    """
    lost = [error for error in errors if isinstance(error, LockLost)]
    if lost:
        return Lost(str(lost[0]))
    if not all(isinstance(error, _NO_FAILURE) for error in errors):
        return None
    limits = [error.delay for error in errors if isinstance(error, RateLimited)]
    if limits:
        return Limited(max(limits))
    delays = [error.delay for error in errors if isinstance(error, RetryLater)]
    if delays:
        return Postponed(max(delays))
    asked = [error.children for error in errors if isinstance(error, AwaitChildren)]
    return AwaitsChildren(asked[0] if len(asked) == 1 else check_keys(itertools.chain(*asked)))


def encoded_result(value: Any) -> str:
    """What a handler returned, as JSON. Raises InvalidResult."""
    if type(value) not in _PLAIN and inspect.isawaitable(value):
        _discard(value)
        msg = "the handler returned an awaitable: make it async, or await what it returns"
        raise InvalidResult(msg)
    return encode_json(value)


def failure(
    error: BaseException,
    active_job: ActiveJob,
    random: Callable[[], float],
    strategies: Strategies = NO_STRATEGIES,
    *,
    middleware: str | None = None,
) -> Failed:
    """The outcome of an attempt that failed with ``error``, raised by ``middleware`` or within.

    A group means what the exceptions in it mean: one that no further attempt follows counts most.
    """
    stack, errors = _told_stack(error), members(error)
    failed = [each for each in errors if not isinstance(each, _NO_FAILURE)] or errors
    reason = "; ".join(reason_of(each) for each in failed)
    error = failed[0] if len(failed) == 1 else error
    if middleware is not None:
        reason = f"middleware {middleware}: {reason}"
    if any(isinstance(each, _FINAL) for each in failed):
        return Failed(reason, stack, error=error)
    try:
        delay = retry_delay(
            active_job.policy or active_job.opts,
            active_job.attempts_made,
            random=random(),
            custom=lambda name: strategies.delay(name, _failed_attempt(active_job, error)),
        )
    except ConfigurationError as unknown:
        return Failed(f"{reason} (not tried again: {unknown})", stack, error=error)
    return Failed(reason, stack, delay, error=error)


def _failed_attempt(active_job: ActiveJob, error: BaseException) -> FailedAttempt:
    return FailedAttempt(
        id=active_job.id,
        name=active_job.name,
        queue=active_job.queue,
        attempt=active_job.attempt,
        max_attempts=active_job.max_attempts,
        error=error,
        raw_data=active_job.data,
    )


def _timed_out(call: HandlerCall, active_job: ActiveJob, handler: Handler) -> JobTimeout:
    still = "; it is still running and was abandoned" if call.abandoned else ""
    if call.killed and not call.abandoned:
        still = "; it went on, and its process was killed"
    if call.running_programs:
        still += f"; left running: {', '.join(call.running_programs)}"
    msg = f"{active_job.name} ran longer than its time-out of {handler.timeout:g} s{still}"
    timeout = JobTimeout(msg)
    if call.error is not None:  # where the handler stood when it was cancelled
        timeout.__traceback__ = call.error.__traceback__
        remote = getattr(call.error, "remote_stack", None)
        if remote is not None:
            frames = str(remote).rpartition("KeyboardInterrupt")[0] or str(remote)
            last = f"{type(timeout).__module__}.JobTimeout: {msg}\n"
            with_remote_stack(timeout, frames + last)
    return timeout


def reason_of(error: BaseException) -> str:
    """What Node would put into ``failedReason``: the message, where there is one."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception whose own text raises
        text = ""
    if isinstance(error, Exception) and text and not isinstance(error, KeyError):
        return _encodable(text)
    return _encodable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def with_remote_stack(error: BaseException, stack: str) -> None:
    """Have ``stack_of`` give this traceback: the error was raised in another process."""
    error.__dict__["remote_stack"] = stack


def stack_of(error: BaseException, *skipped: str) -> str:
    """The traceback from the handler on, without the frames of this library and of those files."""
    remote = getattr(error, "remote_stack", None)  # it was raised in another process
    if remote is not None:
        return str(remote)
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename in _OURS.union(skipped):
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frames)
    except Exception:  # noqa: BLE001 - an exception whose str or repr raises
        lines = [f"{type(error).__name__} (its traceback can't be shown)"]
    return _encodable("".join(lines))


def _told_stack(error: BaseException) -> str:
    """The stack that is kept with a job.

    That of data which does not fit is one line, unless a line of the application raised it: the
    handler was not called, and no line of a library tells more than the reason.
    """
    stack = stack_of(error)
    if isinstance(error, InvalidPayload) and not names_application(stack):
        return _encodable("".join(traceback.format_exception_only(error)))
    return stack


def _encodable(text: str) -> str:
    """Lone surrogates can't be sent as UTF-8: show them as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _discard(value: Any) -> None:
    close = getattr(value, "close", None)
    if callable(close):
        close()
