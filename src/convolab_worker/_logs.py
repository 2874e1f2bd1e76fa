"""The library's own log lines, and those of jobs. No log call can change a job's outcome.

They go through structlog as the application has configured it. A processor, a renderer or a logger
of the application that raises costs its line, and nothing else; a logger that is to be awaited
(``AsyncBoundLogger``) is called at once.

structlog itself is imported by the first line that needs it, which takes 10 ms and 2 MB. No line
needs it if the command line has set up the log, and the application has not changed that.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import structlog

    Write = Callable[[str, Mapping[str, Any]], Any]
    JobNames = tuple[str, str, str, str | None, int]  # in the order of NAMES
    WriteJob = Callable[[str, int | None, JobNames], None]

# What a job's names are called in log lines. `name` is the logger's, in the records of ``logging``.
NAMES = ("job_id", "job_name", "queue", "kind", "attempt")


class DirectLog(Protocol):
    """Writes lines as structlog would, without structlog; no writer raises."""

    def writer(self, level: str) -> Write | None:
        """Returns the function that writes a line of that level; None if such lines are dropped."""

    def job_writer(self) -> WriteJob | None:
        """Returns a quicker function for jobs' lines of level info, if there is one."""

    def is_what_structlog_does(self) -> bool:
        """Whether structlog is not imported, or is configured to do the same."""


_direct: list[DirectLog] = []


def use_direct(direct: DirectLog) -> None:
    """Has ``direct`` write the library's lines, while structlog would write the same."""
    _direct[:] = [direct]


def _direct_now() -> DirectLog | None:
    return _direct[0] if _direct and _direct[0].is_what_structlog_does() else None


class Log:
    """A logger of the library, by structlog's name ``convolab_worker``; no method raises."""

    __slots__ = ("_logger",)

    def __init__(self, logger: Any = None) -> None:
        self._logger = logger

    def bound(self) -> BoundLog:
        """Returns a log that takes its configuration now, and is quicker for it."""
        try:
            direct = None if self._logger is not None else _direct_now()
            if direct is not None:
                writers = [direct.writer(level) for level in BoundLog.LEVELS]
                return BoundLog(*writers, job=direct.job_writer())
            logger = (self._logger or _own_logger()).bind()
            logger = getattr(logger, "sync_bl", logger)
            is_enabled = getattr(logger, "is_enabled_for", None)
            tells = is_enabled is None or bool(is_enabled(logging.INFO))
            methods = (_taken_apart(getattr(logger, level)) for level in BoundLog.LEVELS)
            return BoundLog(*methods, tells=tells)
        except Exception as error:  # noqa: BLE001 - whatever the application's configuration raises
            _tell_once(error)
            return BoundLog(None, None, None)

    def debug(self, event: str, **keys: Any) -> None:
        self._write("debug", event, keys)

    def info(self, event: str, **keys: Any) -> None:
        self._write("info", event, keys)

    def warning(self, event: str, **keys: Any) -> None:
        self._write("warning", event, keys)

    def error(self, event: str, **keys: Any) -> None:
        self._write("error", event, keys)

    def critical(self, event: str, **keys: Any) -> None:
        self._write("critical", event, keys)

    def exception(self, event: str, **keys: Any) -> None:
        """Writes the exception that is being handled, too."""
        self._write("error", event, {"exc_info": sys.exc_info(), **keys})

    def _write(self, level: str, event: str, keys: dict[str, Any]) -> None:
        try:
            logger = self._logger
            if logger is None:
                if (direct := _direct_now()) is not None:
                    if (write := direct.writer(level)) is not None:
                        write(event, keys)
                    return
                logger = _own_logger()
            answer = getattr(logger, level)(event, **keys)
            if answer is not None and inspect.iscoroutine(answer):
                answer.close()
                getattr(logger.bind().sync_bl, level)(event, **keys)
        except Exception as error:  # noqa: BLE001 - as above
            _tell_once(error)


@functools.cache
def _own_logger() -> Any:
    """The library's logger; it looks at the configuration at each call, which may come late."""
    import structlog

    return structlog.wrap_logger(
        None, logger_factory_args=("convolab_worker",), cache_logger_on_first_use=False
    )


class BoundLog:
    """A logger of the library as it is configured now, for lines of each job; no method raises.

    ``job`` writes a line of level info: its event, how many milliseconds the job ran, if it has
    ended, and its names. The others take a line's keys as one mapping. ``tells`` is whether lines
    of level info go anywhere.
    """

    LEVELS = ("info", "warning", "error")
    __slots__ = ("error", "job", "tells", "warning")

    def __init__(
        self,
        info: Write | None,
        warning: Write | None,
        error: Write | None,
        *,
        job: WriteJob | None = None,
        tells: bool = True,
    ) -> None:
        self.job = job or of_jobs(info or _nothing)
        self.warning, self.error = warning or _nothing, error or _nothing
        self.tells = tells and info is not None


def _nothing(_event: str, _keys: Mapping[str, Any]) -> None:
    """Writes no line: those of this level go nowhere."""


def named(names: JobNames) -> dict[str, Any]:
    """A job's names as keys of a log line."""
    return dict(zip(NAMES, names, strict=True))


def of_jobs(write: Write) -> WriteJob:
    """Returns the function for the lines of jobs, made of the one for all others."""

    def write_job(event: str, duration_ms: int | None, names: JobNames) -> None:
        keys = dict(zip(NAMES, names, strict=True))
        write(event, keys if duration_ms is None else {"duration_ms": duration_ms, **keys})

    return write_job


def never_raising(write: Write) -> Write:
    """Returns a ``write`` that never raises; its first error is told."""

    def write_line(event: str, keys: Mapping[str, Any]) -> None:
        try:
            write(event, keys)
        except Exception as error:  # noqa: BLE001 - as above
            _tell_once(error)

    return write_line


def _taken_apart(write: Callable[..., Any]) -> Write:
    """Returns a method of structlog's with the keys as one mapping; it never raises."""

    def write_line(event: str, keys: Mapping[str, Any]) -> None:
        try:
            answer = write(event, **keys)
            if answer is not None and inspect.iscoroutine(answer):
                answer.close()
                _tell_once(TypeError("has to be awaited"))
        except Exception as error:  # noqa: BLE001 - as above
            _tell_once(error)

    return write_line


def bound_logger(
    name: str, first: structlog.typing.Processor, keys: Mapping[str, Any]
) -> structlog.typing.FilteringBoundLogger:
    """Returns the application's logger of that name with ``keys``; ``first`` sees each line first.

    None of its methods raises, or has to be awaited.
    """
    import structlog

    config = structlog.get_config()
    try:
        factory = config["logger_factory"]
        return _bound(
            None if factory is None else factory(name),
            [first, *config["processors"]],
            _harmless(config["wrapper_class"] or structlog.BoundLogger),
            keys,
        )
    except Exception as error:  # noqa: BLE001 - as above
        _tell_once(error)
        return _bound(structlog.ReturnLogger(), [first], _harmless(structlog.BoundLogger), keys)


def _bound(
    logger: Any, processors: list[structlog.typing.Processor], wrapper: type[Any], keys: Any
) -> structlog.typing.FilteringBoundLogger:
    import structlog

    lazy = structlog.wrap_logger(
        logger, processors=processors, wrapper_class=wrapper, cache_logger_on_first_use=True
    )
    bound: structlog.typing.FilteringBoundLogger = lazy.bind(**keys)
    return bound


@functools.cache
def _harmless(wrapper: type[Any]) -> type[Any]:
    """Returns a bound logger like ``wrapper`` whose methods write at once, and never raise."""
    import structlog

    if not issubclass(wrapper, structlog.BoundLoggerBase):
        wrapper = structlog.stdlib.BoundLogger

    class Harmless(wrapper):  # type: ignore[misc]
        """A bound logger that loses what it can't write."""

        def _proxy_to_logger(self, *args: Any, **keys: Any) -> Any:
            try:
                return super()._proxy_to_logger(*args, **keys)
            except Exception as error:  # noqa: BLE001 - as above
                _tell_once(error)
                return None

    return Harmless


@functools.cache
def _told() -> list[str]:
    return []


def _tell_once(error: Exception) -> None:
    """Says on standard error, for the first line that is lost, why lines are lost."""
    if _told():
        return
    _told().append(repr(error))
    with contextlib.suppress(Exception):  # standard error is closed, too; the jobs go on
        sys.stderr.write(f"convolab_worker: log lines are lost, the logger raises {error!r}\n")
