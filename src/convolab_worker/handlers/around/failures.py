"""What ``on_failure`` functions are told of each failed attempt, for Sentry and the like."""

from __future__ import annotations

from convolab_worker.handlers.retry import FailedAttempt


class Failure(FailedAttempt, frozen=True, kw_only=True):
    """An attempt that failed, and what follows.

    ``reason`` is what the job keeps as its ``failedReason``. ``retry_in`` is the seconds until the
    next attempt, None where there is none.
    """

    reason: str
    retry_in: float | None

    @property
    def final(self) -> bool:
        """Whether the job has failed for good."""
        return self.retry_in is None
