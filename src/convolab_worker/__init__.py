"""One background worker for BullMQ queues that costs next to nothing while it is idle.

The names are imported when they are first used: a command imports only what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convolab_worker.children import Child
    from convolab_worker.client import JobClient, JobStatus
    from convolab_worker.events import JobEvent
    from convolab_worker.job import Job
    from convolab_worker.registry import HandlerRegistry
    from convolab_worker.scope import CallNext
    from convolab_worker.settings import Settings
    from convolab_worker.strategies import FailedAttempt
    from convolab_worker.worker import DrainResult, Worker

__all__ = [
    "CallNext",
    "Child",
    "DrainResult",
    "FailedAttempt",
    "HandlerRegistry",
    "Job",
    "JobClient",
    "JobEvent",
    "JobStatus",
    "Settings",
    "Worker",
]

_MODULES = {
    "CallNext": "scope",
    "Child": "children",
    "DrainResult": "worker",
    "FailedAttempt": "strategies",
    "HandlerRegistry": "registry",
    "Job": "job",
    "JobClient": "client",
    "JobEvent": "events",
    "JobStatus": "client",
    "Settings": "settings",
    "Worker": "worker",
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
