"""Reads a job as Django's TaskResult."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.utils import timezone
from django.utils.module_loading import import_string

from convolab_worker.bullmq.jobs.job_id import JobId
from convolab_worker.errors import JobFailed
from convolab_worker.integrations.django.tasks_api import (
    Task,
    TaskError,
    TaskResult,
    TaskResultStatus,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convolab_worker.client.job_status import JobStatus

_FIRST_PRIORITY = 100  # Django's highest, which goes first; BullMQ counts from 0, its highest
_STATUSES = {
    "active": TaskResultStatus.RUNNING,
    "completed": TaskResultStatus.SUCCESSFUL,
    "failed": TaskResultStatus.FAILED,
}
_NOTE = "convolab_worker: run by "
_NOTED = re.compile(rf"^{_NOTE}(.+)$", re.MULTILINE)
# The line of a traceback that names the exception: the first one after the frames.
_RAISED = re.compile(r"^(?:  \| )?((?:[^\W\d]\w*\.)*[^\W\d]\w*)(?=: |:?$)", re.MULTILINE)
_TRACEBACK = "Traceback (most recent call last):\n"


def bullmq_priority(priority: int) -> int:
    """Return BullMQ's priority for one of Django's: the same order, and 0, the first, for 100."""
    return _FIRST_PRIORITY - priority


def worker_note(worker_id: str) -> str:
    """Return the note on an exception that says which worker ran the attempt; the job keeps it."""
    return f"{_NOTE}{worker_id}"


def declared_task(path: str) -> Any:
    """Return the task at ``path``, as ``Task.module_path`` has it; None if there is none."""
    try:
        found = import_string(path)
    except ImportError:
        return None
    return found if isinstance(found, Task) else None


def result_of(status: JobStatus, task: Any, *, alias: str, queue_name: str) -> Any:
    """Return a task's result, from the job as it is now.

    BullMQ keeps when a job last started: that is ``started_at`` and ``last_attempted_at`` both.
    """
    data: Mapping[str, Any] = status.data if isinstance(status.data, dict) else {}
    delay = status.opts.get("delay") or 0
    started = _moment(status.processed_on)
    result = TaskResult(
        task=task.using(
            priority=_FIRST_PRIORITY - status.priority,
            queue_name=queue_name,
            run_after=_moment((status.timestamp or 0) + delay / 1000) if delay else None,
            backend=alias,
        ),
        id=JobId(status.id, queue=status.queue),
        status=_STATUSES.get(status.state, TaskResultStatus.READY),
        enqueued_at=_moment(status.timestamp),
        started_at=started,
        last_attempted_at=started,
        finished_at=_moment(status.finished_on),
        args=data.get("args", []),
        kwargs=data.get("kwargs", {}),
        backend=alias,
        errors=_errors(status),
        worker_ids=_worker_ids(status),
    )
    if status.state == "completed":
        object.__setattr__(result, "_return_value", status.result)
    return result


def task_error(error: BaseException, trace: str) -> Any:
    """Return an exception as a result keeps it."""
    kind = type(error)
    return TaskError(exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=trace)


def _errors(status: JobStatus) -> list[Any]:
    """The error of each attempt that failed, from its stack trace."""
    errors = [
        TaskError(exception_class_path=exception_path(trace), traceback=trace)
        for trace in status.stacktrace
    ]
    if status.state == "failed" and not errors:  # mostly because its worker died
        path = f"{JobFailed.__module__}.{JobFailed.__qualname__}"
        errors.append(TaskError(exception_class_path=path, traceback=status.failed_reason or ""))
    return errors


def _worker_ids(status: JobStatus) -> list[str]:
    """The worker of each attempt that has begun: failures name theirs, the job names the last."""
    noted = [_noted(trace) for trace in status.stacktrace]
    last = status.processed_by or ""
    if status.state in ("active", "completed"):
        return [*(worker or "" for worker in noted), last]
    if noted and not noted[-1]:  # after a time-out, for example, no code of ours saw the exception
        noted[-1] = last
    return [worker or "" for worker in noted]


def _noted(trace: str) -> str | None:
    found: Sequence[str] = _NOTED.findall(trace)
    return found[-1] if found else None


def exception_path(trace: str) -> str:
    """Return the dotted path of the exception that a traceback's text ends with."""
    behind = trace.rpartition(_TRACEBACK)[2]
    found = _RAISED.search(behind)
    if found is None:
        return "builtins.Exception"
    path = found[1]
    return path if "." in path else f"builtins.{path}"


def _moment(seconds: float | None) -> datetime | None:
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    if django_settings.USE_TZ:
        return moment
    naive: datetime = timezone.make_naive(moment)
    return naive
