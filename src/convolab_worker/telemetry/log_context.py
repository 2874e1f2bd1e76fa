"""Binds a job's names to the context that it runs in, where every logger of structlog looks."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any

PREFIX = "structlog_"
"""What the names of structlog's context variables begin with: it finds them by that."""

_NAMES = ("job_id", "job_name", "queue", "attempt")
_variables: tuple[ContextVar[Any], ...] = ()
_are_structlogs = False


def bind_job(job_id: str, job_name: str, queue: str, attempt: int) -> None:
    """Bind what structlog's ``bind_contextvars`` would, with its own variables where it has some.

    If structlog is imported while a job runs, two variables have one name until that job's end.
    """
    if not _are_structlogs and ("structlog" in sys.modules or not _variables):
        _find_variables()
    for_id, for_name, for_queue, for_attempt = _variables
    for_id.set(job_id)
    for_name.set(job_name)
    for_queue.set(queue)
    for_attempt.set(attempt)


def _find_variables() -> None:
    global _variables, _are_structlogs  # noqa: PLW0603 - made by the first job
    if "structlog" in sys.modules:
        # This waits for a thread that is importing structlog. Its modules must not be imported here
        # meanwhile: both imports would wait for each other, and one would fail.
        import structlog

        bound = structlog.contextvars.bind_contextvars(**dict.fromkeys(_NAMES))
        _variables = tuple(bound[name].var for name in _NAMES)
        _are_structlogs = True
    else:
        _variables = tuple(ContextVar(PREFIX + name, default=Ellipsis) for name in _NAMES)
