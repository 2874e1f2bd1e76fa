"""The flags of ``jobs`` and ``failed``, and what they print."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from convolab_worker.cli.arguments import flags
from convolab_worker.cli.output import as_json, fits, printable, remark, result, shortened, table
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.kinds import Whole

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.client.console.details import Attempts, JobDetails
    from convolab_worker.client.job_status import JobStatus
    from convolab_worker.client.operating.filters import Wanted

EXAMPLE = "jobs list --state failed --name speak"

_LIMIT = Whole(low=1, high=1_000_000)
_LONGEST_REASON = 80  # in the table; --json and show print all of it
_DONE_TO_THEM = {"retry": "retried", "remove": "removed", "promote": "promoted"}


def add_flags(command: Parser) -> None:
    add_actions(command, failed=False)


def add_actions(command: Parser, *, failed: bool) -> None:
    """Add the actions of ``jobs``, or those of ``failed``, whose jobs have one state."""
    which, me = ("failed jobs", "failed") if failed else ("jobs", "jobs")
    actions = flags.add_subcommands(command, "action")
    summary = f"print the newest {which}, a line each"
    listing = flags.add_command(actions, "list", summary, f"{me} list --name speak")
    _add_filters(listing, failed=failed)
    flags.add_flag(listing, "--limit", _LIMIT, "print at most this many (default: 50)", default=50)
    showing = flags.add_command(
        actions, "show", "print everything that Redis keeps of a job", f"{me} show silent"
    )
    showing.add_argument("job_id", metavar="ID", help="the job to look at")
    add_full(showing)
    summary = f"put {which if failed else 'failed or completed jobs'} back into their queues"
    retrying = flags.add_command(actions, "retry", summary, f"{me} retry silent --forget-steps")
    retrying.add_argument(
        "--reset-attempts", action="store_true", help="give them all their attempts again"
    )
    retrying.add_argument(
        "--forget-steps", action="store_true", help="run their steps anew, recorded or not"
    )
    retrying.add_argument(
        "--with-children",
        action="store_true",
        help="retry their failed children, too, and have them wait for these",
    )
    summary = f"remove {which}, with their children, logs and every other key of theirs"
    removing = flags.add_command(
        actions, "remove", summary, f"{me} remove --queue audio --name speak --dry-run"
    )
    acting = [retrying, removing]
    if not failed:
        acting.append(
            flags.add_command(
                actions,
                "promote",
                "let delayed jobs wait for a worker from now on",
                "jobs promote later",
            )
        )
    for action in acting:
        _add_selection(action, failed=failed)
    for action in (listing, showing, *acting):
        flags.add_json(action)
        looks = action in (listing, showing)
        flags.add_connection(action, flags.QUEUES_LOOKED_IN if looks else flags.QUEUES_ACTED_ON)
        action.set_defaults(only_failed=failed)


def add_full(command: Parser) -> None:
    command.add_argument(
        "--full", action="store_true", help="cut no value, and fold no frame of a library"
    )


def main(given: argparse.Namespace) -> int:
    """Do what the action says; return 1 if it was not done to a job that was named."""
    act = {"list": _list, "show": _show}.get(given.action, _act)
    return act(given)


def _add_selection(command: Parser, *, failed: bool) -> None:
    command.add_argument("ids", metavar="ID", nargs="*", help="the ids of the jobs to act on")
    _add_filters(command, failed=failed)
    command.add_argument(
        "--all", action="store_true", help="act on every job that the action applies to"
    )
    command.add_argument("--dry-run", action="store_true", help="only say how many are meant")


def _add_filters(command: Parser, *, failed: bool) -> None:
    if not failed:
        text = "only jobs in that state, such as failed or delayed; may be given again"
        flags.add_list(command, "--state", text)
    flags.add_list(command, "--name", "only jobs of that name; may be given again")
    flags.add_duration(
        command,
        "--older-than",
        "only jobs that ended longer ago; a job that has not ended counts from when it was added",
    )
    flags.add_duration(
        command, "--newer-than", "only jobs that ended, or were added, within this time"
    )
    command.add_argument(
        "--reason",
        metavar="TEXT",
        help="only jobs with this text in their reason; /PATTERN/ is a regular expression",
    )


def _list(given: argparse.Namespace) -> int:
    settings, wanted, states = flags.settings_of(given), _wanted(given), _states(given)
    from convolab_worker.cli.commands.jobs import actions
    from convolab_worker.cli.process.process import run_client
    from convolab_worker.cli.queues import looked_in

    async def newest() -> list[JobStatus]:
        there = await looked_in(settings, given)
        return await actions.newest(there, wanted, states, given.limit)

    found = run_client(settings, newest())
    if given.json:
        for job in found:
            result(as_json(asdict(job)))
        return 0
    if not found:
        which = f"{'failed ' * given.only_failed}job"
        is_filtered = not wanted.is_everything or bool(vars(given).get("states"))
        result(f"no {which} fits" if is_filtered else f"there is no {which}")
        return 0
    if given.only_failed:
        head = ["queue", "id", "name", "failed", "attempts", "reason"]
        rows = [[*_named(job), _when(job), job.attempts_made, _reason(job)] for job in found]
    else:
        head = ["queue", "id", "name", "state", "since", "attempts", "reason"]
        rows = [
            [*_named(job), job.state, _when(job), job.attempts_made, _reason(job)] for job in found
        ]
    result(jobs_table([head, *rows]))
    return 0


def jobs_table(rows: Sequence[Sequence[object]]) -> str:
    """Return the table; on a terminal too narrow for it each reason has a line of its own."""
    text = table(rows)
    if fits(text):
        return text
    lines = []
    for line, row in zip(table([row[:-1] for row in rows]).split("\n"), rows, strict=True):
        lines.append(line)
        if row is not rows[0] and row[-1]:
            lines.append(f"    {printable(str(row[-1]))}")
    return "\n".join(map(shortened, lines))


def _show(given: argparse.Namespace) -> int:
    settings = flags.settings_of(given)
    from convolab_worker.cli.commands.jobs import actions
    from convolab_worker.cli.process.process import run_client
    from convolab_worker.cli.queues import looked_in

    states = ("failed",) if given.only_failed else None

    async def find() -> tuple[JobDetails, Attempts]:
        there = await looked_in(settings, given)
        return await actions.find(there, given.job_id, states, whole=given.json or given.full)

    print_job(*run_client(settings, find()), given)
    return 0


def print_job(details: JobDetails, attempts: Attempts, given: argparse.Namespace) -> None:
    """Print one job; ``status`` does it, too."""
    from convolab_worker.cli.job_view import job_json, job_text

    if given.json:
        result(as_json(job_json(details, attempts)))
    else:
        result(job_text(details, attempts, time.time(), full=given.full))


def _act(given: argparse.Namespace) -> int:
    """Act on the jobs that are meant, and print how many there were."""
    settings, wanted, states = flags.settings_of(given), _wanted(given), _states(given)
    if wanted.is_everything and not (given.all or given.ids or getattr(given, "states", ())):
        which = "every failed job" if given.only_failed else "every job"
        msg = f"{which} is meant: expected ids, a filter such as --name, or --all"
        raise ConfigurationError(msg)
    from convolab_worker.cli.commands.jobs import actions
    from convolab_worker.cli.process.process import run_client
    from convolab_worker.cli.queues import acted_on, looked_in
    from convolab_worker.cli.wake_service import wake_service
    from convolab_worker.client.operating.actions import DONE, Action

    outcomes: Counter[str] = Counter()
    done = _DONE_TO_THEM[given.action]
    retried = ("reset_attempts", "forget_steps", "with_children")
    how = {what: getattr(given, what, False) for what in retried}
    action = Action(given.action, settings.prefix, **how)

    async def carry_out() -> None:
        there = await (looked_in if given.ids else acted_on)(settings, given)
        await actions.carry_out(
            there, wanted, states, given.ids, action, outcomes, dry_run=given.dry_run
        )

    try:
        run_client(settings, carry_out())
    except KeyboardInterrupt:
        count = outcomes[DONE]
        remark(f"stopped: {count} jobs were {done}, each of them completely; run it again")
        raise
    finally:  # also for the jobs before one that could not be retried
        if given.action != "remove" and outcomes[DONE] and not given.dry_run:
            run_client(settings, wake_service(settings, f"the jobs were {done}"))
    count = outcomes.pop(DONE, 0)
    if given.json:
        result(as_json({done: count, "not": dict(outcomes), "dry_run": given.dry_run}))
    else:
        would = "would be " if given.dry_run else ""
        result(f"{count} job{'' if count == 1 else 's'} {would}{done}")
    for reason, jobs in outcomes.items():
        remark(f"{jobs} not {done}: {reason}")
    return int(bool(given.ids) and bool(outcomes))


def _states(given: argparse.Namespace) -> Sequence[str]:
    """Return the states that are meant: those of the flags, or all that the action applies to."""
    from convolab_worker.client.operating import actions, jobs

    possible = [
        state
        for state in actions.STATES.get(given.action, jobs.STATES)
        if state != actions.UNPLACED
    ]
    if given.only_failed:
        return ("failed",)
    named = [state for states in given.states for state in states.split(",")]
    states = jobs.checked_states(named or None)
    if named:
        for state in states:
            if state not in possible:
                msg = f"--state {state}: {given.action} is for jobs that are {', '.join(possible)}"
                raise ConfigurationError(msg)
        return states
    if given.action == "retry" and not given.ids:
        return ("failed",)  # completed jobs are run again only by id, or by --state
    return possible


def _wanted(given: argparse.Namespace) -> Wanted:
    """Return the filter that the flags mean. Raises ConfigurationError for a wrong pattern."""
    from convolab_worker.client.operating.filters import Wanted

    return Wanted.of(
        name=given.names,
        older_than=given.older_than,
        newer_than=given.newer_than,
        reason=given.reason,
    )


def _named(job: JobStatus) -> list[str]:
    return [job.queue, job.id, job.name]


def _when(job: JobStatus) -> str:
    """Return when a job ended, has started or was added; of one that is delayed, when it is due."""
    from convolab_worker.cli.job_view import date

    if job.finished_on is None and job.due_at is not None:
        return f"due {date(job.due_at)}"
    started = job.processed_on if job.state == "active" else None
    return date(
        next((at for at in (job.finished_on, started, job.timestamp) if at is not None), None)
    )


def _reason(job: JobStatus) -> str:
    first = (job.failed_reason or "").strip().partition("\n")[0]
    return first if len(first) <= _LONGEST_REASON else f"{first[: _LONGEST_REASON - 1]}…"
