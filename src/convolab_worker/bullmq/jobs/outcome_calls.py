"""Which script call writes an outcome."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from convolab_worker.bullmq.jobs.outcome import AwaitsChildren, Completed, Failed, Postponed
from convolab_worker.bullmq.protocol.job_options import number
from convolab_worker.settings.units import is_number

if TYPE_CHECKING:
    from convolab_worker.bullmq.jobs.outcome import Outcome
    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.bullmq.protocol.records import ActiveJob
    from convolab_worker.bullmq.protocol.transitions import Transitions


def call_of(
    transitions: Transitions, job: ActiveJob, outcome: Outcome, now_ms: int, *, fetch_next: bool
) -> Call:
    """The script call that writes ``outcome`` and, where BullMQ's script can, fetches the next job.

    A job that is returned, limited or lost goes back to its queue.
    """
    if isinstance(outcome, Completed):
        return transitions.finish(job, "completed", outcome.value, now_ms, fetch_next=fetch_next)
    if isinstance(outcome, Failed):
        return _failure(transitions, job, outcome, now_ms, fetch_next=fetch_next)
    if isinstance(outcome, Postponed):
        delay_ms = round(outcome.delay * 1000)
        return transitions.delay(job, delay_ms, now_ms, skip_attempt=True, fetch_next=fetch_next)
    if isinstance(outcome, AwaitsChildren):
        return transitions.await_children(job, now_ms=now_ms)
    return transitions.return_to_queue(job)


def _failure(
    transitions: Transitions, job: ActiveJob, failed: Failed, now_ms: int, *, fetch_next: bool
) -> Call:
    stacktrace = extended_stacktrace(job, failed.stack)
    fields = {"failedReason": failed.reason, "stacktrace": stacktrace}
    if failed.retry_in is not None and failed.retry_in <= 0:
        return transitions.retry(job, now_ms=now_ms, fields=fields)
    if failed.retry_in is None:
        return transitions.finish(
            job, "failed", failed.reason, now_ms, fetch_next=fetch_next, fields=fields
        )
    delay_ms = round(failed.retry_in * 1000)
    return transitions.delay(
        job, delay_ms, now_ms, skip_attempt=False, fetch_next=fetch_next, fields=fields
    )


def extended_stacktrace(job: ActiveJob, stack: str | None) -> str:
    """Returns the job's ``stacktrace`` field with ``stack`` added, cut to ``stackTraceLimit``.

    The field is a JSON array of strings, the newest last, as Node writes it.
    """
    try:
        kept = json.loads(job.stacktrace)
    except (ValueError, RecursionError):
        kept = []
    traces = kept if isinstance(kept, list) else []
    if stack is not None:
        traces.append(stack)
    limit = job.opts.get("stackTraceLimit")
    if is_number(limit) and limit == 0:
        traces = []
    elif limit:  # JavaScript's slice(-limit)
        last = max(min(number(limit) or 0, len(traces)), -len(traces))
        traces = traces[-int(last) :]
    told = json.dumps(traces, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate, which UTF-8 can't carry, is written as JSON's own escape, as Node does.
    return told.encode("utf-8", "backslashreplace").decode("utf-8")
