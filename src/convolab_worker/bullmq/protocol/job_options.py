"""A producer's keywords as BullMQ's job options, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convolab_worker.bullmq.children import check_option
from convolab_worker.errors import ConfigurationError


def job_options(
    name: str,
    *,
    delay: float | None,
    priority: int | None,
    attempts: int | None,
    backoff: float | Mapping[str, Any] | None,
    deduplication_id: str | None,
) -> dict[str, Any]:
    """BullMQ's options, of those that are given, for a job called ``name``.

    Seconds become milliseconds. Raises ConfigurationError, which names the keyword, its value and
    what was expected.
    """
    given = {
        "name": name,
        "delay": delay,
        "priority": priority,
        "attempts": attempts,
        "backoff": backoff,
    }
    for what, value in given.items():
        if value is not None or what == "name":
            check_option("enqueue", what, value)
    options = {
        "delay": None if delay is None else round(delay * 1000),
        "priority": priority,
        "attempts": attempts,
        "backoff": _backoff(backoff),
        "deduplication": _deduplication(deduplication_id),
    }
    return {what: value for what, value in options.items() if value is not None}


def _backoff(backoff: float | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if backoff is None:
        return None
    if isinstance(backoff, Mapping):
        return dict(backoff)
    return {"type": "fixed", "delay": round(backoff * 1000)}


def _deduplication(deduplication_id: object) -> dict[str, str] | None:
    if deduplication_id is None:
        return None
    if not isinstance(deduplication_id, str) or not deduplication_id:
        msg = f"enqueue(deduplication_id={deduplication_id!r}): expected text"
        raise ConfigurationError(msg)
    return {"id": deduplication_id}


def checked_id(job_id: object) -> str | None:
    """A job id of the producer's own, by BullMQ's rules for them (its Job.validateOptions)."""
    if job_id is None:
        return None
    fits = isinstance(job_id, str) and job_id != "" and not job_id.isdecimal() and ":" not in job_id
    if not fits or not isinstance(job_id, str) or not _is_unicode(job_id):
        msg = f"job_id={job_id!r}: expected text that is not a whole number and has no ':'"
        raise ConfigurationError(msg)
    return job_id


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
