"""Reports: progress and log rows are written at most once an interval, the newest always."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import InvalidResult, RedisUnavailable
from convolab_worker.worker.execution.progress import BufferedReporter, ReportWriter
from convolab_worker.worker.locks import HeldLock
from tests.unit.worker.execution.trials import SOON, active_job

LONG = 3600.0


async def finished(reporter: BufferedReporter) -> None:
    """Have the reporter write what it has not written yet."""
    if (unwritten := reporter.finish()) is not None:
        await unwritten


class Writes:
    """Where a job's reporter writes to: keeps each write, or refuses it."""

    def __init__(self, interval: float = LONG, *, down: bool = False) -> None:
        self.interval = interval
        self.max_size = 2**20
        self.loop = asyncio.get_running_loop()
        self.lock = threading.Lock()
        self.down = down
        self.made: list[tuple[str | None, list[str]]] = []
        self.written = asyncio.Event()

    async def write(self, _job: ActiveJob, progress: str | None, rows: list[str]) -> None:
        """Keep a write."""
        self.made.append((progress, rows))
        self.written.set()
        if self.down:
            msg = "gone"
            raise RedisUnavailable(msg)

    def reporter(self) -> BufferedReporter:
        """The reporter of a job that writes here."""
        return BufferedReporter(HeldLock(active_job(), 0.0), cast("ReportWriter", self))

    @property
    def progress(self) -> list[Any]:
        """The progress of each write that had one."""
        return [json.loads(text) for text, _ in self.made if text is not None]

    @property
    def rows(self) -> list[str]:
        """All rows that were written."""
        return [row for _, rows in self.made for row in rows]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "value", [{1}, b"x", float("inf"), pytest.param(object(), id="object")], ids=repr
)
async def test_progress_that_is_not_json_is_refused_where_it_is_reported(value: object) -> None:
    """The handler's own line is the one that fails, and nothing is written."""
    writes = Writes()
    reporter = writes.reporter()

    with pytest.raises(InvalidResult, match="progress"):
        reporter.progress(value)
    await finished(reporter)

    assert writes.made == []


@pytest.mark.asyncio
async def test_the_first_progress_is_written_at_once_and_the_newest_at_the_end() -> None:
    """In between, no more often than the interval allows."""
    writes = Writes(interval=LONG)
    reporter = writes.reporter()

    reporter.progress(1)
    async with asyncio.timeout(SOON):
        await writes.written.wait()
    for value in range(2, 100):
        reporter.progress(value)
        await asyncio.sleep(0)
    await finished(reporter)

    assert writes.progress == [1, 99]


@pytest.mark.asyncio
async def test_progress_is_written_again_after_the_interval() -> None:
    """The newest of those that came meanwhile."""
    writes = Writes(interval=0.01)
    reporter = writes.reporter()

    for value in (1, 2):
        writes.written.clear()
        reporter.progress(0)
        reporter.progress(value)
        async with asyncio.timeout(SOON):
            await writes.written.wait()
    await finished(reporter)

    assert writes.progress == [1, 2]


@pytest.mark.asyncio
async def test_progress_and_rows_from_many_threads_all_arrive() -> None:
    """Every row once, those of one thread in order; of the progress the last one."""
    writes = Writes(interval=0.001)
    reporter = writes.reporter()

    def report(thread: int) -> None:
        for number in range(50):
            reporter.progress([thread, number])
            reporter.log(f"{thread} {number}")

    threads = [threading.Thread(target=report, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await finished(reporter)

    assert sorted(writes.rows) == sorted(f"{t} {n}" for t in range(8) for n in range(50))
    for number in range(8):
        own = [row for row in writes.rows if row.startswith(f"{number} ")]
        assert own == [f"{number} {n}" for n in range(50)]
    assert writes.progress[-1][1] == 49


@pytest.mark.asyncio
async def test_a_job_without_news_writes_nothing() -> None:
    """Most jobs cost no command for it."""
    writes = Writes()

    assert writes.reporter().finish() is None
    assert writes.made == []


@pytest.mark.asyncio
async def test_rows_wait_for_progress_and_progress_for_rows() -> None:
    """Both leave in one write."""
    writes = Writes()
    reporter = writes.reporter()

    reporter.log("one")
    reporter.progress(5)
    reporter.log("two")
    await finished(reporter)

    assert writes.made == [("5", ["one", "two"])]


@pytest.mark.asyncio
async def test_a_handler_that_logs_without_end_keeps_its_newest_rows() -> None:
    """Memory is bounded."""
    writes = Writes()
    reporter = writes.reporter()

    for number in range(2_500):
        reporter.log(str(number))
    await finished(reporter)

    assert writes.rows == [str(number) for number in range(1_500, 2_500)]


@pytest.mark.asyncio
async def test_a_row_can_always_be_sent() -> None:
    """A lone surrogate in it is shown as an escape."""
    writes = Writes()
    reporter = writes.reporter()

    reporter.log("bad \ud800 text")
    await finished(reporter)

    assert writes.rows == ["bad \\ud800 text"]


@pytest.mark.asyncio
async def test_progress_that_can_not_be_written_fails_nothing() -> None:
    """It is news, not the job."""
    writes = Writes(down=True)
    reporter = writes.reporter()

    with capture_logs() as captured:
        reporter.progress(5)
        await finished(reporter)

    assert [entry["event"] for entry in captured] == ["job.report_lost"]


@pytest.mark.asyncio
async def test_a_closed_reporter_writes_nothing_more() -> None:
    """The job is another worker's."""
    writes = Writes(interval=0.001)
    reporter = writes.reporter()

    reporter.progress(1)
    reporter.close()
    reporter.progress(2)
    for _ in range(10):  # turns of the loop, in which a write would have begun
        await asyncio.sleep(0)

    assert writes.made == []
