"""What the console's routes answer about jobs, queues, schedules and handlers, as JSON has it.

Pure: each takes what was read, and what may be shown of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq import schedulers
from convolab_worker.errors import ConfigurationError
from convolab_worker.telemetry.frames import sections_of

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.schedules import Schedule
    from convolab_worker.client.console.client import FailureGroup
    from convolab_worker.client.console.details import JobDetails
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.operating.queues import QueueStatus
    from convolab_worker.handlers.registration.handler import Handler
    from convolab_worker.handlers.registration.registry import HandlerRegistry
    from convolab_worker.server.console.redaction import Redaction
    from convolab_worker.settings import Settings

_LONGEST_TEXT = 20_000  # characters of a payload; the rest can be downloaded
_LONGEST_REASON = 300  # characters of a reason in a list
_LONGEST_STACK = 50_000
_TIMES = ("timestamp", "processed_on", "finished_on", "due_at")
_WAITS = ("waiting", "prioritized")
_NEXT = 5  # the next moments of a schedule


def job_row(job: JobStatus, redaction: Redaction) -> dict[str, Any]:
    """Return a job as a list shows it, without what may be large."""
    names = {"name": job.name, "queue": job.queue}
    return {
        "id": job.id,
        **names,
        "state": job.state,
        "reason": _cut(redaction.text("reason", job.failed_reason, **names), _LONGEST_REASON),
        "progress": _payload(redaction.payload("progress", job.progress, **names)),
        "attempts_made": job.attempts_made,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        **{name: getattr(job, name) for name in _TIMES},
    }


def job_whole(details: JobDetails, redaction: Redaction) -> dict[str, Any]:
    """Return a job with everything kept of it that may be shown."""
    job = details.job
    names = {"name": job.name, "queue": job.queue}
    data = redaction.payload("data", job.data, **names)
    logs = [] if redaction.hides else details.logs
    stacks = [
        redaction.text("stack", stack[:_LONGEST_STACK], **names) or ""
        for stack in map(str, job.stacktrace)
    ]
    is_completed = job.state == "completed"
    return {
        **job_row(job, redaction),
        "reason": _cut(redaction.text("reason", job.failed_reason, **names), _LONGEST_STACK),
        "starts": job.starts,
        "options": dict(job.opts),
        "hidden": redaction.hides,
        "redacted": data != job.data,
        "data": _payload(data),
        "result": _payload(redaction.payload("result", job.result, **names))
        if is_completed
        else None,
        "steps": {
            step: _cut(redaction.step(text, **names), _LONGEST_TEXT)
            for step, text in details.steps.items()
        },
        "logs": [redaction.text("log", row, **names) for row in logs],
        "stacks": [
            [{"whose": whose, "text": text} for whose, text in sections_of(stack)]
            for stack in stacks
        ],
        "trace": job.trace_id,
        "parents": [parent._asdict() for parent in details.parents],
        "children": [child._asdict() for child in details.children],
        "children_count": details.children_count,
    }


def failure_group(group: FailureGroup, queue: str, redaction: Redaction) -> dict[str, Any]:
    """Return a group of failed jobs, its reason cut."""
    reason = redaction.text("reason", group.reason, name=group.name, queue=queue)
    return {**group._asdict(), "reason": _cut(reason, _LONGEST_REASON)}


def queue_row(queue: QueueStatus) -> dict[str, Any]:
    """Return a queue's state, and in words what keeps its jobs from running."""
    waiting = sum(queue.counts.get(state, 0) for state in _WAITS)
    problems = ["it is paused"] if queue.paused else []
    if queue.workers is not None and not queue.workers:
        problems.append(f"no worker listens, and {waiting} jobs wait" if waiting else "no worker")
    return {**asdict(queue), "problems": problems}


def schedule_row(schedule: Schedule, redaction: Redaction, now: float) -> dict[str, Any]:
    """Return a schedule, in words, with the next times at which it is due after ``now``."""
    row = {name: value for name, value in asdict(schedule).items() if name != "options"}
    data = redaction.payload("data", schedule.data, name=schedule.name, queue=schedule.queue)
    words, moments, problem = None, list[float](), None
    try:
        if schedule.cron is not None:
            from convolab_worker.bullmq.cron.words import in_words

            words = in_words(schedule.cron, schedule.id)
        moments = _moments(schedule, now)
    except schedulers.UNREADABLE as error:
        problem = f"it ends after its next job: {error}"
    return {**row, "data": _payload(data), "words": words, "next": moments, "problem": problem}


def _moments(schedule: Schedule, now: float) -> list[float]:
    """Return the next moments at which it is due. Raises one of schedulers.UNREADABLE."""
    left = _NEXT if schedule.limit is None else min(max(schedule.limit - schedule.count, 0), _NEXT)
    found = [schedule.next_at]
    repeat = {"pattern": schedule.cron, "tz": schedule.tz}
    while len(found) < left:
        if schedule.cron is None:
            after = found[-1] + (schedule.every or 0.0)
        else:
            base = round(found[-1] * 1000)
            due = schedulers.next_due(repeat, base, now=round(now * 1000), seed=schedule.id)
            after = (due or 0) / 1000
        if after <= found[-1] or (schedule.until is not None and after > schedule.until):
            break
        found.append(after)
    return found


def handlers(registry: HandlerRegistry, settings: Settings) -> list[dict[str, Any]]:
    """Return the handlers of a worker, those that none of its queues reaches among them."""
    from convolab_worker.handlers.registration.facts import facts_of

    unreachable = {handler.key for handler in registry.unreachable(settings.queues)}
    rows = [
        {
            **facts_of([handler])[0],
            "key": handler.key,
            "reachable": handler.key not in unreachable,
            "schema": _schema(handler),
        }
        for handler in registry
    ]
    return sorted(rows, key=lambda row: (row["queue"] or "", row["names"]))


def _schema(handler: Handler) -> dict[str, Any] | None:
    from convolab_worker.payloads.describe import payload_schema

    try:
        return payload_schema(handler.job_type.payload)
    except ConfigurationError:  # it has no schema
        return None


def _payload(value: Any) -> dict[str, Any] | None:
    """Return a value as text to read, cut if it is long; ``size`` is that of all, in characters."""
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    return {
        "text": text[:_LONGEST_TEXT],
        "size": len(text),
        "value": value if isinstance(value, int | float) else None,
    }


def _cut(text: str | None, longest: int) -> str | None:
    return text if text is None or len(text) <= longest else f"{text[:longest]} …"
