"""Progress and log rows of running jobs: at most one update a second, the last one always."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from convolab_worker._chance import chance
from convolab_worker._logs import Log
from convolab_worker.bullmq.protocol import calls
from convolab_worker.bullmq.script_runner import run_script
from convolab_worker.bullmq.worker_side import flows, steps
from convolab_worker.bullmq.worker_side.reconcile import reclaim
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import (
    InvalidResult,
    JobNotFound,
    LockLost,
    RedisUnavailable,
    ReplyLost,
)
from convolab_worker.payloads.encode import byte_size, encode_json
from convolab_worker.worker.execution.losses import (
    LARGE_BYTES,
    is_to_blame,
    loss_delay,
    told_lost,
    told_too_large,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.worker_side.backend import Backend
    from convolab_worker.connection.commands.usage import CommandCounter
    from convolab_worker.connection.upkeep.reconnect import Reconnection
    from convolab_worker.handlers.job.steps.limits import StepLimits
    from convolab_worker.worker.execution.losses import Isolation
    from convolab_worker.worker.locks import HeldLock

_log = Log()
T = TypeVar("T")
# After so many losses in a row a job reports no more; each makes the next report that much later.
_MOST_LOSSES, _SLOWER = 3, 4
_MOST_ROWS = 1000  # kept in memory between two writes; a handler that logs faster loses the oldest


class ReportWriter:
    """Writes what jobs report to Redis, for each job every ``interval`` seconds at most.

    Results of steps are written at once. ``may_reclaim`` says whether this process never stood
    still while it held a lock. What is large, and was lost with the connection, is sent again in
    ``isolation``; ``max_size`` is in bytes.
    """

    def __init__(
        self,
        backend: Backend,
        reconnection: Reconnection,
        counter: CommandCounter,
        *,
        interval: float,
        step_limits: StepLimits,
        may_reclaim: Callable[[HeldLock], bool],
        isolation: Isolation,
        max_size: int,
    ) -> None:
        self.step_limits = step_limits
        self.may_reclaim = may_reclaim
        self.backend = backend
        self._isolation = isolation
        self.max_size = max_size
        self.reconnection = reconnection
        self._counter = counter
        self.interval = interval
        self.loop = asyncio.get_running_loop()
        self.lock = threading.Lock()  # of what its reporters keep, which threads of handlers write

    def reporter(self, held: HeldLock) -> BufferedReporter:
        return BufferedReporter(held, self)

    async def write(self, job: ActiveJob, progress: str | None, rows: list[str]) -> None:
        """Write a job's newest progress and log rows; nothing where the job is gone."""
        call = self.backend.transitions[job.queue].report(job, progress, rows)
        await run_script(self.backend.connection, Purpose.PROGRESS, call)

    async def answered(
        self, job: ActiveJob, ask: Callable[[Backend, ActiveJob], Awaitable[T]]
    ) -> T:
        """Ask Redis about the job, and again after every outage and refusal."""
        return await self.reconnection.answered(lambda: ask(self.backend, job))

    async def sent(
        self,
        job: ActiveJob,
        send: Callable[[Backend, ActiveJob], Awaitable[T]],
        size: int,
        what: str,
    ) -> T:
        """The same with ``size`` bytes, those of ``what``, which may be sent more than once.

        Raises InvalidResult for more bytes than may be sent, or than the server takes.
        """
        if size > self.max_size:
            msg = f"{what} of {size} bytes {told_too_large(self.max_size)}"
            raise InvalidResult(msg)
        if size < LARGE_BYTES:
            return await self.answered(job, send)
        losses, replaced = 0, self.reconnection.replaced
        while True:
            send_once = functools.partial(self._sent_once, job, send, losses)
            try:
                return await self.reconnection.answered(send_once, most_losses=0)
            except ReplyLost as lost:
                if lost.silent or replaced != self.reconnection.replaced:  # not for its size
                    replaced = self.reconnection.replaced
                    continue
                losses += 1
                if is_to_blame(size, losses, 0):
                    msg = f"{what} of {size} bytes {told_lost(size, losses)}"
                    raise InvalidResult(msg) from lost

    async def _sent_once(
        self, job: ActiveJob, send: Callable[[Backend, ActiveJob], Awaitable[T]], losses: int
    ) -> T:
        """Send it with other jobs' commands the first time, and then alone."""
        if not losses:
            return await send(self.backend, job)
        await self.reconnection.pause(loss_delay(losses, random=chance()))
        return await self._isolation.run(lambda connection: send(self.backend.on(connection), job))


class BufferedReporter:
    """Keeps one job's newest progress and its log rows until they are written."""

    # What a job that reports nothing leaves as it is stands here: there is a reporter for each job.
    _progress: str | None = None
    newest: str | None = None  # written or not
    _rows: list[str] | None = None
    _recording: dict[asyncio.Task[bytes], int] | None = None  # and the bytes of each
    _due = False
    _closed = False
    _timer: asyncio.TimerHandle | None = None
    _writing: asyncio.Task[None] | None = None
    _written_at = float("-inf")
    _losses = 0  # reports in a row with which the connection was lost

    def __init__(self, held: HeldLock, writer: ReportWriter) -> None:
        self._held = held
        self._job = held.job
        self._writer = writer
        self._lock = writer.lock
        self.loop: asyncio.AbstractEventLoop | None = writer.loop

    def progress(self, value: Any) -> None:
        """Take the newest progress. Raises InvalidResult if it is not JSON."""
        text = encode_json(value, what="progress")
        with self._lock:
            if not self._closed:
                self._progress = self.newest = text
                self._write_soon()

    def log(self, row: str) -> None:
        text = row.encode("utf-8", "backslashreplace").decode()
        with self._lock:
            if not self._closed:
                rows = self._rows = self._rows or []
                rows.append(text)
                del rows[:-_MOST_ROWS]
                self._write_soon()

    def _write_soon(self) -> None:
        if not self._due:
            self._due = True
            self._writer.loop.call_soon_threadsafe(self._schedule)

    # however long Redis is away

    async def children_results(self) -> dict[str, Any]:
        return await self._answered(flows.results)

    async def children_failures(self) -> dict[str, str]:
        return await self._answered(flows.failures)

    async def drop_children(self) -> None:
        await self._answered(flows.drop)

    async def update_data(self, data: str) -> None:
        job = self._job

        async def update(backend: Backend, job: ActiveJob) -> int:
            call = calls.update_data(backend.keys[job.queue], job, data)
            answer: int = await run_script(backend.connection, Purpose.PROGRESS, call)
            return answer

        if await self._writer.sent(job, update, byte_size(data), "the job's new data") < 0:
            msg = f"job {job.id} on {job.queue} is gone: its data was not updated"
            raise JobNotFound(msg)
        job.data = data.encode()

    @property
    def is_closed(self) -> bool:
        return self._closed

    async def record_step(self, name: str, result: str) -> bytes:
        """Record a step, even if whoever waits for that is cancelled: it was paid for.

        Raises LockLost if the run is over or the job is not ours any more, and InvalidResult if the
        job would keep too much.
        """
        if self._closed:
            msg = f"step {name!r} was not recorded: this run of the job is over"
            raise LockLost(msg)
        if self._recording is None:
            self._recording = {}
        size, pending = byte_size(result), sum(self._recording.values())
        self._writer.step_limits.check(self._job, name, size, pending)
        recording = self._writer.loop.create_task(
            self._record_step(name, result), name=f"step {name}"
        )
        self._recording[recording] = size
        recording.add_done_callback(self._recording.pop)
        return await asyncio.shield(recording)

    async def _record_step(self, name: str, result: str) -> bytes:
        held, asked_at = self._held, time.monotonic()

        async def record(backend: Backend, job: ActiveJob) -> steps.Recorded:
            nonlocal asked_at
            asked_at = time.monotonic()
            try:
                return await steps.record(backend, job, name, result)
            except LockLost:
                if not self._writer.may_reclaim(held):
                    raise
                keys, seconds = backend.keys[job.queue], backend.lock_duration
                if not await reclaim(backend.connection, keys, job, seconds):
                    raise
                return await steps.record(backend, job, name, result)

        what = f"the result of step {name!r}"
        recorded = await self._writer.sent(self._job, record, byte_size(result), what)
        self._job.steps[name] = recorded.result
        if recorded.renewed:
            held.renewed_at = max(held.renewed_at, asked_at)
        return recorded.result

    async def _answered(self, ask: Callable[[Backend, ActiveJob], Awaitable[T]]) -> T:
        return await self._writer.answered(self._job, ask)

    def _schedule(self) -> None:
        if not self._due or self._timer is not None or self._closed:
            return
        loop = self._writer.loop
        pause = self._writer.interval * _SLOWER**self._losses
        at = max(loop.time(), self._written_at + pause)
        self._timer = loop.call_at(at, self._start_writing)

    def _start_writing(self) -> None:
        self._timer = None
        self._writing = self._writer.loop.create_task(self._write(), name="convolab-report")

    async def _write(self) -> None:
        with self._lock:
            progress, self._progress = self._progress, None
            rows, self._rows = self._rows or [], None
            self._due = False
        if progress is None and not rows:
            return
        size = byte_size(progress or "") + sum(map(byte_size, rows))
        if size > self._writer.max_size:
            _log.warning("job.report_too_large", job_id=self._job.id, bytes=size)
            return
        self._written_at = self._writer.loop.time()
        try:
            await self._writer.write(self._job, progress, rows)
        except RedisUnavailable as error:
            # Progress is news, not the job: what could not be told fails no job.
            _log.warning("job.report_lost", job_id=self._job.id, bytes=size, error=str(error))
            self._losses += isinstance(error, ReplyLost)
            if self._losses == _MOST_LOSSES:  # others' commands were lost with each of them
                self._closed = True
                _log.error("job.reports_given_up", job_id=self._job.id, bytes=size)
        else:
            self._losses = 0

    def close(self) -> None:
        """Write nothing more: the job is another worker's."""
        self._closed = True
        for recording in self._recording or ():
            recording.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            self._writing.cancel()

    def finish(self) -> Coroutine[Any, Any, None] | None:
        """Take nothing more, though a handler that was abandoned may go on; and write the rest."""
        self._closed = True
        is_written = not self._due and self._writing is None and not self._recording
        return None if is_written else self._finish()

    async def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._recording:
            try:
                await asyncio.wait(self._recording)
            except asyncio.CancelledError:
                self.close()
                raise
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if self._due:
            await self._write()
