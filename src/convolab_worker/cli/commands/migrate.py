"""``migrate``: moves jobs from queues to another one; without ``--yes`` it only counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.cli.arguments import flags
from convolab_worker.cli.output import Bar, as_json, remark, result, table
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.client.operating.moving import Account
    from convolab_worker.settings import Settings

EXAMPLE = "migrate --from audio --to speech"


def add_flags(command: Parser) -> None:
    flags.add_setting(command, "queues", "--from", "--queue", text="the queues they come from")
    command.add_argument(
        "--to", dest="destination", metavar="NAME", required=True, help="the queue they go to"
    )
    flags.add_list(
        command, "--state", "only those in this state: waiting, prioritized, delayed or failed"
    )
    command.add_argument("--yes", action="store_true", help="move them")
    flags.add_json(command)
    flags.add_settings(command, "app", *flags.CONNECTION)


def main(given: argparse.Namespace) -> int:
    """Move the queues' jobs to ``--to``, or list those that would move."""
    if given.queues is None:
        msg = "nothing to move: expected --from QUEUE, once or more often"
        raise ConfigurationError(msg)
    settings = flags.settings_of(given)
    from convolab_worker.cli.process.process import run_client
    from convolab_worker.cli.queues import unused
    from convolab_worker.cli.wake_service import wake_service
    from convolab_worker.client.operating.moving import Account

    destination, account = given.destination, Account()
    states = _checked_states(settings, given)
    try:
        for text in run_client(settings, unused(settings, given)):
            remark(text)  # no error: this may be the second run
        run_client(settings, _migrate(settings, destination, states, account, execute=given.yes))
    except KeyboardInterrupt:
        remark(
            f"stopped: at least {account.moved} jobs were moved, each of them completely; "
            "run it again"
        )
        raise
    finally:  # also for the jobs before one that could not be moved
        if given.yes and account.moved:
            run_client(settings, wake_service(settings, "the jobs were moved"))
    _print(account, destination, execute=given.yes, as_lines=given.json)
    if settings.app is not None:
        _warn_of_handlers(settings.app, destination, account)
    elif account.moved:
        names = ", ".join(sorted({name for name, _ in _moved(account)}))
        remark(
            f"the workers of {destination} need handlers for: {names}. A worker without them "
            "fails these jobs for good (--app MODULE:REGISTRY checks an application)"
        )
    return 0


def _checked_states(settings: Settings, given: argparse.Namespace) -> Sequence[str]:
    """Return the states to move, after checking them and the destination."""
    from convolab_worker.client.operating.moving import STATES

    settings.replace(queues=(given.destination,))  # raises for a name that BullMQ forbids
    if given.destination in settings.queues:
        msg = f"--to {given.destination}: expected a queue that is not among those of --from"
        raise ConfigurationError(msg)
    states = [state.strip() for states in given.states for state in states.split(",")]
    states = ["waiting" if state == "wait" else state for state in states]  # its list's name
    for state in states:
        if state not in STATES:
            msg = f"--state {state}: expected one of {', '.join(STATES)}"
            raise ConfigurationError(msg)
    return states or STATES


async def _migrate(
    settings: Settings,
    destination: str,
    states: Sequence[str],
    account: Account,
    *,
    execute: bool,
) -> None:
    from convolab_worker.client.operating.moving import Mover
    from convolab_worker.client.session import connected

    async with connected(settings) as connection:
        mover = Mover(
            connection,
            prefix=settings.prefix,
            sources=settings.queues,
            destination=destination,
            states=states,
            execute=execute,
        )
        with Bar("moving" if execute else "looking", await mover.total()) as bar:
            async for moved in mover.results():
                account.add(moved)
                bar.step()


def _print(account: Account, destination: str, *, execute: bool, as_lines: bool) -> None:
    rows = [
        {"queue": queue, "state": state, "name": name, "jobs": count, "outcome": outcome}
        for (queue, state, name, outcome), count in sorted(account.jobs.items())
    ]
    if as_lines:
        head: dict[str, Any] = {"executed": execute, "to": destination, "renamed": account.renamed}
        result(as_json({**head, "moved": account.moved if execute else 0, "jobs": rows}))
        return
    if not rows:
        result("there is no job to move")
        return
    for row in rows:
        row["outcome"] = _in_words(str(row["outcome"]), execute=execute)
    result(table([[*rows[0]], *([*row.values()] for row in rows)]))
    if account.renamed:
        result(
            f"{account.renamed} {'got' if execute else 'would get'} the id QUEUE-ID, "
            f"since their own is in use on {destination}"
        )
    if not execute:
        jobs = "1 job goes" if account.moved == 1 else f"{account.moved} jobs go"
        result(f"nothing was moved: with --yes, {jobs} to {destination}")


def _in_words(outcome: str, *, execute: bool) -> str:
    from convolab_worker.client.operating.moving import MOVED

    if outcome != MOVED:
        return f"stays: {outcome}"
    return outcome if execute else "would move"


def _warn_of_handlers(app: str, destination: str, account: Account) -> None:
    """Say which jobs would fail on the new queue, and which would run with another handler."""
    from convolab_worker.cli.process.app_loader import load_app

    handlers, moved = load_app(app), set(_moved(account))
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


def _moved(account: Account) -> Iterator[tuple[str, str]]:
    """Yield the names of jobs that move, each with the queue it comes from."""
    from convolab_worker.client.operating.moving import MOVED

    for queue, _, name, outcome in account.jobs:
        if outcome == MOVED:
            yield name, queue
