"""Logging: one stream, one format, whatever is logged."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from convolab_worker._logs import Log
from convolab_worker.telemetry.logging import configure_logging
from tests.support.log_setup import logging_restored


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class BrokenStream(io.StringIO):
    """A stream whose reader has gone away."""

    def write(self, _text: str) -> int:
        """Fail as a closed pipe does."""
        raise BrokenPipeError


class Unspeakable:
    """An object that can't even be shown."""

    def __repr__(self) -> str:
        msg = "no"
        raise RuntimeError(msg)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with logging_restored():
        yield


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return what was logged, a dictionary a line."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_start_with_time_level_and_event() -> None:
    """A line has an ISO time in UTC, the level, the event, then the keys as they were given."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)

    structlog.get_logger().bind(job_id="7").info("job.completed", duration_ms=12, kind="audio")

    (line,) = json_lines(stream)
    assert list(line) == ["timestamp", "level", "event", "job_id", "duration_ms", "kind"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["event"], line["duration_ms"]) == ("info", "job.completed", 12)


def test_lines_below_the_level_are_left_out() -> None:
    """A debug line does not show at info, of structlog or of the standard library."""
    stream = io.StringIO()
    configure_logging("warning", "json", stream)

    structlog.get_logger().info("quiet")
    logging.getLogger("asyncio").info("quiet too")
    structlog.get_logger().warning("loud")

    assert [line["event"] for line in json_lines(stream)] == ["loud"]


def test_context_variables_are_in_every_line() -> None:
    """What is bound to the context shows in the lines of both logging systems."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)

    with structlog.contextvars.bound_contextvars(worker="w1"):
        structlog.get_logger().info("one")
        logging.getLogger("aiohttp").info("two")

    assert [line["worker"] for line in json_lines(stream)] == ["w1", "w1"]


def test_an_exception_is_a_traceback_in_one_json_line() -> None:
    """A failure with its traceback stays one line of JSON, without local variables."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    password = "hunter2"  # noqa: F841 - must not show

    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger().exception("job.failed")

    (line,) = json_lines(stream)
    assert line["exception"].startswith("Traceback (most recent call last):")
    assert line["exception"].endswith("ZeroDivisionError: division by zero")
    assert "hunter2" not in line["exception"]


def test_standard_logging_and_warnings_come_in_the_same_format() -> None:
    """Other libraries' lines have the same keys, and the name of their logger."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    warnings.simplefilter("always")

    logging.getLogger("aiohttp.access").info("%s %s", "GET", "/wake")
    warnings.warn("careful", UserWarning, stacklevel=1)

    access, warning = json_lines(stream)
    assert (access["event"], access["logger"], access["level"]) == (
        "GET /wake",
        "aiohttp.access",
        "info",
    )
    assert warning["level"] == "warning"
    assert "UserWarning: careful" in warning["event"]


def test_whatever_is_logged_the_line_is_json() -> None:
    """Objects, circles, odd keys and objects that can't be shown break no line."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    circle: dict[str, Any] = {}
    circle["self"] = circle
    log = structlog.get_logger()

    log.info("object", value=int)
    log.info("circle", value=circle)
    log.info("unspeakable", value=Unspeakable())
    log.info("key", value={(1, 2): 3})

    values = [line["value"] for line in json_lines(stream)]
    assert values == [
        "<class 'int'>",
        "{'self': {...}}",
        "<Unspeakable: repr raised RuntimeError>",
        {"(1, 2)": 3},
    ]


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    """The automatic format looks at the stream."""
    terminal, pipe = Terminal(), io.StringIO()

    configure_logging("info", "auto", terminal)
    structlog.get_logger().info("to.terminal")
    configure_logging("info", "auto", pipe)
    structlog.get_logger().info("to.pipe")

    assert "to.terminal" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert json_lines(pipe)[0]["event"] == "to.pipe"


def test_auto_is_google_s_json_on_cloud_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Cloud Run service or job gets what Cloud Logging reads without being told."""
    stream = io.StringIO()
    monkeypatch.setenv("CLOUD_RUN_JOB", "drain")

    configure_logging("info", "auto", stream)
    structlog.get_logger().info("job.started", job_id="7")

    (line,) = json_lines(stream)
    assert (line["severity"], line["message"], line["job_id"]) == ("INFO", "job.started", "7")


def test_google_lines_have_severity_message_time_place_and_stack() -> None:
    """An error line is one that Error Reporting takes up, and names the line that wrote it."""
    stream = io.StringIO()
    configure_logging("info", "google", stream)

    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger().exception("job.failed", severity=3)
    logging.getLogger("httpx").error("refused", extra={"status": 429})
    Log().warning("redis.lost")

    own, foreign, librarys = json_lines(stream)
    place = own["logging.googleapis.com/sourceLocation"]
    assert list(own)[:3] == ["severity", "message", "time"]
    assert own["severity"] == "ERROR"
    assert own["stack_trace"].endswith("ZeroDivisionError: division by zero")
    assert (place["file"], place["function"]) == (
        __file__,
        "test_google_lines_have_severity_message_time_place_and_stack",
    )
    assert (foreign["severity"], foreign["message"], foreign["status"]) == ("ERROR", "refused", 429)
    for line in (foreign, librarys):
        assert line["logging.googleapis.com/sourceLocation"]["file"] == __file__


def test_google_lines_name_the_trace_that_they_belong_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within an OpenTelemetry span, a line has the trace's name as Cloud Logging links it."""
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))
    stream = io.StringIO()
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "lessons")
    configure_logging("info", "google", stream)

    with trace.use_span(trace.NonRecordingSpan(context)):
        structlog.get_logger().info("within")
    structlog.get_logger().info("outside")

    within, outside = json_lines(stream)
    assert within["logging.googleapis.com/trace"] == f"projects/lessons/traces/{0xABC:032x}"
    assert within["logging.googleapis.com/spanId"] == f"{0xDEF:016x}"
    assert within["logging.googleapis.com/trace_sampled"] is True
    assert "logging.googleapis.com/trace" not in outside


def test_colors_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text has colours on a terminal, none in a file, and none where NO_COLOR is set."""
    coloured, plain, unwanted = Terminal(), io.StringIO(), Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)

    configure_logging("info", "text", coloured)
    structlog.get_logger().info("event")
    configure_logging("info", "text", plain)
    structlog.get_logger().info("event")
    monkeypatch.setenv("NO_COLOR", "1")
    configure_logging("info", "text", unwanted)
    structlog.get_logger().info("event")

    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[" not in unwanted.getvalue()


def test_text_shows_tracebacks_and_survives_what_can_not_be_shown() -> None:
    """Readable text has the plain traceback below its line, and no object breaks it."""
    stream = io.StringIO()
    configure_logging("info", "text", stream)

    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger().exception("job.failed", job_id="7")
    structlog.get_logger().info("odd", value=Unspeakable())

    text = stream.getvalue()
    assert "job_id=7\nTraceback (most recent call last):" in text
    assert "repr raised RuntimeError" in text


def test_text_has_no_control_characters_of_jobs() -> None:
    """A terminal would obey them; what has white space too is written as its repr anyway."""
    stream = io.StringIO()
    configure_logging("info", "text", stream)

    names = {"job_name": "a\x1b[2Jb", "reason": "c \x1b[2Jd", "exception": "one\n\ttwo \x1b[2J"}
    structlog.get_logger().error("job.failed", **names)

    text = stream.getvalue()
    assert "\x1b" not in text
    assert "job_name=a\\x1b[2Jb" in text
    assert "reason='c \\x1b[2Jd'" in text
    assert "one\n\ttwo \\x1b[2J" in text


def test_a_stream_that_is_gone_breaks_nobody() -> None:
    """Logging to a closed pipe or a closed file raises nothing."""
    closed = io.StringIO()
    closed.close()

    for stream in (BrokenStream(), Closed()):
        configure_logging("info", "json", stream)
        structlog.get_logger().info("lost")
        logging.getLogger("asyncio").warning("lost")


class Closed(io.StringIO):
    """A stream that was closed under the logger."""

    def write(self, _text: str) -> int:
        """Fail as a closed file does."""
        msg = "I/O operation on closed file"
        raise ValueError(msg)


def test_configuring_twice_does_not_double_the_lines() -> None:
    """The last configuration is the one that counts."""
    first, second = io.StringIO(), io.StringIO()
    configure_logging("info", "json", first)

    configure_logging("info", "json", second)
    logging.getLogger("asyncio").warning("once")

    assert first.getvalue() == ""
    assert len(json_lines(second)) == 1
