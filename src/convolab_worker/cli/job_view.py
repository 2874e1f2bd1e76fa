"""Writes one job, with everything that is kept of it, as text or as JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.protocol.records import json_or_text
from convolab_worker.cli.output import as_json, printable, table
from convolab_worker.settings.units import is_number
from convolab_worker.telemetry.frames import application_place_in, sections_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from convolab_worker.client.console.details import Attempts, JobDetails, Relative
    from convolab_worker.client.job_status import JobStatus

_LONGEST_TEXT = 20_000  # characters of a value; --full and --json print all of it
_NO_FRACTION = 10  # from so many seconds on, tenths are left out
_UNITS = (("d", 86_400.0), ("h", 3600.0), ("m", 60.0))


def date(at: float | None) -> str:
    """Return a moment, which is epoch seconds, as a date of UTC; ``-`` for None."""
    if at is None:
        return "-"
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # the value is not a moment
        return f"{at:g}"


def length(seconds: float) -> str:
    """Return a length of time in the largest unit of which it has two: ``90s``, ``3m``, ``2d``."""
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    amount = f"{seconds:.0f}" if seconds >= _NO_FRACTION else f"{seconds:.1f}".removesuffix(".0")
    return f"{amount}s"


def job_json(details: JobDetails, attempts: Attempts) -> dict[str, Any]:
    """Return a job as JSON, in which no text is itself JSON."""
    job = details.job
    return {
        **asdict(job),
        "opts": dict(job.opts),
        "where": _where(job),
        "attempts": [attempt._asdict() for attempt in attempts.attempts],
        "attempts_complete": attempts.complete,
        "trace_id": job.trace_id,
        "steps": {name: json_or_text(text) for name, text in details.steps.items()},
        "logs": list(details.logs),
        "parents": [parent._asdict() for parent in details.parents],
        "children": [child._asdict() for child in details.children],
        "children_count": details.children_count,
    }


def job_text(details: JobDetails, attempts: Attempts, now: float, *, full: bool = False) -> str:
    """Return a job as text: what it is, then data, outcome, attempts, steps, log and family.

    Without ``full``, long values are cut, frames of libraries are counted, and only the newest
    stack is whole. ``now`` is epoch seconds.
    """
    blocks = [table([list(row) for row in _facts(details.job, now)])]
    for title, text in _blocks(details, attempts, full=full):
        indented = "\n".join(f"  {line}" if line else "" for line in printable(text).split("\n"))
        blocks.append(f"{title}\n{indented}")
    return "\n\n".join(blocks)


def _facts(job: JobStatus, now: float) -> Iterator[tuple[str, str]]:
    yield "job", job.id
    yield "name", job.name
    yield "queue", job.queue
    yield "state", job.state
    yield "added", _ago(job.timestamp, now)
    if job.due_at is not None:
        left = job.due_at - now
        when = f"in {length(left)}" if left > 0 else f"{length(-left)} ago"
        yield "due", f"{date(job.due_at)}, {when}"
    if job.processed_on is not None:
        waited = _between(job.timestamp, job.processed_on, "after")
        worker = "" if job.processed_by is None else f", by {job.processed_by}"
        yield "started", f"{_ago(job.processed_on, now)}{waited}{worker}"
    if job.finished_on is not None:
        yield (
            "ended",
            f"{_ago(job.finished_on, now)}{_between(job.processed_on, job.finished_on, 'ran')}",
        )
    times = "once" if job.starts == 1 else f"{job.starts} times"
    started = f", started {times}" if job.starts > job.attempts_made else ""
    yield "attempts", f"{job.attempts_made} of {job.max_attempts}{started}"
    if job.priority:
        yield "priority", str(job.priority)
    if job.progress not in (None, 0):
        yield "progress", progress(job.progress)
    # BullMQ writes "attempts": 0 if none were asked for; such a job has one.
    options = {key: value for key, value in job.opts.items() if (key, value) != ("attempts", 0)}
    if options:
        yield "options", as_json(options)
    if job.trace_id is not None:
        yield "trace", job.trace_id


def _blocks(details: JobDetails, attempts: Attempts, *, full: bool) -> Iterator[tuple[str, str]]:
    job = details.job
    yield "data", _shown(job.data, full=full)
    if job.state == "completed" or job.result is not None:
        yield "result", _shown(job.result, full=full)
    if job.failed_reason is not None:
        where = _where(job)
        yield "reason", job.failed_reason if where is None else f"{job.failed_reason}\nat {where}"
    if job.starts > 1:
        yield "runs", "\n".join(_runs(attempts))
    yield from _stacks(job, full=full)
    if details.steps:
        values = {name: json_or_text(text) for name, text in details.steps.items()}
        yield (
            "steps done",
            table([[name, _line(value, full=full)] for name, value in values.items()]),
        )
    if details.logs:
        yield "log", "\n".join(details.logs)
    if details.parents or details.children_count:
        yield "family", "\n".join(_tree(details))


def _runs(attempts: Attempts) -> Iterator[str]:
    if not attempts.complete:
        yield "… earlier ones are no longer among the queue's events"
    for started_at, ended_at, outcome in attempts.attempts:
        ran = "" if ended_at is None else f", ran {length(max(ended_at - started_at, 0.0))}"
        yield f"{date(started_at)}{ran}: {outcome or 'runs'}"


def _stacks(job: JobStatus, *, full: bool) -> Iterator[tuple[str, str]]:
    """Yield the stacks of failed attempts, the newest first; the older ones as a line each."""
    stacks = [str(stack) for stack in job.stacktrace]
    first = max(job.attempts_made - len(stacks), 0) + 1
    older = [(first + place, stack) for place, stack in enumerate(stacks[:-1])]
    if stacks:
        yield f"stack of attempt {first + len(stacks) - 1}", _stack(stacks[-1], full=full)
    if full:
        for attempt, stack in reversed(older):
            yield f"stack of attempt {attempt}", _stack(stack, full=full)
    elif older:
        lines = [f"{attempt}  {_last_line(stack)}" for attempt, stack in reversed(older)]
        yield "earlier attempts", "\n".join(lines)


def _stack(stack: str, *, full: bool) -> str:
    """Return a stack with the frames of libraries folded, unless there are no others."""
    sections = sections_of(stack)
    if full or all(whose != "application" for whose, _ in sections):
        return stack.rstrip("\n")
    return "\n".join(text if whose != "library" else _folded(text) for whose, text in sections)


def _folded(text: str) -> str:
    lines = text.splitlines()
    frames = sum(line.lstrip(" |").startswith(("File ", "at ")) for line in lines)
    margin = lines[0][: len(lines[0]) - len(lines[0].lstrip(" |"))]
    return f"{margin}… {frames} frame{'' if frames == 1 else 's'} of libraries"


def _last_line(stack: str) -> str:
    error = stack.rstrip().rpartition("\n")[2].strip()
    place = application_place_in(stack)
    return error if place is None else f"{error} (at {place})"


def _tree(details: JobDetails) -> Iterator[str]:
    """Yield the job's ancestors, itself and its children, each a step further to the right."""
    depth = 0
    for parent in reversed(details.parents):
        yield f"{'  ' * depth}{_relative(parent)}"
        depth += 1
    job = details.job
    yield f"{'  ' * depth}{job.queue} {job.id}  {job.name}: {job.state}  <- this job"
    for child in details.children:
        yield f"{'  ' * (depth + 1)}{_relative(child)}"
    more = details.children_count - len(details.children)
    if more > 0:
        yield f"{'  ' * (depth + 1)}… {more} more"


def _relative(relative: Relative) -> str:
    return f"{relative.queue} {relative.id}  {relative.name}: {relative.state}"


def _where(job: JobStatus) -> str | None:
    place = application_place_in(str(job.stacktrace[-1])) if job.stacktrace else None
    return None if place is None else str(place)


def _ago(at: float | None, now: float) -> str:
    return "-" if at is None else f"{date(at)}, {length(max(now - at, 0.0))} ago"


def _between(start: float | None, end: float, word: str) -> str:
    return "" if start is None or end < start else f", {word} {length(end - start)}"


def progress(value: Any) -> str:
    """Return a job's progress as text: numbers are per cent."""
    return f"{value:g} %" if is_number(value) else as_json(value)


def _shown(value: Any, *, full: bool) -> str:
    return _cut(as_json(value, indent=2), full=full)


def _line(value: Any, *, full: bool) -> str:
    return _cut(as_json(value), full=full)


def _cut(text: str, *, full: bool) -> str:
    if full or len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]}\n… of {len(text):,} characters; --full prints all"
