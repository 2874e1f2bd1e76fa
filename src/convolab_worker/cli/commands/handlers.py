"""``handlers``: lists what is registered. It does not connect to Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.cli.arguments.flags import add_json, add_settings, settings_of
from convolab_worker.cli.output import as_json, result, table

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.arguments.flags import Parser

EXAMPLE = "handlers --app lessons:handlers"

_COLUMNS = ("queue", "names", "kind", "payload", "result", "limits", "retries", "handler")


def add_flags(command: Parser) -> None:
    add_json(command)
    add_settings(command, "app")


def main(given: argparse.Namespace) -> int:
    """Print a line for each handler."""
    from convolab_worker.cli.process.process import load_handlers
    from convolab_worker.handlers.registration.facts import facts_of

    handlers = facts_of(load_handlers(settings_of(given)))
    if given.json:
        result(as_json(handlers))
    else:
        result(table([_COLUMNS, *(_row(facts) for facts in handlers)]))
    return 0


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
