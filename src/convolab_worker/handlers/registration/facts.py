"""Facts about registered handlers, for the command ``handlers`` and the console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.annotation import annotation_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convolab_worker.handlers.registration.handler import Handler


def facts_of(handlers: Iterable[Handler]) -> list[dict[str, Any]]:
    """Return the facts of each handler, as JSON has them, by queue and name."""
    facts = [_facts(handler) for handler in handlers]
    return sorted(facts, key=lambda fact: (fact["queue"] or "", fact["names"]))


def _facts(handler: Handler) -> dict[str, Any]:
    """Return what is known of a handler; the policy is in the words of BullMQ's job options."""
    job_type = handler.job_type
    try:
        returns: str | None = annotation_name(job_type.result)
    except ConfigurationError:
        returns = None  # the annotation has names that only type checkers see
    return {
        "queue": handler.queue,
        "names": list(handler.names),
        "kind": handler.kind,
        "payload": annotation_name(job_type.payload),
        "result": returns,
        "timeout": handler.timeout,
        "concurrency": handler.concurrency,
        "rate": None if handler.rate is None else handler.rate.text,
        "thread": handler.threaded,
        "defaults": dict(handler.defaults),
        "handler": handler.place,
    }
