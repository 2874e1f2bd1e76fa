"""``migrate``: jobs from queues to another one, counted first and moved when told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from convolab_worker.cli.app_loader import load_app
from convolab_worker.cli.output import Bar, as_json, remark, result, table
from convolab_worker.cli.wake_service import awake
from convolab_worker.client.jobs import MOVED, STATES, Account, Mover
from convolab_worker.connection.address import Address
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.usage import CommandCounter
from convolab_worker.errors import ConfigurationError
from convolab_worker.telemetry.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.settings import Settings


def migrate(
    settings: Settings, destination: str, states: Sequence[str], *, execute: bool, as_lines: bool
) -> int:
    """Move the settings' queues' jobs to ``destination``, or tell what would be moved."""
    configure_logging(settings.log_level, settings.log_format)
    settings.replace(queues=(destination,))  # which raises for a name that can't be
    if destination in settings.queues:
        msg = f"--to {destination}: expected a queue that is not among those of --from"
        raise ConfigurationError(msg)
    unknown = [state for state in states if state not in STATES]
    if unknown:
        msg = f"--state {unknown[0]}: expected one of {', '.join(STATES)}"
        raise ConfigurationError(msg)
    account = Account()
    try:
        asyncio.run(_migrate(settings, destination, states or STATES, account, execute=execute))
    except KeyboardInterrupt:
        remark(
            f"stopped: at least {account.moved} jobs were moved, each of them whole; run it again"
        )
        raise
    finally:  # also for the jobs before one that could not be moved
        if execute and account.moved:
            asyncio.run(awake(settings, "the jobs were moved"))
    _tell(account, destination, execute=execute, as_lines=as_lines)
    if settings.app is not None:
        _warn_of_handlers(settings.app, destination, account)
    return 0


async def _migrate(
    settings: Settings,
    destination: str,
    states: Sequence[str],
    account: Account,
    *,
    execute: bool,
) -> None:
    connection = Connection(
        Address.parse(settings.redis_url),
        timeout=settings.command_timeout,
        counter=CommandCounter(),
    )
    await connection.open()
    try:
        mover = Mover(
            connection,
            prefix=settings.prefix,
            sources=settings.queues,
            destination=destination,
            states=states,
            execute=execute,
        )
        with Bar("moving" if execute else "looking", await mover.total()) as bar:
            async for step in mover.steps():
                account.add(step)
                bar.step()
    finally:
        await connection.close()


def _tell(account: Account, destination: str, *, execute: bool, as_lines: bool) -> None:
    rows = [
        {"queue": queue, "state": state, "name": name, "jobs": count, "outcome": outcome}
        for (queue, state, name, outcome), count in sorted(account.jobs.items())
    ]
    if as_lines:
        told: dict[str, Any] = {"executed": execute, "to": destination, "renamed": account.renamed}
        result(as_json({**told, "moved": account.moved if execute else 0, "jobs": rows}))
        return
    if not rows:
        result("there is no job to move")
        return
    result(table([["queue", "state", "name", "jobs", "outcome"], *map(_row(execute), rows)]))
    if account.renamed:
        result(
            f"{account.renamed} {'got' if execute else 'would get'} the id QUEUE-ID, "
            f"since theirs is taken on {destination}"
        )
    if not execute:
        result(f"nothing was moved: with --yes, {account.moved} jobs go to {destination}")


def _row(execute: bool) -> Any:  # noqa: FBT001 - made for map
    def row(told: dict[str, Any]) -> list[Any]:
        outcome = told["outcome"]
        if outcome != MOVED:
            outcome = f"stays: {outcome}"
        elif not execute:
            outcome = "would move"
        return [told["queue"], told["state"], told["name"], told["jobs"], outcome]

    return row


def _warn_of_handlers(app: str, destination: str, account: Account) -> None:
    """Say which jobs would fail in the new queue, or run with another handler than in the old."""
    handlers = load_app(app)
    moved = {(name, queue) for (queue, _, name, outcome) in account.jobs if outcome == MOVED}
    for name in sorted({name for name, _ in moved}):
        if handlers.find(destination, name) is None:
            remark(f"{app} has no handler for {name!r} on {destination}: those jobs would fail")
    for name, queue in sorted(moved):
        before, after = handlers.find(queue, name), handlers.find(destination, name)
        if before is not None and after is not None and before.key != after.key:
            remark(
                f"{name!r} means {before.place} on {queue}, and {after.place} on {destination}: "
                "the jobs that move would run with the latter"
            )
