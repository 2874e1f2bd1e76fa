"""A worker as its status page shows it: from memory, without a Redis command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.counts import COMMANDS_PER_QUEUE

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.settings import Settings
    from convolab_worker.worker.assembly import Parts

_LONGEST_PROGRESS = 200  # characters, of a progress that is no number


def status_snapshot(
    parts: Parts, settings: Settings, *, state: str, phase: str, now: float
) -> dict[str, Any]:
    """What the worker does and did, ready for JSON; times are epoch seconds, durations seconds.

    ``state`` is the worker's own and ``phase`` that of its rest; one that is ``running`` is shown
    as ``working``, ``waiting``, ``connecting``, ``suspended`` or ``asleep``.
    """
    recent_runs = parts.telemetry.recent_runs
    return {
        "now": now,
        "started_at": recent_runs.started_at,
        "state": _doing(parts, phase) if state == "running" else state,
        "connected": parts.reconnection.is_open,
        "queues": list(settings.queues),
        "waiting": {**parts.waiting.level, "longest": settings.idle_max},
        "slots": {
            "running": parts.slots.running,
            "free": parts.slots.free,
            "parked": parts.slots.parked,
        },
        "jobs": [_job(parts, job, progress) for job, progress in parts.runner.running()],
        "kinds": {
            kind: {**did, "rate": recent_runs.rates(now).get(kind, 0.0)}
            for kind, did in parts.telemetry.kinds().items()
        },
        "commands": _commands(parts, settings, now),
        "trouble": _trouble(parts),
        "depths_cost": 1 + COMMANDS_PER_QUEUE * len(settings.queues),
        "ended": recent_runs.total,
        "recent": recent_runs.recent(),
    }


def _doing(parts: Parts, phase: str) -> str:
    if parts.slots.running:
        return "working"
    if phase != "working":
        return phase
    return "waiting" if parts.reconnection.is_open else "connecting"


def _job(parts: Parts, job: ActiveJob, progress: str | None) -> dict[str, Any]:
    handler = parts.runner.handler_of(job)
    return {
        "id": job.id,
        "name": job.name,
        "queue": job.queue,
        "kind": None if handler is None else handler.kind,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "started_at": job.processed_on / 1000,
        "progress": _progress(progress),
    }


def _progress(text: str | None) -> Any:
    if text is None:
        return None
    if len(text) > _LONGEST_PROGRESS:
        return f"{text[:_LONGEST_PROGRESS]} …"
    return json.loads(text)


def _commands(parts: Parts, settings: Settings, now: float) -> dict[str, Any]:
    commands = parts.commands
    return {
        "used": parts.daily_budget.used(commands.billable),
        "projected": _projected(parts, now, commands.billable),
        "budget": settings.command_budget,
        "by_purpose": (commands - parts.before_today).snapshot(),
        "curve": parts.telemetry.recent_runs.curve(now),
    }


def _projected(parts: Parts, now: float, billable: int) -> int | None:
    """The day's commands at its end; None while there is too little to go by."""
    return (
        parts.daily_budget.projection(now, billable) if parts.daily_budget.is_settled(now) else None
    )


def _trouble(parts: Parts) -> dict[str, Any] | None:
    """The newest report of a handler that blocked the loop, ran too long or was abandoned."""
    reports = [
        {"what": kind, **report}
        for kind, report in parts.stack_reports.snapshot().items()
        if report is not None
    ]
    return max(reports, key=lambda report: float(report["at"]), default=None)
