"""The flags of ``failed``, and what it prints."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from convolab_worker._setting_types import Whole
from convolab_worker.cli import flags
from convolab_worker.cli.output import as_json, described, remark, result, table
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from convolab_worker.cli.flags import Parser
    from convolab_worker.client.jobs import Wanted

_LIMIT = Whole(low=1, high=1_000_000)
_LONGEST_REASON = 80  # in the table; --json and show print all of it


def add_flags(command: Parser) -> None:
    actions = flags.add_subcommands(command, "action")
    listing = flags.add_command(actions, "list", "print the newest failed jobs, a line each")
    _add_filters(listing)
    flags.add_flag(listing, "--limit", _LIMIT, "print at most this many (default: 50)", default=50)
    listing.add_argument("--json", action="store_true", help="print a line of JSON for each")
    showing = flags.add_command(actions, "show", "print a failed job with its stack traces")
    showing.add_argument("job_id", metavar="ID", help="the job to look at")
    showing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    retrying = flags.add_command(actions, "retry", "put failed jobs back into their queues")
    _add_selection(retrying)
    retrying.add_argument(
        "--reset-attempts", action="store_true", help="give them all their attempts again"
    )
    summary = "remove failed jobs, with their children, logs and every other key of theirs"
    removing = flags.add_command(actions, "remove", summary)
    _add_selection(removing)
    for action in (listing, showing, retrying, removing):
        flags.add_settings(action, *flags.CONNECTING)


def main(given: argparse.Namespace) -> int:
    """Do what the action says; return 0, also where no job fits."""
    act = {"list": _list, "show": _show}.get(given.action, _act)
    return act(given)


def _add_selection(command: Parser) -> None:
    command.add_argument("ids", metavar="ID", nargs="*", help="the jobs that are meant")
    _add_filters(command)
    command.add_argument("--all", action="store_true", help="mean every failed job")
    command.add_argument("--dry-run", action="store_true", help="only say how many are meant")


def _add_filters(command: Parser) -> None:
    command.add_argument(
        "--name", dest="names", metavar="NAME", action="append", default=[],
        help="only jobs of that name; may be given again",
    )  # fmt: skip
    flags.add_duration(command, "--older-than", "only jobs that failed longer ago than this")
    flags.add_duration(command, "--newer-than", "only jobs that failed within this time")
    command.add_argument(
        "--reason", metavar="TEXT", help="only reasons with this in them; /TEXT/ is a pattern"
    )


def _list(given: argparse.Namespace) -> int:
    settings, wanted = flags.settings_of(given), _wanted(given)
    from convolab_worker.cli.commands.failed import actions
    from convolab_worker.cli.process import run_client

    found = run_client(settings, actions.newest(settings, wanted, given.limit))
    if given.json:
        for failure in found:
            result(as_json(failure._asdict()))
        return 0
    if not found:
        result("no failed job fits")
        return 0
    rows = [
        [f.queue, f.id, f.name, _when(f.failed_at), f.attempts, _short(f.reason)] for f in found
    ]
    result(table([["queue", "id", "name", "failed", "attempts", "reason"], *rows]))
    return 0


def _show(given: argparse.Namespace) -> int:
    settings = flags.settings_of(given)
    from convolab_worker.cli.commands.failed import actions
    from convolab_worker.cli.process import run_client

    job = run_client(settings, actions.find(settings, given.job_id))
    result(as_json(job) if given.json else described(job))
    return 0


def _act(given: argparse.Namespace) -> int:
    """Retry or remove the jobs that are meant, and print how many there were."""
    settings, wanted = flags.settings_of(given), _wanted(given)
    if wanted.is_everything and not given.all:
        msg = "every failed job is meant: expected ids, a filter such as --name, or --all"
        raise ConfigurationError(msg)
    from convolab_worker.cli.commands.failed import actions
    from convolab_worker.cli.process import run_client
    from convolab_worker.cli.wake_service import wake_service

    outcomes: Counter[str] = Counter()
    retries = given.action == "retry"
    done = "retried" if retries else "removed"
    call = actions.retry_call(given.reset_attempts) if retries else actions.remove_call
    try:
        run_client(
            settings, actions.carry_out(settings, wanted, call, outcomes, dry_run=given.dry_run)
        )
    except KeyboardInterrupt:
        count = outcomes[actions.DONE]
        remark(f"stopped: {count} jobs were {done}, each of them completely; run it again")
        raise
    finally:  # also for the jobs before one that could not be retried
        if retries and outcomes[actions.DONE] and not given.dry_run:
            run_client(settings, wake_service(settings, f"the jobs were {done}"))
    count = outcomes.pop(actions.DONE, 0)
    would = "would be " if given.dry_run else ""
    result(f"{count} job{'' if count == 1 else 's'} {would}{done}")
    for reason, jobs in outcomes.items():
        remark(f"{jobs} not: {reason}")
    return 0


def _wanted(given: argparse.Namespace) -> Wanted:
    """Return the filter that the flags mean. Raises ConfigurationError for a wrong pattern."""
    from convolab_worker.client.jobs import Wanted, reason_pattern

    try:
        reason = None if given.reason is None else reason_pattern(given.reason)
    except ValueError as error:
        msg = f"--reason {given.reason}: expected {error}"
        raise ConfigurationError(msg) from None
    return Wanted(
        ids=tuple(getattr(given, "ids", ())),
        names=tuple(given.names),
        older_than=given.older_than,
        newer_than=given.newer_than,
        reason=reason,
    )


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _short(reason: str) -> str:
    first = reason.strip().partition("\n")[0]
    return first if len(first) <= _LONGEST_REASON else f"{first[: _LONGEST_REASON - 1]}…"
