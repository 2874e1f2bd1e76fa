"""Sets up the command line's logging: one stream, one format."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import EventDict, Processor, WrappedLogger


_called_with: list[tuple[str, str]] = []


def configured() -> tuple[str, str] | None:
    """The level and the format that ``configure_logging`` was called with, if it was."""
    return _called_with[0] if _called_with else None


def configure_logging(level: str, fmt: str, stream: TextIO | None = None) -> None:
    """Send the lines of structlog, of ``logging`` and of ``warnings`` to one stream, in one format.

    ``level`` is a name such as ``info``. ``fmt`` is ``json`` for a line of JSON per event,
    ``text`` for readable text, ``auto`` for text on a terminal and JSON elsewhere. The stream
    is standard error by default. Programs call this; the library itself never does.
    """
    _called_with[:] = [(level, fmt)]
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    text = fmt == "text" or (fmt == "auto" and terminal)
    least = logging.getLevelNamesMapping()[level.upper()]
    lines = _Lines(stream)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render = _text_rendering(colors=terminal) if text else _json_rendering()
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    _configure_stdlib(lines, least, shared, render)


class _Lines:
    """Writes whole lines to a stream, from any thread.

    Lines for a stream that is closed are lost: logging never breaks the work that it reports.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # a closed pipe; a closed file
                return

    debug = info = warning = warn = error = critical = fatal = exception = log = msg


class _StdlibHandler(logging.Handler):
    """Writes the records of the standard library's ``logging`` to the same stream."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.msg(self.format(record))
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)


def _configure_stdlib(
    lines: _Lines, least: int, shared: Sequence[Processor], render: Sequence[Processor]
) -> None:
    """Give the root logger our handler, in the place of one from an earlier call."""
    root = logging.getLogger()
    for earlier in [known for known in root.handlers if isinstance(known, _StdlibHandler)]:
        root.removeHandler(earlier)
    handler = _StdlibHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root.addHandler(handler)
    root.setLevel(least)
    logging.captureWarnings(capture=True)


def _text_rendering(*, colors: bool) -> list[Processor]:
    console = structlog.dev.ConsoleRenderer(
        colors=colors and not os.environ.get("NO_COLOR"),
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
    )

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        try:
            return console(logger, method, dict(event))
        except Exception:  # noqa: BLE001 - an object whose repr raises
            return _as_json(logger, method, event)

    return [_one_line, render]


def _json_rendering() -> list[Processor]:
    return [structlog.processors.format_exc_info, _one_line, _head_first, _as_json]


def _one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Strip the event's text: that of a Python warning ends in a line break."""
    event["event"] = str(event.get("event", "")).strip()
    return event


def _head_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    head = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return head | dict(event)


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return one line of JSON; a value that JSON can't hold becomes its ``repr``."""
    try:
        return json.dumps(event, default=_repr, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # keys that are no strings, cycles, too deep
        return json.dumps({str(key): _repr(value) for key, value in event.items()})


def _repr(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001 - no object may break a log line
        return f"<{type(value).__name__}: repr raised {type(error).__name__}>"
