"""One background worker for BullMQ queues that costs next to nothing while it is idle."""

from convolab_worker.children import Child
from convolab_worker.client import JobClient, JobStatus
from convolab_worker.events import JobEvent
from convolab_worker.job import Job
from convolab_worker.registry import HandlerRegistry
from convolab_worker.settings import Settings
from convolab_worker.worker import DrainResult, Worker

__all__ = [
    "Child",
    "DrainResult",
    "HandlerRegistry",
    "Job",
    "JobClient",
    "JobEvent",
    "JobStatus",
    "Settings",
    "Worker",
]
