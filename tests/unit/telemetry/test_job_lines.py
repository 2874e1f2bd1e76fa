"""The lines that each job has: byte for byte those of any other log call, whatever its names."""

from __future__ import annotations

import contextvars
import io
import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import example, given, strategies as st

from convolab_worker._logs import BoundLog, Log, named
from convolab_worker.telemetry.log_lines import json_line, time_text
from convolab_worker.telemetry.logging import configure_logging
from tests.support.log_setup import logging_restored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convolab_worker._logs import JobNames

PLAIN: JobNames = ("7", "generate-audio", "q", "audio", 1)
NAMES: dict[str, Any] = {
    "plain": PLAIN,
    "no handler, so no kind": ("7", "gone", "q", None, 1),
    "beyond ASCII": ("ж-7", "générer 🎧", "очередь", "音声", 2),
    "quotes, breaks, controls": ('a"b\\c', "line\nbreak\r\t", "\x00\x1f\x7f\u2028", "</script>", 3),
    "half a surrogate pair": ("\ud83d", "name\udfff", "q", "audio", 1),
    "long": ("7" * 5_000, "n" * 70_000, "q", "audio", 2**63),
    "odd kind": ("7", "audio", "q", object, 1),
    "odd number": ("7", "audio", "q", "audio", float("nan")),
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with logging_restored():
        yield


def logged_to(stream: io.StringIO) -> BoundLog:
    configure_logging("info", "json", stream)
    return Log().bound()


def without_time(line: str | bytes) -> str:
    """The line without its time, which must have six digits of a second."""
    text = line if isinstance(line, str) else line.decode()
    rest, times = re.subn(r'^{"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"', "{", text)
    if not times:  # as Python's own encoder writes it
        rest, times = re.subn(r'^{"timestamp": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"', "{", text)
    assert times == 1
    return rest


@pytest.mark.parametrize("ran", [None, 0, 86_400_000])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_a_jobs_line_is_that_of_any_other_log_call(names: JobNames, ran: int | None) -> None:
    stream = io.StringIO()
    duration = {} if ran is None else {"duration_ms": ran}

    logged_to(stream).job("job.completed", ran, names)

    other = json_line(None, "info", {"event": "job.completed", **duration, **named(names)})
    assert without_time(stream.getvalue()) == without_time(other)


@given(st.integers(10**9, 2**62))
@example(1_764_205_439_000_000_000)
@example(1_764_205_438_999_999_999)
def test_a_time_is_cut_off_after_its_microseconds(nanoseconds: int) -> None:
    micros = timedelta(microseconds=nanoseconds // 1000)

    told = (datetime(1970, 1, 1, tzinfo=UTC) + micros).isoformat(timespec="microseconds")

    assert time_text(nanoseconds) == told.replace("+00:00", "Z")


def test_its_time_is_now_in_utc() -> None:
    stream = io.StringIO()
    log = logged_to(stream)

    before = datetime.now(UTC)
    log.job("job.started", None, PLAIN)
    after = datetime.now(UTC)

    assert before <= datetime.fromisoformat(json.loads(stream.getvalue())["timestamp"]) <= after


def test_what_the_application_has_bound_is_in_it_as_it_was_then() -> None:
    stream, voices = io.StringIO(), ["alto"]
    log = logged_to(stream)

    with structlog.contextvars.bound_contextvars(voices=voices, job_name="theirs"):
        log.job("job.started", None, PLAIN)
        voices.append("bass")
    log.job("job.completed", 3, PLAIN)

    started, completed = map(json.loads, stream.getvalue().splitlines())
    assert (started["voices"], started["job_name"]) == (["alto"], "generate-audio")
    assert list(completed) == ["timestamp", "level", "event", "duration_ms", *named(PLAIN)]


def test_context_variables_of_others_and_cleared_ones_change_nothing() -> None:
    stream = io.StringIO()
    log = logged_to(stream)

    def tell() -> None:
        contextvars.ContextVar[str]("current_span").set("abc")
        structlog.contextvars.bind_contextvars(voice="alto")
        structlog.contextvars.clear_contextvars()
        log.job("job.started", None, PLAIN)

    contextvars.copy_context().run(tell)

    assert list(json.loads(stream.getvalue())) == ["timestamp", "level", "event", *named(PLAIN)]


@pytest.mark.parametrize("fmt", ["json", "google", "text"])
def test_below_the_level_there_is_none(fmt: str) -> None:
    stream = io.StringIO()
    configure_logging("warning", fmt, stream)

    Log().bound().job("job.started", None, PLAIN)

    assert (stream.getvalue(), Log().bound().tells) == ("", False)


@pytest.mark.parametrize("fmt", ["google", "text"])
def test_other_formats_have_the_same_names(fmt: str) -> None:
    stream = io.StringIO()
    configure_logging("info", fmt, stream)

    Log().bound().job("job.completed", 12, PLAIN)

    for told in ("job.completed", "generate-audio", "duration_ms", "12", "audio"):
        assert told in stream.getvalue()


def test_a_stream_that_raises_anything_costs_its_line_and_nothing_else() -> None:
    class Odd(io.StringIO):
        asked = 0

        def write(self, _text: str) -> int:
            self.asked += 1
            raise LookupError

    stream = Odd()
    lines = logged_to(stream)

    lines.job("job.started", None, PLAIN)
    lines.warning("job.timed_out", named(PLAIN))

    assert stream.asked == 2
