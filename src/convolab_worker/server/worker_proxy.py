"""What the wake server sees of a worker: a wake, a hold, a status; never its insides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from convolab_worker.worker.health import Health
    from convolab_worker.worker.held_requests import HoldResult


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
