"""Writes a worker's statistics in Prometheus's text format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "convolab_worker_"
_PHASES = ("working", "suspended", "asleep")

_Sample = tuple[str, "Mapping[str, str]", float]


class _Text:
    """Collects the lines of the metrics."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, help_text: str, samples: Iterable[_Sample]) -> None:
        """Add a metric and its samples (suffix, labels, value); nothing if there is no sample."""
        written = [
            f"{_PREFIX}{name}{suffix}{_labels(labels)} {_number(value)}"
            for suffix, labels, value in samples
        ]
        if written:
            self._lines.append(f"# HELP {_PREFIX}{name} {help_text}")
            self._lines.append(f"# TYPE {_PREFIX}{name} {kind}")
            self._lines += written

    def gauge(self, name: str, help_text: str, value: float | None) -> None:
        """Add a gauge without labels; nothing if ``value`` is None."""
        self.add(name, "gauge", help_text, [] if value is None else [("", {}, value)])

    def counter(self, name: str, help_text: str, value: float) -> None:
        """Add a counter without labels."""
        self.add(name, "counter", help_text, [("", {}, value)])

    def text(self) -> str:
        """Return all metrics that were added."""
        return "".join(f"{line}\n" for line in self._lines)


def metrics_text(stats: Mapping[str, Any], answers: Mapping[tuple[str, int], int]) -> str:
    """Return ``Worker.stats()`` and the server's ``answers``, by route and status, as text."""
    text = _Text()
    _add_life(text, stats)
    if "telemetry" in stats:  # otherwise the worker has not started
        _add_jobs(text, stats["telemetry"])
        _add_slots(text, stats)
        _add_commands(text, stats["commands"])
    text.add(
        "http_requests_total",
        "counter",
        "Requests that the wake server answered.",
        [
            ("", {"route": route, "status": str(status)}, count)
            for (route, status), count in sorted(answers.items())
        ],
    )
    return text.text()


def _add_life(text: _Text, stats: Mapping[str, Any]) -> None:
    text.gauge("up", "1 while the worker runs.", stats["state"] == "running")
    if "phase" not in stats:
        return
    text.gauge("connected", "1 while both connections to Redis are open.", stats["connected"])
    text.add(
        "phase",
        "gauge",
        "1 for the worker's phase: working, suspended, or asleep without a connection.",
        [("", {"phase": phase}, stats["phase"] == phase) for phase in _PHASES],
    )
    text.gauge("held_requests", "Requests that are held open.", stats["held"])
    text.counter("drains_total", "Drains that held requests started.", stats["drains"])


def _add_jobs(text: _Text, telemetry: Mapping[str, Any]) -> None:
    text.add(
        "jobs_total",
        "counter",
        "Runs of jobs that ended, by kind and outcome.",
        [
            ("", {"kind": kind, "outcome": outcome}, count)
            for kind, outcomes in sorted(telemetry["jobs"].items())
            for outcome, count in sorted(outcomes.items())
        ],
    )
    _add_histogram(
        text,
        "job_duration_seconds",
        "Seconds from a job's start to its outcome.",
        telemetry["duration"],
    )
    _add_histogram(
        text,
        "job_wait_seconds",
        "Seconds from when a job could have started to its start.",
        telemetry["waited"],
    )


def _add_histogram(
    text: _Text, name: str, help_text: str, by_kind: Mapping[str, Mapping[str, Any]]
) -> None:
    samples: list[_Sample] = []
    for kind, times in sorted(by_kind.items()):
        labels = {"kind": kind}
        samples += [
            ("_bucket", {**labels, "le": bound}, count) for bound, count in times["buckets"].items()
        ]
        samples += [("_sum", labels, times["sum"]), ("_count", labels, times["count"])]
    text.add(name, "histogram", help_text, samples)


def _add_slots(text: _Text, stats: Mapping[str, Any]) -> None:
    text.add(
        "slots",
        "gauge",
        "Slots that run a job, and slots that are free.",
        [("", {"state": state}, stats[state]) for state in ("running", "free")],
    )
    text.gauge(
        "parked_jobs",
        "Jobs that wait in memory for their handler's limit or rate.",
        stats["parked"],
    )
    text.gauge(
        "idle_wait_seconds",
        "How long an idle worker waits for work before it checks again.",
        stats["idle"]["wait"],
    )


def _add_commands(text: _Text, commands: Mapping[str, Any]) -> None:
    for name, field, help_text in (
        ("commands_sent_total", "sent", "Redis commands sent, by purpose."),
        (
            "commands_billable_total",
            "billable",
            "Redis commands sent, and those that scripts ran, by purpose.",
        ),
    ):
        text.add(
            name,
            "counter",
            help_text,
            [
                ("", {"purpose": purpose}, counts[field])
                for purpose, counts in commands["by_purpose"].items()
            ],
        )
    text.gauge(
        "commands_projected_day",
        "Billable commands expected by the day's end, at the rate of the last hour.",
        commands["projected_day"],
    )
    text.gauge(
        "command_budget",
        "CONVOLAB_COMMAND_BUDGET: the billable commands that a day may cost.",
        commands["budget"],
    )


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return f"{value + 0:.17g}"
