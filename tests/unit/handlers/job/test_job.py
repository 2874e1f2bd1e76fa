"""Job: what a handler sees of it, and what it reports."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.errors import ConfigurationError
from convolab_worker.handlers.job.children import Child
from convolab_worker.handlers.job.job import AwaitChildren, Job
from tests.unit.worker.execution.trials import Quiet


class Notes(Quiet):
    """A reporter that keeps what it is told."""

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


def active_job(**changes: Any) -> ActiveJob:
    """A job that was fetched."""
    fields = {"queue": "q", "id": "7", "token": "t", "name": "work", "data": b"{}", "opts": {}}
    return ActiveJob(**{**fields, **changes})


def a_job(notes: Notes | None = None, **changes: Any) -> Job[Any]:
    """The same job, as its handler sees it."""
    return Job(active_job(**changes), kind="audio", data={"secret": 1}, reporter=notes or Notes())


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
async def test_results_and_failures_of_children_come_from_the_reporter() -> None:
    """By their keys."""
    notes = Notes()
    notes.results, notes.failures = {"a": 1}, {"b": "no voice"}
    job = a_job(notes)

    assert await job.children_results() == {"a": 1}
    assert await job.children_failures() == {"b": "no voice"}


@pytest.mark.asyncio
async def test_children_are_dropped_by_the_reporter() -> None:
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
            "job_id": "7", "job_name": "work", "queue": "q", "kind": "audio", "attempt": 1,
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
            a_job(notes).log.exception("broke", line=3)

    assert notes.rows == ["[error] broke line=3"]
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
