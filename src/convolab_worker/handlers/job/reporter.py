"""JobReporter: what a running job tells its worker, and asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine


class JobReporter(Protocol):
    """What a job reports to, and asks about its children; ``newest`` is its progress as JSON.

    ``loop`` is the worker's, None in a handler's own process.
    """

    newest: str | None
    loop: asyncio.AbstractEventLoop | None

    def progress(self, value: Any) -> None:
        """Take the newest progress; may be called from any thread."""

    def log(self, row: str) -> None:
        """Take a row for the job's log in Redis; may be called from any thread."""

    def children_results(self) -> Coroutine[Any, Any, dict[str, Any]]:
        """Fetch the results of the job's children."""

    def children_failures(self) -> Coroutine[Any, Any, dict[str, str]]:
        """Fetch the reasons of children that failed without failing the job."""

    def drop_children(self) -> Coroutine[Any, Any, None]:
        """Remove the job's children that have not started."""

    @property
    def is_closed(self) -> bool:
        """Whether the run is over, so that nothing is recorded any more."""

    def record_step(self, name: str, result: str) -> Coroutine[Any, Any, bytes]:
        """Keep a step's result, JSON text, and return the kept one: an earlier one stays."""

    def update_data(self, data: str) -> Coroutine[Any, Any, None]:
        """Write the job's data, JSON text."""

    def finish(self) -> Coroutine[Any, Any, None] | None:
        """Accept no more reports; return what writes the rest before the outcome.

        Returns None if all is written, as for most jobs.
        """

    def close(self) -> None:
        """Write nothing more: another worker has the job."""
