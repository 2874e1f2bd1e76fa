"""Job: what a handler sees of it, and what becomes of its progress and its log."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from convolab_worker.bullmq.flows import Child
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import ConfigurationError, InvalidResult, RedisUnavailable
from convolab_worker.handlers.job import AwaitChildren, Job
from convolab_worker.worker.execution.progress import BufferedReporter

SOON = 5.0
LONG = 3600.0


class Notes:
    """A job's line that keeps what it is told."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.rows: list[str] = []
        self.results: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.dropped = False

    def progress(self, value: Any) -> None:
        """Keep it."""
        self.values.append(value)

    def log(self, row: str) -> None:
        """Keep it."""
        self.rows.append(row)

    async def children_results(self) -> dict[str, Any]:
        """What the test has set."""
        return self.results

    async def children_failures(self) -> dict[str, str]:
        """What the test has set."""
        return self.failures

    async def drop_children(self) -> None:
        """Keep that it was asked for."""
        self.dropped = True


class Writes:
    """Where a job's line writes to: keeps each write, or refuses it."""

    def __init__(self, interval: float = LONG, *, down: bool = False) -> None:
        self.interval = interval
        self.loop = asyncio.get_running_loop()
        self.down = down
        self.made: list[tuple[str | None, list[str]]] = []
        self.written = asyncio.Event()

    async def write(self, _lease: ActiveJob, progress: str | None, rows: list[str]) -> None:
        """Keep a write."""
        self.made.append((progress, rows))
        self.written.set()
        if self.down:
            msg = "gone"
            raise RedisUnavailable(msg)

    def line(self) -> BufferedReporter:
        """The line of a job that writes here."""
        return BufferedReporter(a_lease(), cast("Reports", self))

    @property
    def progress(self) -> list[Any]:
        """The progress of each write that had one."""
        return [json.loads(text) for text, _ in self.made if text is not None]

    @property
    def rows(self) -> list[str]:
        """All rows that were written."""
        return [row for _, rows in self.made for row in rows]


def a_lease(**changes: Any) -> ActiveJob:
    """A job that was taken."""
    fields = {"queue": "q", "id": "7", "token": "t", "name": "work", "data": b"{}", "opts": {}}
    return ActiveJob(**{**fields, **changes})


def a_job(notes: Notes | None = None, **changes: Any) -> Job[Any]:
    """The same job, as its handler sees it."""
    return Job(a_lease(**changes), kind="audio", data={"secret": 1}, reporter=notes or Notes())


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave structlog as it was."""
    yield
    structlog.reset_defaults()


# what it is


def test_a_job_shows_what_its_handler_needs() -> None:
    """Which one it is, where it came from, and which attempt this is of how many."""
    job = a_job(attempts_made=1, opts={"attempts": 3})

    assert (job.id, job.name, job.queue, job.kind) == ("7", "work", "q", "audio")
    assert (job.attempt, job.max_attempts, job.data) == (2, 3, {"secret": 1})
    assert not job.cancelled.is_set()


def test_a_job_is_shown_without_its_data() -> None:
    """A log line that has a job in it leaks nothing."""
    assert repr(a_job()) == "<Job work 7 on q, attempt 1>"


# children


@pytest.mark.asyncio
async def test_asking_for_children_ends_the_handler() -> None:
    """With something that no ``except Exception`` catches, and that carries them."""
    children = [Child("a"), Child("b")]

    with pytest.raises(AwaitChildren) as caught:
        await a_job().enqueue_children(children)

    assert caught.value.children == tuple(children)
    assert not isinstance(caught.value, Exception)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("children", "message"),
    [
        ([], "at least one child"),
        ([Child("a"), Child("a")], "two children have the key 'a'"),
        ([{"name": "a"}], "expected Child objects, got dict"),
    ],
    ids=["none", "two-of-a-key", "dictionaries"],
)
async def test_children_that_can_not_be_fail_the_handler(children: Any, message: str) -> None:
    """At the place where they were asked for, with an ordinary error."""
    with pytest.raises(ConfigurationError, match=message):
        await a_job().enqueue_children(children)


@pytest.mark.asyncio
async def test_results_and_failures_of_children_come_from_the_line() -> None:
    """By their keys."""
    notes = Notes()
    notes.results, notes.failures = {"a": 1}, {"b": "no voice"}
    job = a_job(notes)

    assert await job.children_results() == {"a": 1}
    assert await job.children_failures() == {"b": "no voice"}


@pytest.mark.asyncio
async def test_children_are_dropped_by_the_line() -> None:
    """Which knows the job's key."""
    notes = Notes()

    await a_job(notes).drop_children()

    assert notes.dropped


# the log


def test_a_logged_line_is_kept_with_the_job_too() -> None:
    """The log has the job's names, its row in Redis only what the line added."""
    notes = Notes()

    with capture_logs() as captured:
        a_job(notes).log.info("synthesising", chars=5, voice="ä")

    assert notes.rows == ["[info] synthesising chars=5 voice='ä'"]
    assert captured == [
        {
            "event": "synthesising", "log_level": "info", "chars": 5, "voice": "ä",
            "job_id": "7", "name": "work", "queue": "q", "kind": "audio", "attempt": 1,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_each_level_is_kept(level: str) -> None:
    """As the row's first word."""
    notes = Notes()

    with capture_logs():
        getattr(a_job(notes).log, level)("said")

    assert notes.rows == [f"[{level}] said"]


def test_a_line_below_the_configured_level_is_not_kept() -> None:
    """What is not logged is not written to Redis either."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    notes = Notes()

    with capture_logs():
        log = a_job(notes).log
        log.info("quiet")
        log.warning("loud")

    assert notes.rows == ["[warning] loud"]


def test_an_exception_is_logged_and_its_row_kept() -> None:
    """The row has the event; the traceback is the log's."""
    notes = Notes()

    with capture_logs() as captured:
        try:
            raise ValueError  # noqa: TRY301 - the test is of what is logged of it
        except ValueError:
            a_job(notes).log.exception("broke", reporter=3)

    assert notes.rows == ["[error] broke reporter=3"]
    assert captured[0]["exc_info"]


def test_what_is_bound_later_is_in_later_rows() -> None:
    """A handler may bind what all its lines are to have."""
    notes = Notes()

    with capture_logs():
        log = a_job(notes).log.bind(voice="low")
        log.info("one")
        log.info("two")

    assert notes.rows == ["[info] one voice='low'", "[info] two voice='low'"]


def test_one_job_has_one_logger() -> None:
    """Made when it is first asked for."""
    job = a_job()

    assert job.log is job.log


# progress


@pytest.mark.asyncio
async def test_progress_may_be_awaited_or_not() -> None:
    """Handlers in the loop await it, plain ones can't."""
    notes = Notes()
    job = a_job(notes)

    await job.progress(10)
    job.progress({"step": "mixing"})

    assert notes.values == [10, {"step": "mixing"}]


@pytest.mark.asyncio
@pytest.mark.parametrize("value", [{1}, b"x", float("inf"), object()], ids=repr)
async def test_progress_that_is_not_json_is_refused_where_it_is_reported(value: object) -> None:
    """The handler's own line is the one that fails, and nothing is written."""
    writes = Writes()
    line = writes.reporter()

    with pytest.raises(InvalidResult, match="progress"):
        line.progress(value)
    await line.finish()

    assert writes.made == []


@pytest.mark.asyncio
async def test_the_first_progress_is_written_at_once_and_the_newest_at_the_end() -> None:
    """In between, no more often than the interval allows."""
    writes = Writes(interval=LONG)
    line = writes.reporter()

    line.progress(1)
    async with asyncio.timeout(SOON):
        await writes.written.wait()
    for value in range(2, 100):
        line.progress(value)
        await asyncio.sleep(0)
    await line.finish()

    assert writes.progress == [1, 99]


@pytest.mark.asyncio
async def test_progress_is_written_again_after_the_interval() -> None:
    """The newest of those that came meanwhile."""
    writes = Writes(interval=0.01)
    line = writes.reporter()

    for value in (1, 2):
        writes.written.clear()
        line.progress(0)
        line.progress(value)
        async with asyncio.timeout(SOON):
            await writes.written.wait()
    await line.finish()

    assert writes.progress == [1, 2]


@pytest.mark.asyncio
async def test_progress_and_rows_from_many_threads_all_arrive() -> None:
    """Every row once, those of one thread in order; of the progress the last one."""
    writes = Writes(interval=0.001)
    line = writes.reporter()

    def report(thread: int) -> None:
        for number in range(50):
            line.progress([thread, number])
            line.log(f"{thread} {number}")

    threads = [threading.Thread(target=report, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await line.finish()

    assert sorted(writes.rows) == sorted(f"{t} {n}" for t in range(8) for n in range(50))
    for number in range(8):
        own = [row for row in writes.rows if row.startswith(f"{number} ")]
        assert own == [f"{number} {n}" for n in range(50)]
    assert writes.progress[-1][1] == 49


@pytest.mark.asyncio
async def test_a_job_without_news_writes_nothing() -> None:
    """Most jobs cost no command for it."""
    writes = Writes()

    await writes.reporter().finish()

    assert writes.made == []


@pytest.mark.asyncio
async def test_rows_wait_for_progress_and_progress_for_rows() -> None:
    """Both leave in one write."""
    writes = Writes()
    line = writes.reporter()

    line.log("one")
    line.progress(5)
    line.log("two")
    await line.finish()

    assert writes.made == [("5", ["one", "two"])]


@pytest.mark.asyncio
async def test_a_handler_that_logs_without_end_keeps_its_newest_rows() -> None:
    """Memory is bounded."""
    writes = Writes()
    line = writes.reporter()

    for number in range(2_500):
        line.log(str(number))
    await line.finish()

    assert writes.rows == [str(number) for number in range(1_500, 2_500)]


@pytest.mark.asyncio
async def test_a_row_can_always_be_sent() -> None:
    """A lone surrogate in it is shown as an escape."""
    writes = Writes()
    line = writes.reporter()

    line.log("bad \ud800 text")
    await line.finish()

    assert writes.rows == ["bad \\ud800 text"]


@pytest.mark.asyncio
async def test_progress_that_can_not_be_written_fails_nothing() -> None:
    """It is news, not the job."""
    writes = Writes(down=True)
    line = writes.reporter()

    with capture_logs() as captured:
        line.progress(5)
        await line.finish()

    assert [entry["event"] for entry in captured] == ["job.report_lost"]


@pytest.mark.asyncio
async def test_a_dropped_line_writes_nothing_more() -> None:
    """The job is another worker's."""
    writes = Writes(interval=0.001)
    line = writes.reporter()

    line.progress(1)
    line.close()
    line.progress(2)
    for _ in range(10):  # turns of the loop, in which a write would have begun
        await asyncio.sleep(0)

    assert writes.made == []
