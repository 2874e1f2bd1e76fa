"""Sets up the command line's logging: one stream, one format."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

import structlog

from convolab_worker.telemetry.log_lines import GoogleLine, TextLine, json_line
from convolab_worker.telemetry.log_stream import LogStream, flush_log, use_stream

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

    from convolab_worker.telemetry.log_lines import Format

# Each is set by Google's platforms, for a service and for a job.
_GOOGLE_VARIABLES = ("K_SERVICE", "CLOUD_RUN_JOB")
_PROJECT_VARIABLE = "GOOGLE_CLOUD_PROJECT"


_called_with: list[tuple[str, str]] = []


def configured() -> tuple[str, str] | None:
    """The level and the format that ``configure_logging`` was called with, if it was."""
    return _called_with[0] if _called_with else None


def configure_logging(level: str, fmt: str, stream: TextIO | None = None) -> None:
    """Send the lines of structlog, of ``logging`` and of ``warnings`` to one stream, in one format.

    ``level`` is a name such as ``info``. ``fmt`` is ``json`` for a line of JSON per event,
    ``google`` for JSON as Google Cloud reads it, ``text`` for readable text, ``auto`` for text on a
    terminal, ``google`` on Cloud Run and ``json`` elsewhere. The stream is standard error by
    default. Programs call this; the library itself never does.
    """
    _called_with[:] = [(level, fmt)]
    stream = sys.stderr if stream is None else stream
    least = logging.getLevelNamesMapping()[level.upper()]
    render = _format(fmt, terminal=stream.isatty())
    lines = use_stream(stream)
    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    _configure_stdlib(lines, least, render)
    atexit.unregister(flush_log)
    atexit.register(flush_log)


def _format(name: str, *, terminal: bool) -> Format:
    if name == "auto":
        on_google = any(os.environ.get(variable) for variable in _GOOGLE_VARIABLES)
        name = "text" if terminal else "google" if on_google else "json"
    if name == "text":
        return TextLine(colors=terminal)
    return GoogleLine(os.environ.get(_PROJECT_VARIABLE)) if name == "google" else json_line


class _StdlibHandler(logging.Handler):
    """Writes the records of the standard library's ``logging`` to the same stream."""

    def __init__(self, lines: LogStream) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)
            return
        write = self._lines.urge if record.levelno >= logging.WARNING else self._lines.gather
        write(line)


def _configure_stdlib(lines: LogStream, least: int, render: Format) -> None:
    """Give the root logger our handler, in the place of one from an earlier call."""

    def as_text(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return render(logger, method, event).decode()

    root = logging.getLogger()
    for earlier in [known for known in root.handlers if isinstance(known, _StdlibHandler)]:
        root.removeHandler(earlier)
    handler = _StdlibHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, as_text],
        )
    )
    root.addHandler(handler)
    root.setLevel(least)
    logging.captureWarnings(capture=True)
