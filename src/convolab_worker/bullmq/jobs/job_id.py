"""JobId: a job's id that knows which result the job has, and where the job is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    # Type checkers know typing_extensions even where it is not installed. At run time R has no
    # default before Python 3.13.
    from typing_extensions import TypeVar as TypeVarWithDefault

    from convolab_worker.bullmq.jobs.job_type import JobType

    R_co = TypeVarWithDefault("R_co", covariant=True, default=Any)
else:
    R_co = TypeVar("R_co", covariant=True)


class JobId(str, Generic[R_co]):
    """The id of a job that gives an ``R``: ``await client.result(job_id)`` is one.

    It is a ``str``, and becomes a plain one wherever text is copied, stored or sent. ``queue`` is
    where the job was added, None if that is not known. ``job_type`` is the job's declaration, None
    for a job that was added by its name. ``existed`` says that a job of that id was there already,
    so that nothing was added, or that ``deduplication`` has kept the job of this id instead.
    ``state`` is the state that it was in then; ``enqueue_many`` does not ask for it.
    """

    __slots__ = ("existed", "job_type", "queue", "state")

    existed: bool
    job_type: JobType[Any, R_co] | None
    queue: str | None
    state: str | None

    def __new__(
        cls,
        text: str,
        *,
        queue: str | None = None,
        job_type: JobType[Any, R_co] | None = None,
        existed: bool = False,
    ) -> Self:
        """Make an id of its text. ``JobType.job_id`` makes one that knows its type."""
        made = super().__new__(cls, text)
        made.queue, made.job_type, made.existed = queue, job_type, existed
        made.state = None
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it as plain text: a job type may not be picklable."""
        return str, (str.__str__(self),)
