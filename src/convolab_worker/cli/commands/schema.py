"""``schema``: writes the contract of an application's handlers. It does not connect to Redis."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convolab_worker.cli.arguments.flags import DONE, FAILED, add_setting, add_settings, settings_of
from convolab_worker.cli.output import as_json, remark, result, table
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.handlers.contract.compatibility import Change

EXAMPLE = "schema --app lessons:handlers --typescript"

_DRAFTS = ("2020-12", "7")


def add_flags(command: Parser) -> None:
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--draft", choices=_DRAFTS, help="the draft of JSON Schema [default: 2020-12]"
    )
    form.add_argument(
        "--typescript",
        action="store_true",
        help="write TypeScript's types, which make BullMQ's Queue refuse a wrong call",
    )
    form.add_argument(
        "--check",
        metavar="FILE",
        type=Path,
        help="compare with a schema that was committed, or that the API's side has written; exit "
        "with 1 unless the handlers take all that the API may send, and the API all that they may "
        "return",
    )
    command.add_argument(
        "--json", action="store_true", help="print what --check finds as JSON instead of lines"
    )
    # A handler of any queue is described for each of these.
    add_settings(command, "app")
    add_setting(command, "queues", "--queue", text="the worker's queues")


def main(given: argparse.Namespace) -> int:
    """Write the schema or the types; or compare, and return 1 for what breaks."""
    from convolab_worker.cli.process.process import load_handlers
    from convolab_worker.handlers.contract.document import contract_of

    if given.json and given.check is None:
        msg = "--json is for --check: a schema is JSON already"
        raise ConfigurationError(msg)
    settings = settings_of(given)
    document, remarks = contract_of(load_handlers(settings), settings.queues)
    for text in remarks:
        remark(text)
    if given.check is not None:
        return _check(given.check, document, as_lines=not given.json)
    if given.typescript:
        from convolab_worker.handlers.contract.typescript import typescript

        result(typescript(document).rstrip("\n"))
        return DONE
    if given.draft == "7":
        from convolab_worker.handlers.contract.draft7 import draft7

        document = draft7(document)
    result(as_json(document, indent=2))
    return DONE


def _check(path: Path, document: dict[str, Any], *, as_lines: bool) -> int:
    from convolab_worker.handlers.contract.compatibility import compare

    changes = compare(_read(path), document)
    broken = sum(change.breaks for change in changes)
    if as_lines:
        changes.sort(key=lambda change: (change.queue, change.name, not change.breaks))
        result(table([_line(change) for change in changes]) if changes else "no jobs")
        verdict = f"{broken} of these break" if broken else "compatible: nothing here breaks"
        result(f"\n{verdict} ({path})")
    else:
        found = [asdict(change) for change in changes]
        result(as_json({"compatible": broken == 0, "changes": found}))
    return FAILED if broken else DONE


def _line(change: Change) -> list[str]:
    verdict = "breaks" if change.breaks else "fine"
    where = f"{change.queue} {change.name}"
    return [verdict, where, f"{change.path}: {change.text}" if change.path else change.text]


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"--check {path}: {error.strerror}"
        raise ConfigurationError(msg) from error
    except ValueError as error:
        msg = f"--check {path}: expected JSON: {error}"
        raise ConfigurationError(msg) from error
    if not isinstance(document, dict):
        msg = f"--check {path}: expected a JSON Schema, got {type(document).__name__}"
        raise ConfigurationError(msg)
    return document
