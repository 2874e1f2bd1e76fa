"""Sets up the command line's logging: one stream, one format."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from convolab_worker._logs import never_raising, of_jobs, use_direct
from convolab_worker.telemetry.job_lines import form_lines, job_writer
from convolab_worker.telemetry.log_lines import GoogleLine, TextLine, json_line
from convolab_worker.telemetry.log_stream import LogStream, flush_log, use_stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from structlog.typing import EventDict, WrappedLogger

    from convolab_worker._logs import Write, WriteJob
    from convolab_worker.telemetry.log_lines import Format

# Google's platforms set these: one for a service, one for a job.
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
    lines = use_stream(stream, form_lines)
    direct = _Direct(lines, least, render)
    use_direct(direct)
    # At debug asyncio has lines for each event loop, and threads would be the first to import it.
    if "structlog" in sys.modules or least <= logging.DEBUG:
        direct.configure_structlog()
    else:
        _WhenImported.do(direct.configure_structlog)
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


class _Direct:
    """Lines in one format into one stream; structlog is configured to do the same."""

    def __init__(self, lines: LogStream, least: int, render: Format) -> None:
        self._lines, self._least, self._render = lines, least, render
        self._configured: dict[str, Any] = {}

    def configure_structlog(self) -> None:
        import structlog

        lines = self._lines
        self._configured = {
            "processors": [self._render],
            "wrapper_class": structlog.make_filtering_bound_logger(self._least),
            "logger_factory": lambda *_: lines,
            "cache_logger_on_first_use": True,
        }
        structlog.configure(**self._configured)

    def is_what_structlog_does(self) -> bool:
        structlog = sys.modules.get("structlog")
        if structlog is None or not self._configured:
            return True
        now = structlog.get_config()
        # The list is changed in place by the helpers for tests that structlog has.
        return self._configured["processors"] == [self._render] and all(
            now[name] is value for name, value in self._configured.items()
        )

    def writer(self, level: str) -> Write | None:
        if logging.getLevelNamesMapping()[level.upper()] < self._least:
            return None
        render, write = self._render, getattr(self._lines, level)
        return never_raising(
            lambda event, keys: write(render(None, level, {"event": event, **keys}))
        )

    def job_writer(self) -> WriteJob | None:
        write = self.writer("info")
        if write is None or self._render is not json_line:
            return None
        return job_writer(self._lines.write_soon, otherwise=of_jobs(write))


class _WhenImported:
    """Configures structlog as soon as it is imported; Python calls it from ``sys.meta_path``."""

    def __init__(self, configure: Callable[[], None]) -> None:
        self._configure = configure

    @classmethod
    def do(cls, configure: Callable[[], None]) -> None:
        """Call ``configure`` then, instead of what an earlier call has asked for."""
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, cls)]
        sys.meta_path.insert(0, cls(configure))

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if name != "structlog":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                self._configure()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class _StdlibHandler(logging.Handler):
    """Writes the records of the standard library's ``logging`` to the same stream."""

    def __init__(self, lines: LogStream, render: Format) -> None:
        super().__init__()
        self._lines, self._render = lines, render

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.formatter is None:
                self.formatter = _stdlib_formatter(self._render)
            line = self.format(record).encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)
            return
        write = (
            self._lines.write_now if record.levelno >= logging.WARNING else self._lines.write_soon
        )
        write(line)


def _stdlib_formatter(render: Format) -> logging.Formatter:
    import structlog

    def as_text(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return render(logger, method, event).decode()

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, as_text],
    )


def _configure_stdlib(lines: LogStream, least: int, render: Format) -> None:
    """Give the root logger our handler, and take away one of an earlier call."""
    root = logging.getLogger()
    for earlier in [known for known in root.handlers if isinstance(known, _StdlibHandler)]:
        root.removeHandler(earlier)
    root.addHandler(_StdlibHandler(lines, render))
    root.setLevel(least)
    logging.captureWarnings(capture=True)
