"""What the console's routes answer about jobs, queues and schedules, as JSON has it. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from convolab_worker.telemetry.frames import sections_of

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.schedules import Schedule
    from convolab_worker.client.console_client import FailureGroup, JobDetails
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.queues import QueueStatus

_LONGEST_TEXT = 20_000  # characters of a payload; the rest is a download
_LONGEST_REASON = 300  # characters, in a list
_LONGEST_STACK = 50_000
_TIMES = ("timestamp", "processed_on", "finished_on", "due_at")


def job_row(job: JobStatus, *, hides: bool) -> dict[str, Any]:
    """Return a job as a list shows it, without what may be large."""
    return {
        "id": job.id,
        "queue": job.queue,
        "name": job.name,
        "state": job.state,
        "reason": _cut(job.failed_reason, _LONGEST_REASON),
        "progress": None if hides else _payload(job.progress),
        "attempts_made": job.attempts_made,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        **{name: getattr(job, name) for name in _TIMES},
    }


def job_whole(details: JobDetails, *, hides: bool) -> dict[str, Any]:
    """Return a job with everything kept of it; ``hides`` leaves out what handlers were given."""
    job = details.job
    return {
        **job_row(job, hides=hides),
        "reason": _cut(job.failed_reason, _LONGEST_STACK),
        "starts": job.starts,
        "options": dict(job.opts),
        "hidden": hides,
        "data": None if hides else _payload(job.data),
        "result": None if hides or job.state != "completed" else _payload(job.result),
        "steps": {
            name: None if hides else _cut(text, _LONGEST_TEXT)
            for name, text in details.steps.items()
        },
        "logs": [] if hides else list(details.logs),
        "stacks": [
            [{"whose": whose, "text": text} for whose, text in sections_of(stack[:_LONGEST_STACK])]
            for stack in map(str, job.stacktrace)
        ],
        "trace": job.trace_id,
        "parents": [parent._asdict() for parent in details.parents],
        "children": [child._asdict() for child in details.children],
        "children_count": details.children_count,
    }


def failure_group(group: FailureGroup) -> dict[str, Any]:
    """Return a group of failed jobs, its reason cut."""
    return {**group._asdict(), "reason": _cut(group.reason, _LONGEST_REASON)}


def queue_row(queue: QueueStatus) -> dict[str, Any]:
    """Return a queue's state."""
    return asdict(queue)


def schedule_row(schedule: Schedule, *, hides: bool) -> dict[str, Any]:
    """Return a schedule; ``hides`` leaves out the data of its jobs."""
    row = {name: value for name, value in asdict(schedule).items() if name != "options"}
    return {**row, "data": None if hides else _payload(schedule.data)}


def _payload(value: Any) -> dict[str, Any] | None:
    """Return a value as text to read, cut if it is long; ``size`` is that of all, in characters."""
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return {
        "text": text[:_LONGEST_TEXT],
        "size": len(text),
        "value": value if isinstance(value, int | float) else None,
    }


def _cut(text: str | None, longest: int) -> str | None:
    return text if text is None or len(text) <= longest else f"{text[:longest]} …"
