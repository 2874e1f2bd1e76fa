"""``handlers``: lists what is registered. It does not connect to Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.cli.flags import add_settings, settings_of
from convolab_worker.cli.output import as_json, result, table

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.flags import Parser
    from convolab_worker.handlers.registry import Handler

_COLUMNS = ("queue", "names", "kind", "payload", "result", "limits", "retries", "handler")


def add_flags(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_settings(command, "app")


def main(given: argparse.Namespace) -> int:
    """Print a line for each handler."""
    from convolab_worker.cli.process import load_handlers

    handlers = [_facts(handler) for handler in load_handlers(settings_of(given))]
    handlers.sort(key=lambda facts: (facts["queue"] or "", facts["names"]))
    if given.json:
        result(as_json(handlers))
    else:
        result(table([_COLUMNS, *(_row(facts) for facts in handlers)]))
    return 0


def _facts(handler: Handler) -> dict[str, Any]:
    """Return what is known of a handler; the policy is in the words of BullMQ's job options."""
    from convolab_worker.errors import ConfigurationError
    from convolab_worker.payloads.annotation import annotation_name

    job_type = handler.job_type
    try:
        returns: str | None = annotation_name(job_type.result)
    except ConfigurationError:
        returns = None  # it has names that are there for type checkers only
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


def _row(facts: dict[str, Any]) -> list[str]:
    timeout, concurrency = facts["timeout"], facts["concurrency"]
    limits = [
        "" if timeout is None else f"{timeout:g} s",
        "" if concurrency is None else f"{concurrency} at once",
        facts["rate"] or "",
        "thread" if facts["thread"] else "",
    ]
    return [
        facts["queue"] or "any",
        ", ".join(facts["names"]),
        facts["kind"],
        facts["payload"],
        facts["result"] or "?",
        ", ".join(filter(None, limits)) or "-",
        _retries(facts["defaults"]),
        facts["handler"],
    ]


def _retries(defaults: dict[str, Any]) -> str:
    attempts, backoff = defaults.get("attempts"), defaults.get("backoff")
    parts = [
        "" if attempts is None else f"{attempts} attempts",
        "" if backoff is None else f"{backoff.get('type')} {backoff.get('delay', 0) / 1000:g} s",
    ]
    return ", ".join(filter(None, parts)) or "as added"
