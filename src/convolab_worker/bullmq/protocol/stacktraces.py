"""A job's ``stacktrace`` field: a JSON array of strings, the newest last, as Node writes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convolab_worker.bullmq.protocol.records import ActiveJob


def extended(job: ActiveJob, stack: str | None) -> str:
    """The job's stack traces with ``stack`` added, cut to its ``stackTraceLimit`` option."""
    try:
        kept = json.loads(job.stacktrace)
    except (ValueError, RecursionError):
        kept = []
    traces = [trace for trace in kept if isinstance(trace, str)] if isinstance(kept, list) else []
    if stack is not None:
        traces.append(stack)
    limit = job.opts.get("stackTraceLimit")
    if isinstance(limit, int) and limit >= 0:
        traces = traces[-limit:] if limit else []
    text = json.dumps(traces, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate, which UTF-8 can't carry, is written as JSON's own escape, as Node does.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
