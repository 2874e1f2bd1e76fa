"""How the program logs, and what it counts: both in memory, neither in Redis."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from convolab_worker.telemetry.recent_runs import RecentRuns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import EventDict, Processor, WrappedLogger

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Upper bounds of the histograms' buckets, in seconds; one more bucket takes the rest."""


class Histogram:
    """How often a time fell into each bucket, with their count, sum and longest."""

    __slots__ = ("_buckets", "count", "longest", "total")

    def __init__(self) -> None:
        """Start with nothing observed."""
        self._buckets = [0] * (len(BUCKETS) + 1)
        self.count = 0
        self.total = 0.0
        self.longest = 0.0

    def observe(self, seconds: float) -> None:
        """Count one time; a negative one, from clocks that disagree, counts as zero."""
        seconds = max(seconds, 0.0)
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def snapshot(self) -> dict[str, Any]:
        """Return count, sum and longest, and how many were at most each bound."""
        bounds = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
        return {
            "count": self.count,
            "sum": self.total,
            "max": self.longest,
            "buckets": dict(zip(bounds, accumulate(self._buckets), strict=True)),
        }

    def at_most(self, part: float) -> float | None:
        """The bound that this part (0 to 1) of the times did not pass; None without any."""
        if not self.count:
            return None
        wanted, seen = part * self.count, 0
        for bound, count in zip(BUCKETS, self._buckets, strict=False):
            seen += count
            if seen >= wanted:
                return min(float(bound), self.longest)
        return self.longest


class Telemetry:
    """What a worker did since it started, by kind of job.

    Takes every time as an argument; call it from one thread.
    """

    __slots__ = ("_durations", "_jobs", "_waits", "recent_runs")

    def __init__(self, started_at: float = 0.0) -> None:
        """Start with no job finished; at ``started_at``, epoch seconds."""
        self.recent_runs = RecentRuns(started_at)
        self._jobs: dict[str, dict[str, int]] = {}
        self._durations: dict[str, Histogram] = {}
        self._waits: dict[str, Histogram] = {}

    def job_finished(self, kind: str, outcome: str, duration: float, waited: float) -> None:
        """Count one run of a job.

        ``duration`` is the seconds from start to outcome, ``waited`` those from the moment
        the job could have started to its start.
        """
        outcomes = self._jobs.get(kind)
        if outcomes is None:
            outcomes = self._jobs[kind] = {}
            self._durations[kind], self._waits[kind] = Histogram(), Histogram()
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self._durations[kind].observe(duration)
        self._waits[kind].observe(waited)

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything, ready for JSON: ``jobs``, ``duration`` and ``waited``."""
        return {
            "jobs": {kind: dict(outcomes) for kind, outcomes in self._jobs.items()},
            "duration": {kind: times.snapshot() for kind, times in self._durations.items()},
            "waited": {kind: times.snapshot() for kind, times in self._waits.items()},
        }

    def kinds(self) -> dict[str, dict[str, Any]]:
        """By kind: its ``outcomes``, and what half and 95 % of its runs took no longer than."""
        return {
            kind: {
                "outcomes": dict(outcomes),
                "median": self._durations[kind].at_most(0.5),
                "p95": self._durations[kind].at_most(0.95),
            }
            for kind, outcomes in self._jobs.items()
        }


def configure_logging(level: str, fmt: str, stream: TextIO | None = None) -> None:
    """Send the lines of structlog, of ``logging`` and of ``warnings`` to one stream, in one format.

    ``level`` is a name such as ``info``. ``fmt`` is ``json`` for a line of JSON per event,
    ``text`` for readable text, ``auto`` for text on a terminal and JSON elsewhere. The stream
    is standard error by default. Programs call this; the library itself never does.
    """
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
    """Put time, level and event first."""
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
