"""What a log line looks like: JSON, Google Cloud's JSON, or text for people.

Each format is one structlog processor that does everything, from an event to the line's bytes.
structlog's own chain of processors for the same line costs three times as much, which was more than
all the rest of a short job.
"""

from __future__ import annotations

import contextvars
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from convolab_worker.telemetry.log_context import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from types import FrameType

    from structlog.typing import EventDict, WrappedLogger

    Format = Callable[[WrappedLogger, str, EventDict], bytes]

# Methods of a logger that are not named after levels.
_LEVELS = {"exception": "error", "warn": "warning", "fatal": "critical", "msg": "info"}
_SEVERITIES = {"notset": "DEFAULT"}
_PREFIX_LENGTH = len(PREFIX)
# Modules whose frames lead into the log; a line never comes from them.
_LOGGING_MODULES = ("structlog.", "logging", __package__ or "", "convolab_worker._logs")


def json_line(_logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    """A line of JSON: time, level, event, then the keys as they were given."""
    level = _LEVELS.get(method, method)
    line: dict[str, Any] = {"timestamp": _now(), "level": level, "event": _text(event)}
    _add(line, event)
    line["level"] = level
    return encode_line(line)


class GoogleLine:
    """A line of JSON as Google Cloud's logging and error reporting read it.

    ``project`` is the id of the Google Cloud project, for the names of traces.
    """

    def __init__(self, project: str | None) -> None:
        self._traces = f"projects/{project}/traces/" if project else ""

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        """Render one event."""
        level = _LEVELS.get(method, method)
        severity = _SEVERITIES.get(level, level.upper())
        line: dict[str, Any] = {"severity": severity, "message": _text(event), "time": _now()}
        _add(line, event)
        line["severity"] = severity
        if (traceback := line.pop("exception", None)) is not None:
            line["stack_trace"] = traceback
        if (frame := _caller(sys._getframe(1))) is not None:  # noqa: SLF001 - its documented use
            code = frame.f_code
            line["logging.googleapis.com/sourceLocation"] = {
                "file": code.co_filename,
                "line": str(frame.f_lineno),
                "function": code.co_name,
            }
        self._add_trace(line)
        return encode_line(line)

    def _add_trace(self, line: dict[str, Any]) -> None:
        tracing = sys.modules.get("opentelemetry.trace")
        if tracing is None:
            return
        context = tracing.get_current_span().get_span_context()
        if context.is_valid:
            line["logging.googleapis.com/trace"] = f"{self._traces}{context.trace_id:032x}"
            line["logging.googleapis.com/spanId"] = f"{context.span_id:016x}"
            line["logging.googleapis.com/trace_sampled"] = bool(context.trace_flags.sampled)


# Control characters, which jobs' names and reasons may have, as escapes; a terminal obeys them.
_ESCAPED = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}
del _ESCAPED[ord("\n")], _ESCAPED[ord("\t")]
_QUOTED = frozenset(" \t=\r\n\"'")  # a value that has one of these is written as its repr


class _Quoted:
    """A text to be written as its repr; older versions of structlog write text as it is."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _shown(key: str, value: Any) -> Any:
    """A value as the terminal may have it; an event's text may have colours that are meant."""
    if type(value) is not str or value.isprintable() or key == "event":
        return value
    is_quoted = key != "exception" and not _QUOTED.isdisjoint(value)
    return _Quoted(value) if is_quoted else value.translate(_ESCAPED)


class TextLine:
    """A line to be read by people."""

    def __init__(self, *, colors: bool) -> None:
        import structlog

        self._add_stack = structlog.processors.StackInfoRenderer()
        self._console = structlog.dev.ConsoleRenderer(
            colors=colors and not os.environ.get("NO_COLOR"),
            exception_formatter=structlog.dev.plain_traceback,
            sort_keys=False,
        )

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        """Render one event."""
        level = _LEVELS.get(method, method)
        line: dict[str, Any] = {"timestamp": _now(), "level": level, "event": _text(event)}
        line.update(event)
        line["level"] = level
        _add_context(line)
        self._add_stack(logger, method, line)
        try:
            text = self._console(logger, method, {key: _shown(key, line[key]) for key in line})
        except Exception:  # noqa: BLE001 - an object whose repr raises
            event["event"] = line["event"]
            return json_line(logger, method, event)
        return f"{text}\n".encode("utf-8", "backslashreplace")


def encode_line(line: MutableMapping[str, Any]) -> bytes:
    """One line of JSON with its end; a value that JSON can't hold becomes its ``repr``."""
    try:
        return _encode(line) + b"\n"
    except Exception:  # noqa: BLE001 - lone surrogates, odd keys, cycles: no object may break a line
        return _encode_anything(line) + b"\n"


def _encode_anything(line: MutableMapping[str, Any]) -> bytes:
    try:
        text = json.dumps(line, default=_repr, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps({str(key): _repr(value) for key, value in line.items()})
    return text.encode("utf-8", "backslashreplace")


def _repr(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001 - no object may break a log line
        return f"<{type(value).__name__}: repr raised {type(error).__name__}>"


encoder = msgspec.json.Encoder(enc_hook=_repr)
_encode = encoder.encode


def _text(event: EventDict) -> str:
    """Take the event's text out; that of a Python warning ends in a line break."""
    return str(event.pop("event", "")).strip()


def _add(line: dict[str, Any], event: EventDict) -> None:
    """Add the event's keys and the context's; a traceback is text under ``exception``."""
    if "exc_info" in event or "stack_info" in event:
        import structlog

        event = structlog.processors.StackInfoRenderer()(None, "", event)
        event = structlog.processors.format_exc_info(None, "", event)
    line.update(event)
    _add_context(line)


def _add_context(line: dict[str, Any]) -> None:
    """Add what is bound to the context, as structlog's ``merge_contextvars`` does."""
    for name, value in bound_to(contextvars.copy_context()).items():
        line.setdefault(name, value)


def bound_to(context: contextvars.Context) -> dict[str, Any]:
    """What is bound to a context: each of its log lines has these keys."""
    bound = {}
    for variable, value in context.items():
        if value is not Ellipsis and variable.name.startswith(PREFIX):
            bound[variable.name[_PREFIX_LENGTH:]] = value
    return bound


def _caller(frame: FrameType | None) -> FrameType | None:
    """The frame that wrote the line: the innermost one outside of logging libraries."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith(_LOGGING_MODULES) and module != "structlog":
            return frame
        frame = frame.f_back
    return None


_second: tuple[str, str] = ("", "")


def _now() -> str:
    return time_text(time.time_ns())


def time_text(at: int) -> str:
    """A time in nanoseconds as text in UTC, with microseconds; the rest is formed once a second."""
    global _second  # noqa: PLW0603 - the last one, which the next line most likely has too
    digits = str(at)
    second, start = _second  # one read: other threads write it too
    if second != digits[:-9]:
        second = digits[:-9]
        start = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(int(second)))
        _second = (second, start)
    return f"{start}{digits[-9:-3]}Z"
