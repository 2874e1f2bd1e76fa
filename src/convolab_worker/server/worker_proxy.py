"""What the wake server sees of a worker: a wake, a hold, a status; never its insides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from convolab_worker.worker.held_requests import HoldResult
    from convolab_worker.worker.status import Health


# What is wrong in so many looks in a row is wrong. Looks are counted, not seconds: a process that
# stood still is not ill.
_LOOKS = 5


class Workload(Protocol):
    """A worker, in this event loop or in another one."""

    def wake(self) -> None:
        """Look for work at once."""

    async def hold(self, budget: float) -> HoldResult:
        """Work until nothing is left, at most ``budget`` seconds; shared by all who hold."""

    def progress(self) -> dict[str, int]:
        """What the held drain has done, and how many jobs are running."""

    async def stats(self) -> dict[str, Any]:
        """Everything that the worker counts."""

    async def picture(self) -> dict[str, Any]:
        """What the status page shows, its ``recent`` outcomes among it; from memory."""

    async def depths(self) -> dict[str, Any]:
        """How many jobs each queue has in each state, and how many commands that cost."""

    def health(self) -> Health:
        """How the worker is."""

    def problem(self) -> str | None:
        """What is wrong with the worker's consumption of jobs; None if nothing is."""

    def look(self) -> None:
        """See how the worker is; called once a second, for ``problem`` to tell."""


class HealthWatch:
    """Is told once a second what was seen, and says what is wrong."""

    def __init__(self) -> None:
        """Begin with nothing wrong."""
        self._unanswered = 0
        self._overdue = 0

    def look(self, health: Health, *, answered: bool) -> None:
        """Note the ``health``, and whether the worker's event loop turned since the last look."""
        self._unanswered = 0 if answered else self._unanswered + 1
        self._overdue = self._overdue + 1 if health.overdue else 0

    def problem(self, health: Health) -> str | None:
        """What is wrong, in words; None if nothing is."""
        if health.state == "stopped":
            return "the worker has ended"
        if self._unanswered >= _LOOKS:
            return f"the event loop has not turned for {self._unanswered} s"
        if self._overdue >= _LOOKS:
            return "the loop that takes jobs makes no progress"
        return None
