"""Writes a worker's statistics in Prometheus's text format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from convolab_worker.server.gate.traffic import Traffic

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "convolab_worker_"
_PHASES = ("working", "suspended", "asleep")


class _Sample(NamedTuple):
    value: float
    labels: Mapping[str, str]
    suffix: str = ""


class _Metric(NamedTuple):
    name: str
    kind: str
    help_text: str
    samples: Sequence[_Sample]

    def text(self) -> str:
        """Return its lines; none if it has no sample."""
        name = _PREFIX + self.name
        samples = "".join(
            f"{name}{suffix}{_labels(labels)} {value + 0:.17g}\n"
            for value, labels, suffix in self.samples
        )
        head = f"# HELP {name} {self.help_text}\n# TYPE {name} {self.kind}\n"
        return head + samples if samples else ""


def metrics_text(stats: Mapping[str, Any], traffic: Traffic) -> str:
    """Return ``Worker.stats()`` and the server's own counts as text."""
    return "".join(metric.text() for metric in _metrics(stats, traffic))


def _metrics(stats: Mapping[str, Any], traffic: Traffic) -> Iterator[_Metric]:
    yield _gauge("up", "1 while the worker runs.", stats["state"] == "running")
    if "telemetry" in stats:  # None before the worker has started
        yield from _worker(stats)
        yield from _jobs(stats["telemetry"])
        yield from _commands(stats["commands"])
    yield from _traffic(traffic)


def _traffic(traffic: Traffic) -> Iterator[_Metric]:
    requests = [
        _Sample(count, {"route": route, "status": str(status)})
        for (route, status), count in sorted(traffic.answers.items())
    ]
    help_text = "Requests that the wake server answered."
    yield _Metric("http_requests_total", "counter", help_text, requests)
    if traffic.limit:  # no limit on a server of the application's own
        yield _gauge("http_connections", "Connections that are open.", traffic.connections)
        help_text = "Connections that may be open, by the process's descriptors."
        yield _gauge("http_connections_limit", help_text, traffic.limit)
    dropped = [_Sample(count, {"reason": key}) for key, count in sorted(traffic.dropped.items())]
    help_text = "Connections that the wake server closed before their time, by reason."
    yield _Metric("http_connections_dropped_total", "counter", help_text, dropped)


def _gauge(name: str, help_text: str, value: float | None) -> _Metric:
    return _Metric(name, "gauge", help_text, [] if value is None else [_Sample(value, {})])


def _worker(stats: Mapping[str, Any]) -> Iterator[_Metric]:
    yield _gauge("connected", "1 while both connections to Redis are open.", stats["connected"])
    phases = [_Sample(stats["phase"] == phase, {"phase": phase}) for phase in _PHASES]
    help_text = "1 for the worker's phase: working, suspended, or asleep without a connection."
    yield _Metric("phase", "gauge", help_text, phases)
    stopped = [_Sample(1, {"queue": name, "why": why}) for name, why in stats["stopped"].items()]
    help_text = "1 for each queue that gives no jobs, as last known: paused, limited, full, broken."
    yield _Metric("queue_stopped", "gauge", help_text, stopped)
    served = [_Sample(1, {"queue": name}) for name in stats["queues"]]
    yield _Metric("queue_served", "gauge", "1 for each queue that the worker serves.", served)
    lost = [_Sample(1, {"job_name": name, "queue": queue}) for name, queue in stats["unreachable"]]
    help_text = "1 for each job name whose handler is bound to a queue that is not served here."
    yield _Metric("handler_unreachable", "gauge", help_text, lost)
    yield _gauge("held_requests", "Requests that are held open.", stats["held"])
    help_text = "Drains that held requests started."
    yield _Metric("drains_total", "counter", help_text, [_Sample(stats["drains"], {})])
    slots = [_Sample(stats[state], {"state": state}) for state in ("running", "free")]
    yield _Metric("slots", "gauge", "Slots that run a job, and slots that are free.", slots)
    help_text = "Jobs that wait in memory for their handler's limit or rate."
    yield _gauge("parked_jobs", help_text, stats["parked"])
    help_text = "How long an idle worker waits for work before it checks again."
    yield _gauge("idle_wait_seconds", help_text, stats["idle"]["wait"])


def _jobs(telemetry: Mapping[str, Any]) -> Iterator[_Metric]:
    runs = [
        _Sample(count, {"kind": kind, "outcome": outcome})
        for kind, outcomes in sorted(telemetry["jobs"].items())
        for outcome, count in sorted(outcomes.items())
    ]
    yield _Metric("jobs_total", "counter", "Runs of jobs that ended, by kind and outcome.", runs)
    help_text = "Seconds from a job's start to its outcome."
    yield _histogram("job_duration_seconds", help_text, telemetry["duration"])
    help_text = "Seconds from when a job could have started to its start."
    yield _histogram("job_wait_seconds", help_text, telemetry["waited"])


def _histogram(name: str, help_text: str, by_kind: Mapping[str, Mapping[str, Any]]) -> _Metric:
    samples: list[_Sample] = []
    for kind, times in sorted(by_kind.items()):
        labels = {"kind": kind}
        for bound, count in times["buckets"].items():
            samples.append(_Sample(count, {**labels, "le": bound}, "_bucket"))
        samples += [
            _Sample(times["sum"], labels, "_sum"),
            _Sample(times["count"], labels, "_count"),
        ]
    return _Metric(name, "histogram", help_text, samples)


def _commands(commands: Mapping[str, Any]) -> Iterator[_Metric]:
    for name, field, help_text in (
        ("commands_sent_total", "sent", "Redis commands sent, by purpose."),
        ("commands_billable_total", "billable", "Commands sent, and run by scripts, by purpose."),
    ):
        purposes = commands["by_purpose"].items()
        samples = [_Sample(counts[field], {"purpose": purpose}) for purpose, counts in purposes]
        yield _Metric(name, "counter", help_text, samples)
    help_text = "Billable commands expected by the day's end, at the rate of the last hour."
    yield _gauge("commands_projected_day", help_text, commands["projected_day"])
    help_text = "CONVOLAB_COMMAND_BUDGET: the billable commands that a day may cost."
    yield _gauge("command_budget", help_text, commands["budget"])


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
