"""``queue``: lists, pauses, resumes and cleans queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.cli.arguments import flags
from convolab_worker.cli.output import as_json, result
from convolab_worker.errors import ConfigurationError, ConvolabWorkerError
from convolab_worker.settings.kinds import Whole

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.settings import Settings

EXAMPLE = "queue list"

_LIMIT = Whole(low=1, high=10_000_000)
_DONE = {"pause": "paused", "resume": "resumed"}


def add_flags(command: Parser) -> None:
    actions = flags.add_subcommands(command, "action")
    listing = flags.add_command(
        actions, "list", "print all queues with their workers, or those of --queue", "queue list"
    )
    pausing = flags.add_command(
        actions, "pause", "let no worker start jobs of these queues", "queue pause --queue audio"
    )
    resuming = flags.add_command(
        actions,
        "resume",
        "let workers start jobs of these queues again",
        "queue resume --queue audio",
    )
    cleaning = flags.add_command(
        actions,
        "clean",
        "remove old jobs of one state from these queues",
        "queue clean --queue audio --state completed --older-than 7d",
    )
    cleaning.add_argument(
        "--state", metavar="STATE", required=True,
        help="completed, failed, delayed, prioritized or waiting",
    )  # fmt: skip
    flags.add_duration(cleaning, "--older-than", "only jobs that ended, or were added, longer ago")
    flags.add_flag(cleaning, "--limit", _LIMIT, "remove at most this many from each queue")
    pausing.add_argument(
        "--new",
        action="store_true",
        help="pause a queue that nobody has used and no worker serves, too",
    )
    for action in (listing, pausing, resuming, cleaning):
        flags.add_json(action)
    flags.add_connection(listing, flags.QUEUES_LOOKED_IN)
    for action in (pausing, resuming, cleaning):
        flags.add_connection(action, flags.QUEUES_ACTED_ON)


def main(given: argparse.Namespace) -> int:
    """Do what the action says."""
    from convolab_worker.cli.process.process import run_client

    settings = flags.settings_of(given)
    act = {"list": _list, "clean": _clean}.get(given.action, _pause_or_resume)
    run_client(settings, act(settings, given))
    return 0


async def _list(settings: Settings, given: argparse.Namespace) -> None:
    from convolab_worker.cli.commands.status import as_rows, print_queues, queues_meant

    queues = await queues_meant(settings, given)
    if given.json:
        for row in as_rows(queues).items():
            result(as_json({"name": row[0], **row[1]}))
    else:
        print_queues(queues)


async def _pause_or_resume(settings: Settings, given: argparse.Namespace) -> None:
    from convolab_worker.cli.wake_service import WAKE_SECONDS
    from convolab_worker.client.client import JobClient

    done = _DONE[given.action]
    if not (given.action == "pause" and given.new and flags.names_queues(given)):
        settings = await _used(settings, given)
    async with JobClient(settings) as client:
        for queue in settings.queues:
            if given.action == "pause":
                await client.pause(queue)
            else:
                await client.resume(queue)
            result(as_json({"queue": queue, "done": done}) if given.json else f"{queue} is {done}")
        await client.wake_heard(WAKE_SECONDS)


async def _used(settings: Settings, given: argparse.Namespace) -> Settings:
    """Return the settings with the queues that are meant; an error says how to pause a new one.

    Raises ConfigurationError, and ConvolabWorkerError for a queue that nobody uses.
    """
    from convolab_worker.cli.queues import acted_on

    try:
        return await acted_on(settings, given)
    except ConfigurationError:
        raise
    except ConvolabWorkerError as error:
        if given.action != "pause" or given.queues is None:
            raise
        msg = f"{error} (--new pauses a queue before its first job)"
        raise ConvolabWorkerError(msg) from None


async def _clean(settings: Settings, given: argparse.Namespace) -> None:
    from convolab_worker.cli.queues import acted_on
    from convolab_worker.client.client import JobClient

    settings = await acted_on(settings, given)
    async with JobClient(settings) as client:
        for queue in settings.queues:
            removed = await client.clean(
                queue, given.state, given.older_than or 0.0, limit=given.limit
            )
            count = len(removed)
            jobs = f"{count} {given.state} job{'' if count == 1 else 's'}"
            result(
                as_json({"queue": queue, "state": given.state, "removed": count})
                if given.json
                else f"{queue}: {jobs} removed"
            )
