"""Binds a job to the context that it runs in, where every logger of structlog looks."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any

PREFIX = "structlog_"
"""What the names of structlog's context variables begin with: it finds them by that."""

_NAMES = ("job_id", "job_name", "queue", "attempt")
_variables: tuple[ContextVar[Any], ...] = ()


def bind_job(job_id: str, job_name: str, queue: str, attempt: int) -> None:
    """Bind what structlog's ``bind_contextvars`` would, with its own variables where it has some.

    Those of one name are two where structlog is imported while a job runs, until that job's end.
    """
    if "structlog" in sys.modules:
        # This waits for a thread that is importing it. Its modules must not be imported meanwhile:
        # both imports would wait for each other, and one of them fail.
        import structlog

        structlog.contextvars.bind_contextvars(
            job_id=job_id, job_name=job_name, queue=queue, attempt=attempt
        )
        return
    global _variables  # noqa: PLW0603 - made by the first job
    if not _variables:
        _variables = tuple(ContextVar(PREFIX + name, default=Ellipsis) for name in _NAMES)
    for variable, value in zip(_variables, (job_id, job_name, queue, attempt), strict=True):
        variable.set(value)
