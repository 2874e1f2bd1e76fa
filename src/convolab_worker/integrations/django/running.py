"""Makes a handler for each task, and runs it as Django runs a request."""

from __future__ import annotations

import functools
import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import django
import msgspec
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.apps import apps
from django.db import close_old_connections, connections
from django.utils import timezone
from django.utils.module_loading import autodiscover_modules

from convolab_worker.bullmq.jobs.job_id import JobId
from convolab_worker.handlers.functions import is_async
from convolab_worker.handlers.job.job import Job
from convolab_worker.handlers.registration.registry import HandlerRegistry
from convolab_worker.integrations.django.backend import JOB_OPTIONS, BullMQBackend
from convolab_worker.integrations.django.results import task_error, worker_note
from convolab_worker.integrations.django.tasks_api import (
    Task,
    TaskContext,
    TaskResult,
    TaskResultStatus,
    normalize_json,
    task_backends,
    task_finished,
    task_started,
)
from convolab_worker.settings import Settings  # noqa: TC001 - a lifespan is asked for its types
from convolab_worker.worker.assembly import worker_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from convolab_worker.handlers.around.failures import Failure

_HANDLER_OPTIONS = (*JOB_OPTIONS, "timeout", "concurrency", "rate")


class TaskCall(msgspec.Struct):
    """The data of a task's job."""

    args: list[Any] = msgspec.field(default_factory=list)
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict)


_SIGNATURE = inspect.Signature(
    [inspect.Parameter("job", inspect.Parameter.POSITIONAL_ONLY, annotation=Job[TaskCall])]
)


def task_handlers() -> HandlerRegistry:
    """Return a handler for each declared task."""
    if not apps.ready:
        django.setup()
    autodiscover_modules("tasks")
    registry = HandlerRegistry()
    tasks = _declared()
    for path, task in tasks.items():
        own: Any = {name: getattr(task, name, None) for name in _HANDLER_OPTIONS}
        registry.job(path, kind="task", **own)(_handler(task))

    @registry.lifespan
    async def worker_id(settings: Settings) -> AsyncIterator[str]:
        yield worker_name(settings)

    @registry.on_failure
    async def tell_of_failure(failure: Failure) -> None:
        task = tasks.get(failure.name)
        if failure.final and task is not None:
            await task_finished.asend_robust(BullMQBackend, task_result=_failed(task, failure))

    return registry


def bullmq_backends() -> list[BullMQBackend]:
    """Return the backends of ``TASKS`` that enqueue BullMQ jobs, the default one first."""
    aliases = sorted(task_backends, key=lambda alias: (alias != "default", alias))
    found = (task_backends[alias] for alias in aliases)
    return [backend for backend in found if isinstance(backend, BullMQBackend)]


def _declared() -> dict[str, Any]:
    """The tasks of all modules that are imported, by their paths."""
    # sys.modules may have entries that are not modules.
    modules: list[object] = list(sys.modules.values())
    names = [vars(module) for module in modules if isinstance(module, ModuleType)]
    found: Any = [value for known in names for value in list(known.values())]
    # Not isinstance, which would set up lazy objects.
    return {task.module_path: task for task in found if issubclass(type(task), Task)}


def _handler(task: Any) -> Callable[[Job[TaskCall, str]], Any]:
    """Return the function that runs a job of the task: async for an async task, plain otherwise."""

    def run(job: Job[TaskCall, str]) -> Any:
        close_old_connections()
        try:
            result = _running(task, job)
            task_started.send_robust(BullMQBackend, task_result=result)
            try:
                value = normalize_json(task.func(*_arguments(result), **result.kwargs))
            except BaseException as error:
                error.add_note(worker_note(job.resources))
                raise
            task_finished.send_robust(BullMQBackend, task_result=_successful(result, value))
            return value
        finally:
            close_old_connections()

    async def run_async(job: Job[TaskCall, str]) -> Any:
        # As for a request under ASGI, code that is not async, mostly the ORM, runs in a thread of
        # this job's own, and its connections end with that thread.
        async with ThreadSensitiveContext():
            try:
                result = _running(task, job)
                await task_started.asend_robust(BullMQBackend, task_result=result)
                try:
                    value = normalize_json(await task.func(*_arguments(result), **result.kwargs))
                except BaseException as error:
                    error.add_note(worker_note(job.resources))
                    raise
                result = _successful(result, value)
                await task_finished.asend_robust(BullMQBackend, task_result=result)
                return value
            finally:
                await sync_to_async(connections.close_all)()

    handler: Any = run_async if is_async(task.func) else run
    functools.update_wrapper(handler, task.func)  # so that logs and doctor name the task
    handler.__signature__ = _SIGNATURE
    return handler  # type: ignore[no-any-return]


def _arguments(result: Any) -> list[Any]:
    context = [TaskContext(task_result=result)] if result.task.takes_context else []
    return [*context, *result.args]


def _running(task: Any, job: Job[TaskCall, str]) -> Any:
    """Return the result of a task that begins; it does not know earlier attempts' workers."""
    now = timezone.now()
    return _result(
        task,
        JobId(job.id, queue=job.queue),
        job.data,
        status=TaskResultStatus.RUNNING,
        started_at=now,
        worker_ids=[*[""] * (job.attempt - 1), job.resources],
    )


def _successful(result: Any, value: Any) -> Any:
    object.__setattr__(result, "status", TaskResultStatus.SUCCESSFUL)
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "_return_value", value)
    return result


def _failed(task: Any, failure: Failure) -> Any:
    try:
        call = msgspec.json.decode(failure.raw_data, type=TaskCall)
    except msgspec.DecodeError:  # the failure comes from that
        call = TaskCall()
    result = _result(
        task,
        JobId(failure.id, queue=failure.queue),
        call,
        status=TaskResultStatus.FAILED,
        started_at=None,
        worker_ids=[""] * failure.attempt,
    )
    object.__setattr__(result, "finished_at", timezone.now())
    result.errors.append(task_error(failure.error, failure.reason))
    return result


def _result(
    task: Any,
    job_id: JobId,
    call: TaskCall,
    *,
    status: TaskResultStatus,
    started_at: datetime | None,
    worker_ids: list[str],
) -> Any:
    backend = _backend_of(task)
    return TaskResult(
        task=task.using(queue_name=backend.queue_name(job_id.queue or ""), backend=backend.alias),
        id=job_id,
        status=status,
        enqueued_at=None,
        started_at=started_at,
        last_attempted_at=started_at,
        finished_at=None,
        args=call.args,
        kwargs=call.kwargs,
        backend=backend.alias,
        errors=[],
        worker_ids=worker_ids,
    )


def _backend_of(task: Any) -> BullMQBackend:
    """Return the task's own backend or, if that is another one's, the first that is ours."""
    own = task.get_backend()
    if isinstance(own, BullMQBackend):
        return own
    return next(iter(bullmq_backends()))
