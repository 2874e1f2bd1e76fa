"""Child: a part of a job, as its handler asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from msgspec.structs import force_setattr

from convolab_worker.bullmq.jobs.child_jobs import ChildJob, OnFailure
from convolab_worker.bullmq.jobs.job_type import JobType, job_type_of
from convolab_worker.bullmq.protocol.keyword_types import ScheduledJobOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.handlers.job.sync_job import SyncJob

P = TypeVar("P")


class ChildOptions(ScheduledJobOptions, total=False):
    """The keywords of ``Child`` besides the job's own name and data."""

    queue: str | None
    key: str | None
    delay: float | None
    on_failure: OnFailure


class Child(ChildJob, frozen=True):
    """A part of a job, to be run as a BullMQ child.

    ``name`` is that of the job, its JobType or its handler; these two give the queue and options
    that are not given here, and ``data`` is checked as the handler will check it.
    ``key`` names its result within the parent (by default the job name), and makes its id: a child
    that one job asks for twice is one job. ``queue`` is the parent's own by default. ``on_failure``
    says what happens if the child fails for good: ``fail`` the parent, ``ignore`` the failure (the
    parent goes on when the others are done), ``continue`` the parent at once, or ``remove`` the
    child from what the parent waits for. The others are those of JobOptions; BullMQ allows no
    deduplication of children. Raises ConfigurationError for values that can't be, and
    InvalidPayload for data that the handler would refuse.
    """

    if TYPE_CHECKING:

        @overload
        def __init__(
            self, job_type: JobType[P, Any], data: P, /, **options: Unpack[ChildOptions]
        ) -> None: ...

        @overload
        def __init__(
            self,
            handler: Callable[[SyncJob[P, Any]], Any],
            data: P,
            /,
            **options: Unpack[ChildOptions],
        ) -> None: ...

        @overload
        def __init__(self, name: str, data: Any = ..., **options: Unpack[ChildOptions]) -> None: ...

        def __init__(self, name: Any, data: Any = None, **options: Any) -> None: ...

    def __post_init__(self) -> None:
        target: object = self.name
        if not isinstance(target, str):
            self._become(job_type_of(target))
        ChildJob.__post_init__(self)

    def _become(self, job_type: JobType[Any, Any]) -> None:
        """Take the name, and the queue and options that are not given, from a declaration."""
        job_type.encode(self.data)  # raises for data that does not fit
        force_setattr(self, "name", job_type.name)
        for what, value in {"queue": job_type.queue, **job_type.options}.items():
            if getattr(self, what) is None:
                force_setattr(self, what, value)
