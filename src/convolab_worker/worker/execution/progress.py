"""Progress and log rows of running jobs: at most one update a second, the last one always."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import structlog

from convolab_worker.bullmq import flows
from convolab_worker.bullmq.protocol import script_costs
from convolab_worker.bullmq.protocol.scripts import script
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import RedisUnavailable
from convolab_worker.payloads.encode import encode_json

if TYPE_CHECKING:
    from convolab_worker.bullmq.backend import Backend
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.connection.reconnect import Reconnection
    from convolab_worker.connection.usage import CommandCounter

_log = structlog.get_logger("convolab_worker")
_MOST_ROWS = 1000  # kept in memory between two writes; a handler that logs faster loses the oldest


class Reports:
    """Where the lines of one worker's jobs lead: Redis, through ``queues``."""

    def __init__(
        self,
        backend: Backend,
        reconnection: Reconnection,
        counter: CommandCounter,
        *,
        interval: float,
    ) -> None:
        """Write a job's news every ``interval`` seconds at most."""
        self.backend = backend
        self.reconnection = reconnection
        self._counter = counter
        self.interval = interval
        self.loop = asyncio.get_running_loop()

    def line(self, job: ActiveJob) -> JobLine:
        """The line of one job."""
        return JobLine(job, self)

    async def write(self, job: ActiveJob, progress: str | None, rows: list[str]) -> None:
        """Write a job's newest progress and log rows, in one pipeline."""
        keys = self.backend.keys[job.queue]
        waiting: list[asyncio.Future[Any]] = []
        connection = self.backend.connection
        if rows:
            logs = f"{keys.job(job.id)}:logs"
            waiting.append(connection.call(Purpose.PROGRESS, "RPUSH", logs, *rows))
            keep = job.opts.get("keepLogs")
            if isinstance(keep, int) and keep > 0:
                waiting.append(connection.call(Purpose.PROGRESS, "LTRIM", logs, -keep, -1))
        if progress is not None:
            call = self.backend.transitions[job.queue].progress(job.id, progress)
            await script(call.script).run(connection, Purpose.PROGRESS, call.keys, call.args)
            self._counter.count_inner(Purpose.PROGRESS, script_costs.PROGRESS)
        for future in waiting:
            await future


class JobLine:
    """One job's unwritten progress and log rows."""

    __slots__ = (
        "_closed", "_due", "_job", "_lock", "_progress", "_reports", "_rows", "_timer",
        "_writing", "_written_at", "newest",
    )  # fmt: skip

    def __init__(self, job: ActiveJob, reports: Reports) -> None:
        """Start with nothing to write."""
        self._job = job
        self._reports = reports
        self._lock = threading.Lock()
        self._progress: str | None = None
        self.newest: str | None = None  # written or not
        self._rows: list[str] = []
        self._due = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._written_at = float("-inf")

    def progress(self, value: Any) -> None:
        """Take the newest progress. Raises InvalidResult if it is not JSON."""
        text = encode_json(value, what="progress")
        with self._lock:
            if self._closed:
                return
            self._progress = self.newest = text
            due, self._due = self._due, True
        if not due:
            self._reports.loop.call_soon_threadsafe(self._schedule)

    def log(self, row: str) -> None:
        """Take a log row."""
        text = row.encode("utf-8", "backslashreplace").decode()
        with self._lock:
            if self._closed:
                return
            self._rows.append(text)
            del self._rows[:-_MOST_ROWS]
            due, self._due = self._due, True
        if not due:
            self._reports.loop.call_soon_threadsafe(self._schedule)

    async def children_results(self) -> dict[str, Any]:
        """Fetch the results of the job's children, however long Redis is away."""
        reports = self._reports
        return await reports.reconnection.answered(
            lambda: flows.results(reports.backend, self._job)
        )

    async def children_failures(self) -> dict[str, str]:
        """Fetch the reasons of children that failed without failing the job, likewise."""
        reports = self._reports
        return await reports.reconnection.answered(
            lambda: flows.failures(reports.backend, self._job)
        )

    async def drop_children(self) -> None:
        """Remove the job's children that have not started, likewise."""
        reports = self._reports
        await reports.reconnection.answered(lambda: flows.drop(reports.backend, self._job))

    def _schedule(self) -> None:
        if not self._due or self._timer is not None or self._closed:
            return
        loop = self._reports.loop
        at = max(loop.time(), self._written_at + self._reports.interval)
        self._timer = loop.call_at(at, self._start_writing)

    def _start_writing(self) -> None:
        self._timer = None
        self._writing = self._reports.loop.create_task(self._write(), name="convolab-report")

    async def _write(self) -> None:
        with self._lock:
            progress, self._progress = self._progress, None
            rows, self._rows = self._rows, []
            self._due = False
        if progress is None and not rows:
            return
        self._written_at = self._reports.loop.time()
        try:
            await self._reports.write(self._job, progress, rows)
        except RedisUnavailable as error:
            # Progress is news, not the job: what could not be told is no reason to fail.
            _log.warning("job.report_lost", job_id=self._job.id, error=str(error))

    def drop(self) -> None:
        """Write nothing more: the job is another worker's."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    async def finish(self) -> None:
        """Write what is unwritten, before the job's outcome is, and nothing after it.

        A handler that was abandoned may go on, and report.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if self._due:
            await self._write()
