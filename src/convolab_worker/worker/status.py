"""What a worker tells of itself, from memory and without a Redis command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.settings import Settings
    from convolab_worker.telemetry.metrics import CommandUsage
    from convolab_worker.worker.assembly import Assembly
    from convolab_worker.worker.execution.executor import JobInHand
    from convolab_worker.worker.held_requests import HeldRequests

_LONGEST_PROGRESS = 200  # characters of a progress that is not a number


class Health(Struct, frozen=True, kw_only=True):
    """A worker's life, as another thread may see it.

    ``ready`` says that it is connected, or asleep and can be woken. ``overdue`` says that the loop
    that fetches jobs should have turned and has not.
    """

    state: str
    ready: bool
    overdue: bool


def health(assembly: Assembly, *, state: str, now: float) -> Health:
    """Whether the worker is well; ``now`` is the monotonic clock's."""
    reconnection, dispatcher = assembly.reconnection, assembly.dispatcher
    is_asleep = dispatcher.suspension.asleep and reconnection.generation > 0
    return Health(
        state=state,
        ready=state == "running" and (reconnection.is_open or is_asleep),
        overdue=now > dispatcher.expected_by,
    )


def stats(
    assembly: Assembly,
    requests: HeldRequests,
    handlers: HandlerRegistry,
    *,
    state: str,
    now: float,
) -> dict[str, Any]:
    slots, total = assembly.table.slots, assembly.usage.total
    queues = list(assembly.table.states)
    return {
        "state": state,
        "phase": assembly.dispatcher.suspension.phase,
        "held": requests.held,
        "drains": assembly.tally.drains,
        "connected": assembly.reconnection.is_open,
        "running": slots.running,
        "free": slots.free,
        "parked": slots.parked,
        "queues": queues,
        "stopped": assembly.table.stopped(),
        "unreachable": sorted(
            {(name, each.queue) for each in handlers.unreachable(queues) for name in each.names}
        ),
        "outcomes": dict(assembly.executor.metrics.outcomes),
        "commands": {
            "sent": total.client_sent,
            "billable": total.billable,
            "projected_day": assembly.usage.daily.projection(now, total.billable),
            "budget": assembly.usage.daily.budget,
            "by_purpose": total.snapshot(),
        },
        "idle": assembly.dispatcher.waiting,
        "telemetry": assembly.executor.metrics.snapshot(),
        "stuck": assembly.executor.stack_reports.snapshot(),
    }


def status_snapshot(
    assembly: Assembly, settings: Settings, handlers: HandlerRegistry, *, state: str, now: float
) -> dict[str, Any]:
    """What the console shows; times are epoch seconds, durations seconds.

    A worker whose ``state`` is ``running`` is shown as ``working``, ``waiting``, ``connecting``,
    ``suspended`` or ``asleep``.
    """
    slots, metrics = assembly.table.slots, assembly.executor.metrics
    recent_runs = metrics.recent_runs
    rates = recent_runs.rates(now)
    return {
        "now": now,
        "started_at": recent_runs.started_at,
        "state": _doing(assembly) if state == "running" else state,
        "connected": assembly.reconnection.is_open,
        "queues": list(settings.queues),
        "waiting": {**assembly.dispatcher.waiting, "longest": settings.idle_max},
        "slots": {"running": slots.running, "free": slots.free, "parked": slots.parked},
        "stopped": assembly.table.stopped(),
        "unreachable": [each.place for each in handlers.unreachable(settings.queues)],
        "parked": slots.parked_jobs(),
        "jobs": [_job(held) for held in assembly.executor.running()],
        "kinds": {
            kind: {**did, "rate": rates.get(kind, 0.0)} for kind, did in metrics.kinds().items()
        },
        "commands": {
            **_commands(assembly.usage, now),
            "curve": assembly.usage.curve(now),
        },
        "trouble": _trouble(assembly),
        "ended": recent_runs.total,
        "recent": recent_runs.recent(),
        "history": recent_runs.history(now),
        "failed": recent_runs.failed,
        "reasons": recent_runs.reasons(),
    }


def _doing(assembly: Assembly) -> str:
    if assembly.table.slots.running:
        return "working"
    phase = assembly.dispatcher.suspension.phase
    if phase != "working":
        return phase
    return "waiting" if assembly.reconnection.is_open else "connecting"


def _job(held: JobInHand) -> dict[str, Any]:
    job = held.job
    return {
        "id": job.id,
        "name": job.name,
        "queue": job.queue,
        "kind": None if held.handler is None else held.handler.kind,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "started_at": job.processed_on / 1000,
        "progress": None if held.reporter is None else _progress(held.reporter.newest),
    }


def _progress(text: str | None) -> Any:
    if text is None:
        return None
    if len(text) > _LONGEST_PROGRESS:
        return f"{text[:_LONGEST_PROGRESS]} …"
    return json.loads(text)


def _commands(usage: CommandUsage, now: float) -> dict[str, Any]:
    """The day's commands; their projection is None while there is too little to go by."""
    billable, daily = usage.billable, usage.daily
    return {
        "used": daily.used(billable),
        "projected": daily.projection(now, billable) if daily.is_settled(now) else None,
        "budget": daily.budget,
        "by_purpose": usage.today.snapshot(),
    }


def _trouble(assembly: Assembly) -> dict[str, Any] | None:
    """The newest report of a handler that blocked the loop, ran too long or was abandoned."""
    reports = [
        {"what": kind, **report}
        for kind, report in assembly.executor.stack_reports.snapshot().items()
        if report is not None
    ]
    return max(reports, key=lambda report: float(report["at"]), default=None)
