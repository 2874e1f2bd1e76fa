"""The backend: enqueues tasks as BullMQ jobs, and reads their results."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.crypto import get_random_string

from convolab_worker.bullmq.jobs.job_id import JobId

# At run time, since tools ask for the types of a dataclass's fields.
from convolab_worker.bullmq.protocol.keyword_types import Backoff, Keep  # noqa: TC001
from convolab_worker.bullmq.protocol.keywords import job_options
from convolab_worker.client.adding.transactions import after_commit
from convolab_worker.client.sync.sync_client import SyncJobClient
from convolab_worker.errors import ConfigurationError, JobNotFound
from convolab_worker.integrations.django.results import bullmq_priority, declared_task, result_of
from convolab_worker.integrations.django.tasks_api import (
    BaseTaskBackend,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_enqueued,
)
from convolab_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DEFAULT_QUEUE = "default"  # Django's queue of tasks without one
_ID_LENGTH = 32
JOB_OPTIONS = ("attempts", "backoff", "keep_completed", "keep_failed")

_clients: dict[Settings, SyncJobClient] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class BullMQTask(Task):  # type: ignore[misc] # Django has no types
    """A task that may say more than Django's: ``@task(attempts=5, timeout=60)``.

    ``attempts``, ``backoff``, ``keep_completed`` and ``keep_failed`` are those of JobPolicy,
    ``timeout``, ``concurrency`` and ``rate`` those of HandlerOptions. Django 6.0's decorator does
    not pass them on; that of 6.1 and of django-tasks does.
    """

    attempts: int | None = None
    backoff: Backoff | None = None
    keep_completed: Keep | None = None
    keep_failed: Keep | None = None
    timeout: float | None = None
    concurrency: int | None = None
    rate: str | None = None


class BullMQBackend(BaseTaskBackend):  # type: ignore[misc] # Django has no types
    """Enqueues tasks as jobs of BullMQ queues, which ``manage.py convolab_worker`` runs.

    A task's ``queue_name`` is the name of the BullMQ queue; Django's ``default`` is the first of
    the setting ``queues``. ``OPTIONS`` are settings by name (``redis_url``, ``queues``, ...), which
    come from the environment otherwise; ``attempts`` and ``backoff`` for tasks that say nothing;
    and ``enqueue_on_commit``, with which a task that is enqueued within a transaction is added
    when that commits, and not at all if it rolls back. Raises ImproperlyConfigured.
    """

    task_class = BullMQTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        options = dict(self.options)
        self._on_commit = options.pop("enqueue_on_commit", False)
        self._defaults = {name: options.pop(name, None) for name in ("attempts", "backoff")}
        try:
            job_options("OPTIONS", self._defaults)
            self.settings = Settings.for_client(**options)
            self.settings.replace(queues=self.bullmq_queues)  # raises for a name that can't be
            self._client = _client_of(self.settings, options)
            self.setting_options = options
        except ConfigurationError as error:
            msg = f"TASKS[{alias!r}]: {error}"
            raise ImproperlyConfigured(msg) from None

    @property
    def bullmq_queues(self) -> tuple[str, ...]:
        """The BullMQ queues of this backend: those of ``QUEUES``, or of the settings for any."""
        names = sorted(self.queues, key=lambda name: (name != _DEFAULT_QUEUE, name))
        return tuple(dict.fromkeys(map(self._bullmq_queue, names))) or self.settings.queues

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Add a job, and return its result, which is READY.

        Raises InvalidTask, TypeError for arguments that are not JSON, and RedisUnavailable.
        """
        self.validate_task(task)
        result = TaskResult(
            task=task,
            id=JobId(get_random_string(_ID_LENGTH), queue=self._bullmq_queue(task.queue_name)),
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        add = partial(self._add, result)
        if not (self._on_commit and after_commit(True, add)):  # noqa: FBT003 - as on_commit=True
            add()
        return result

    def get_result(self, result_id: str) -> Any:
        """Read a task's job. Raises TaskResultDoesNotExist, and RedisUnavailable."""
        for queue in self._queues_of(result_id):
            try:
                status = self._client.status(result_id, queue)
            except JobNotFound:
                continue
            task = declared_task(status.name)
            if task is None:
                break
            return result_of(status, task, alias=self.alias, queue_name=self.queue_name(queue))
        raise TaskResultDoesNotExist(result_id)

    def _add(self, result: Any) -> None:
        task = result.task
        own = {name: getattr(task, name, None) for name in JOB_OPTIONS}
        for name, default in self._defaults.items():
            own[name] = default if own[name] is None else own[name]
        self._client.enqueue(
            task.module_path,
            {"args": result.args, "kwargs": result.kwargs},
            queue=result.id.queue,
            job_id=str(result.id),
            delay=None if task.run_after is None else _seconds_until(task.run_after),
            priority=bullmq_priority(task.priority) or None,
            **own,
        )
        object.__setattr__(result, "enqueued_at", timezone.now())
        task_enqueued.send(type(self), task_result=result)

    def _queues_of(self, result_id: str) -> Iterator[str]:
        """The queues that may have the job: an id that this backend gave out knows its own."""
        queue = getattr(result_id, "queue", None)
        yield from self.bullmq_queues if queue is None else (queue,)

    def _bullmq_queue(self, queue_name: str) -> str:
        return self.settings.queues[0] if queue_name == _DEFAULT_QUEUE else queue_name

    def queue_name(self, queue: str) -> str:
        """Django's name for a BullMQ queue."""
        is_default = queue == self.settings.queues[0] and queue not in self.queues
        return _DEFAULT_QUEUE if is_default else queue


def _client_of(settings: Settings, options: Mapping[str, Any]) -> SyncJobClient:
    """One client for all threads: Django makes a backend for each of them, and for each task."""
    with _lock:
        client = _clients.get(settings)
        if client is None:
            client = _clients[settings] = SyncJobClient(**options)
        return client


def _seconds_until(moment: datetime) -> float:
    aware = timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return max((aware - datetime.now(UTC)).total_seconds(), 0.0)
