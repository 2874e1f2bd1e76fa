"""How large the results of steps may be: each fetch of a job carries all of its results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from convolab_worker._logs import Log
from convolab_worker.errors import InvalidResult

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.settings import Settings

_log = Log()
_ADVICE = "store it elsewhere, and let the step return its address"


class StepLimits(Struct, frozen=True):
    """Bytes of JSON: a result above ``warning`` is warned of; a job keeps no more than ``most``."""

    warning: int
    most: int

    @classmethod
    def of(cls, settings: Settings) -> StepLimits:
        """Return the limits that the settings give."""
        return cls(settings.step_size_warning, settings.step_size_limit)

    def check(self, job: ActiveJob, name: str, size: int, pending: int = 0) -> None:
        """Warn of a large result. Raises InvalidResult for one with which the job keeps too much.

        ``pending`` are the bytes of results that are on their way.
        """
        kept = pending + sum(len(result) for result in job.steps.values())
        if kept + size > self.most:
            msg = (
                f"step {name!r}: its result has {size} bytes, and with the job's other steps "
                f"{kept + size}: expected {self.most} at most (step_size_limit); {_ADVICE}"
            )
            raise InvalidResult(msg)
        if size >= self.warning:
            _log.warning(
                "job.step_large",
                step=name,
                bytes=size,
                job_id=job.id,
                job_name=job.name,
                queue=job.queue,
                hint=_ADVICE,
            )
