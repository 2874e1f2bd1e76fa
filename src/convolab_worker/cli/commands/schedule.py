"""``schedule``: lists, writes and removes job schedulers."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from convolab_worker.cli.arguments import flags, job_flags
from convolab_worker.cli.output import as_json, remark, result, table
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.kinds import Duration, Whole
from convolab_worker.settings.units import format_duration

if TYPE_CHECKING:
    import argparse

    from convolab_worker.bullmq.protocol.schedules import Schedule
    from convolab_worker.cli.arguments.flags import Parser
    from convolab_worker.client.client import JobClient
    from convolab_worker.settings import Settings

EXAMPLE = "schedule list"

_EVERY = Duration(low=0.001, high=3650 * 24 * 3600.0)
_LIMIT = Whole(low=1)


def add_flags(command: Parser) -> None:
    actions = flags.add_subcommands(command, "action")
    listing = flags.add_command(
        actions, "list", "print the schedules, the next one due first", "schedule list"
    )
    setting = flags.add_command(
        actions,
        "set",
        "create a schedule, or replace the one with the same id",
        """schedule set morning speak '{"text": "Good morning"}' --cron '0 7 * * *' """
        "--tz Europe/Berlin --queue audio",
    )
    removing = flags.add_command(
        actions,
        "remove",
        "remove a schedule and its next job",
        "schedule remove morning --queue audio",
    )
    for action in (setting, removing):
        action.add_argument("id", metavar="ID", help="the schedule's id")
    _add_setting(setting)
    for action in (listing, setting, removing):
        flags.add_json(action)
    flags.add_connection(listing, flags.QUEUES_LOOKED_IN)
    flags.add_connection(setting, "the queue that its jobs go to (default: convolab)")
    flags.add_connection(removing, flags.QUEUES_ACTED_ON)


def _add_setting(command: Parser) -> None:
    command.add_argument("name", metavar="NAME", help="the name of its jobs")
    job_flags.add_data(command, "their data")
    flags.add_flag(
        command, "--every", _EVERY, "time from one job to the next; the first one starts at once"
    )
    command.add_argument(
        "--cron", metavar="PATTERN", help="a pattern of five fields, minute first, or of six "
        "that begin with the seconds"
    )  # fmt: skip
    command.add_argument("--tz", metavar="ZONE", help="the pattern's time zone, or else the host's")
    flags.add_flag(command, "--limit", _LIMIT, "how many jobs, at most")
    for flag, text in (("--start", "no job before then"), ("--until", "no job after then")):
        command.add_argument(
            flag,
            metavar="TIME",
            type=flags.reader(read_time),
            help=f"{text}: 2027-03-01T09:00:00+01:00, or seconds since the epoch",
        )
    command.add_argument(
        "--immediately", action="store_true", help="with --cron: the first job starts at once"
    )
    job_flags.add_flags(command)


def main(given: argparse.Namespace) -> int:
    """Do what the action says; return 1 if a schedule that is to be removed is not there."""
    from convolab_worker.cli.process.process import run_client

    settings = flags.settings_of(given)
    if given.action == "set":
        if (given.every is None) == (given.cron is None):
            msg = "when is it due? expected either --every DURATION or --cron PATTERN"
            raise ConfigurationError(msg)
        job_flags.expect_one_queue(given, settings, "its jobs go to")
        given.data = job_flags.read_data(given.data)
    act = {"list": _list, "set": _set, "remove": _remove}[given.action]
    return run_client(settings, _acted(act, settings, given))


async def _acted(act: Any, settings: Settings, given: argparse.Namespace) -> int:
    from convolab_worker.cli.queues import acted_on, looked_in, new_queues
    from convolab_worker.cli.wake_service import WAKE_SECONDS
    from convolab_worker.client.client import JobClient

    sentences = []
    if given.action == "set":
        sentences = await new_queues(settings, given)
    else:
        settings = await (looked_in if given.action == "list" else acted_on)(settings, given)
    client = JobClient(settings)  # connects only once the schedule is known to be right
    try:
        code: int = await act(client, given)
        for sentence in sentences:
            remark(sentence)
        if not await client.wake_heard(WAKE_SECONDS):
            remark(f"schedule {given.id} is written, but the worker service was not woken")
    finally:
        await client.close()
    return code


async def _list(client: JobClient, given: argparse.Namespace) -> int:
    found = await client.schedules()
    if given.json:
        for schedule in found:
            result(as_json(asdict(schedule)))
    elif not found:
        remark("there are no schedules")
    else:
        head = ("id", "queue", "name", "when", "next", "jobs")
        result(table([head, *(_row(schedule) for schedule in found)]))
    return flags.DONE


async def _set(client: JobClient, given: argparse.Namespace) -> int:
    job_id = await client.schedule(
        given.id,
        given.name,
        given.data,
        every=given.every,
        cron=given.cron,
        tz=given.tz,
        limit=given.limit,
        start=given.start,
        until=given.until,
        immediately=given.immediately,
        **job_flags.job_options(given),
    )
    if given.json:
        result(as_json({"schedule": given.id, "id": job_id}))
    else:
        result(job_id)
        remark(f"{given.id} is due next at {_moment(_due(job_id))}{_pattern_in_words(given)}")
    return flags.DONE


def _due(job_id: str) -> float:
    """Return the epoch seconds that the id of a schedule's job ends with, in milliseconds."""
    return int(job_id.rpartition(":")[2]) / 1000


def _moment(epoch_seconds: float) -> str:
    return f"{datetime.fromtimestamp(epoch_seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _pattern_in_words(given: argparse.Namespace) -> str:
    """Return what the pattern means: a field too few is another time, and not a mistake."""
    if given.cron is None:
        return ""
    from convolab_worker.bullmq.cron.words import in_words

    zone = f", {given.tz}" if given.tz else ""
    return f" (pattern: {in_words(given.cron, given.id)}{zone})"


async def _remove(client: JobClient, given: argparse.Namespace) -> int:
    if await client.unschedule(given.id):
        done = {"schedule": given.id, "done": "removed"}
        result(as_json(done) if given.json else f"{given.id} is removed")
        return flags.DONE
    remark(f"there is no schedule {given.id} on {', '.join(client.settings.queues)}")
    return flags.FAILED


def _row(schedule: Schedule) -> tuple[object, ...]:
    when = schedule.cron or f"every {format_duration(schedule.every or 0.0)}"
    zone = f" {schedule.tz}" if schedule.tz else ""
    most = f" of {schedule.limit}" if schedule.limit is not None else ""
    return (
        schedule.id,
        schedule.queue,
        schedule.name,
        f"{when}{zone}",
        _moment(schedule.next_at),
        f"{schedule.count}{most}",
    )


def read_time(text: str) -> float:
    """Return the epoch seconds of a time; raises ValueError, which says what it may be."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        msg = "a time with its zone, such as 2027-03-01T09:00:00+01:00, or seconds since the epoch"
        raise ValueError(msg)
    return moment.timestamp()
