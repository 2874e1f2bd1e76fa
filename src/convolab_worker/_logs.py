"""The library's own log lines, and those of jobs: no call of a log changes what becomes of a job.

They go through structlog as the application has configured it. A processor, a renderer or a logger
of the application that raises costs its line, and nothing else; a logger that is to be awaited
(``AsyncBoundLogger``) is called at once.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Log:
    """A logger of the library, by structlog's name ``convolab_worker``; no method raises."""

    __slots__ = ("_logger",)

    def __init__(self, logger: Any = None) -> None:
        # The only place that asks for structlog's: whoever has that one may raise. It looks at the
        # configuration at each call, so that an application may configure logging late, or anew.
        own = structlog.wrap_logger(
            None, logger_factory_args=("convolab_worker",), cache_logger_on_first_use=False
        )
        self._logger = own if logger is None else logger

    def bound(self) -> BoundLog:
        """Returns a log that takes its configuration now, and is quicker for it."""
        try:
            logger = self._logger.bind()
            return BoundLog(getattr(logger, "sync_bl", logger))
        except Exception as error:  # noqa: BLE001 - whatever the application's configuration raises
            _tell_once(error)
            return BoundLog(self)

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
            answer = getattr(self._logger, level)(event, **keys)
            if answer is not None and inspect.iscoroutine(answer):
                answer.close()
                getattr(self._logger.bind().sync_bl, level)(event, **keys)
        except Exception as error:  # noqa: BLE001 - as above
            _tell_once(error)


class BoundLog:
    """A logger of the library as it is configured now, for lines of each job; no method raises.

    Each method takes a line's keys as one mapping, which is not taken apart and put together
    again on the way to structlog. ``tells`` is whether lines of level info go anywhere.
    """

    __slots__ = ("error", "info", "tells", "warning")

    def __init__(self, logger: Any) -> None:
        self.info = _never_raising(logger.info)
        self.warning = _never_raising(logger.warning)
        self.error = _never_raising(logger.error)
        is_enabled = getattr(logger, "is_enabled_for", None)
        self.tells = is_enabled is None or bool(is_enabled(logging.INFO))


def _never_raising(write: Callable[..., Any]) -> Callable[[str, Mapping[str, Any]], None]:
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
    lazy = structlog.wrap_logger(
        logger, processors=processors, wrapper_class=wrapper, cache_logger_on_first_use=True
    )
    bound: structlog.typing.FilteringBoundLogger = lazy.bind(**keys)
    return bound


@functools.cache
def _harmless(wrapper: type[Any]) -> type[Any]:
    """Returns a bound logger like ``wrapper`` whose methods write at once, and never raise."""
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
    with contextlib.suppress(Exception):  # nobody hears; the jobs go on
        sys.stderr.write(f"convolab_worker: log lines are lost, the logger raises {error!r}\n")
