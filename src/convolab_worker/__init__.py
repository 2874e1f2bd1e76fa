"""One background worker for BullMQ queues that costs next to nothing while it is idle.

The names are imported when they are first used: a command imports only what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convolab_worker.bullmq.jobs.job_id import JobId
    from convolab_worker.bullmq.jobs.job_type import JobType
    from convolab_worker.bullmq.protocol.keyword_types import (
        Deduplication,
        Exponential,
        Fixed,
        JobOptions,
        JobPolicy,
    )
    from convolab_worker.bullmq.protocol.schedules import Schedule, ScheduleOptions
    from convolab_worker.client.client import JobClient
    from convolab_worker.client.events import JobEvent
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.operating.queues import QueueStatus
    from convolab_worker.client.sync.sync_client import SyncJobClient
    from convolab_worker.handlers.around.failures import Failure
    from convolab_worker.handlers.around.middleware import CallNext
    from convolab_worker.handlers.around.redaction import Shown
    from convolab_worker.handlers.job.children import Child
    from convolab_worker.handlers.job.job import Job
    from convolab_worker.handlers.job.sync_job import SyncJob
    from convolab_worker.handlers.registration.processes import Renewal
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.handlers.retry import FailedAttempt
    from convolab_worker.settings import Settings
    from convolab_worker.worker.tally import DrainResult
    from convolab_worker.worker.worker import Worker

__all__ = [
    "CallNext",
    "Child",
    "Deduplication",
    "DrainResult",
    "Exponential",
    "FailedAttempt",
    "Failure",
    "Fixed",
    "HandlerRegistry",
    "Job",
    "JobClient",
    "JobEvent",
    "JobId",
    "JobOptions",
    "JobPolicy",
    "JobStatus",
    "JobType",
    "QueueStatus",
    "Renewal",
    "Schedule",
    "ScheduleOptions",
    "Settings",
    "Shown",
    "SyncJob",
    "SyncJobClient",
    "Worker",
]

_MODULES = {
    "CallNext": "handlers.around.middleware",
    "Child": "handlers.job.children",
    "Deduplication": "bullmq.protocol.keyword_types",
    "DrainResult": "worker.tally",
    "Exponential": "bullmq.protocol.keyword_types",
    "FailedAttempt": "handlers.retry",
    "Failure": "handlers.around.failures",
    "Fixed": "bullmq.protocol.keyword_types",
    "HandlerRegistry": "handlers.registration.registry",
    "Job": "handlers.job.job",
    "JobClient": "client.client",
    "JobEvent": "client.events",
    "JobId": "bullmq.jobs.job_id",
    "JobOptions": "bullmq.protocol.keyword_types",
    "JobPolicy": "bullmq.protocol.keyword_types",
    "JobStatus": "client.job_status",
    "JobType": "bullmq.jobs.job_type",
    "QueueStatus": "client.operating.queues",
    "Renewal": "handlers.registration.processes",
    "Schedule": "bullmq.protocol.schedules",
    "ScheduleOptions": "bullmq.protocol.schedules",
    "Settings": "settings",
    "Shown": "handlers.around.redaction",
    "SyncJob": "handlers.job.sync_job",
    "SyncJobClient": "client.sync.sync_client",
    "Worker": "worker.worker",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
