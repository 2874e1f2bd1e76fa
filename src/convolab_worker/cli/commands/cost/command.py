"""The flags of ``cost``, and what they describe: a workload, a host, and prices."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convolab_worker.cli.arguments.flags import reader, reader_of
from convolab_worker.cli.commands.cost import report
from convolab_worker.cli.commands.cost.model import JobKind, Workload, table
from convolab_worker.cli.commands.cost.prices import Hosting, Prices
from convolab_worker.cli.output import result
from convolab_worker.errors import ConfigurationError, InvalidPayload
from convolab_worker.payloads.decode import decode_data, decoder
from convolab_worker.settings import OPTIONS, Settings
from convolab_worker.settings.kinds import Whole
from convolab_worker.settings.units import format_duration, parse_duration
from convolab_worker.worker.dispatch.idle_backoff import Bounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.cli.arguments.flags import Parser

    Group = argparse._ArgumentGroup  # noqa: SLF001 - argparse has no public name for it
    Reader = Callable[[str], Any]

EXAMPLE = "cost --jobs audio=200:45s --queue-count 1"

# A language-learning app of a few dozen learners a day: an assumption, not a measurement.
DEFAULT_JOBS = ("dialogue=40:20s", "audio=40:45s", "image=20:30s", "course=5:3m")


def add_flags(command: Parser) -> None:
    _add_workload(command.add_argument_group("the workload (default: the ConvoLab app's)"))
    _add_hosting(command.add_argument_group("the host (default: Cloud Run)"))
    output = command.add_argument_group("output")
    text = "show this worker only where a wake starts it, or only where it is always on"
    output.add_argument("--wake", action=argparse.BooleanOptionalAction, help=text)
    output.add_argument("--json", action="store_true", help="print JSON instead of tables")
    _add(output, "--plot", "FILE", Path, "also draw a picture (.png, .svg or .pdf)")


def main(given: argparse.Namespace) -> int:
    """Print what a day and a month cost; with ``--plot``, draw it too."""
    settings = Settings(idle_min=given.idle_min, idle_max=given.idle_max)  # checks the flags
    delayed_jobs, mean_delay = given.delayed
    workload = Workload(
        kinds=tuple(given.jobs or map(_jobs, DEFAULT_JOBS)),
        queues=given.queue_count,
        workers=given.worker_count,
        concurrency=given.slots,
        progress_updates_per_job=given.progress,
        delayed_jobs_per_day=delayed_jobs,
        mean_delay_seconds=mean_delay,
        idle=Bounds(shortest=settings.idle_min, longest=settings.idle_max),
    )
    hosting = Hosting(
        vcpu=given.vcpu,
        memory_gib=given.memory,
        cold_start_seconds=given.cold_start,
        free_tier=not given.no_free_tier,
        always_on_usd_per_month=given.host_usd,
    )
    prices = load_prices(given.prices)
    rows = [
        row
        for row in table(workload, prices, hosting)
        if given.wake in (None, row.way.sleeps) or row.way.bullmq_waits
    ]
    if given.plot:
        report.draw(rows, prices, given.plot)
    write = report.as_lines if given.json else report.as_text
    result(write(workload, hosting, prices, rows))
    return 0


def _add_workload(group: Group) -> None:
    text = (
        "jobs a day of one kind, and how long one runs; repeatable; the first --jobs replaces "
        f"all defaults ({', '.join(DEFAULT_JOBS)})"
    )
    form = "KIND=JOBS:LENGTH"
    group.add_argument("--jobs", metavar=form, type=_jobs, action="append", help=text)
    _add(group, "--queue-count", "N", _count, "queues", 4)
    _add(group, "--worker-count", "N", _count, "worker processes", 1)
    slots = OPTIONS["concurrency"].default
    _add(group, "--slots", "N", _count, "jobs that one worker runs at once", slots)
    _add(group, "--progress", "N", _amount, "progress updates of one job", 10.0)
    text = "jobs a day that wait for a time or a retry, and how long they wait (default: none)"
    none = (0.0, 0.0)
    group.add_argument("--delayed", metavar="JOBS:DELAY", type=_delayed, default=none, help=text)
    shortest, longest = OPTIONS["idle_min"], OPTIONS["idle_max"]
    _add(group, "--idle-min", "DURATION", _duration, shortest.help, shortest.default)
    _add(group, "--idle-max", "DURATION", _duration, longest.help, longest.default)


def _add_hosting(group: Group) -> None:
    _add(group, "--vcpu", "N", _amount, "vCPUs of one instance", 1.0)
    _add(group, "--memory", "GIB", _amount, "memory of one instance", 0.5)
    _add(group, "--cold-start", "DURATION", _duration, "time from a wake to the first fetch", 2.0)
    text = "price a month of an always-on host that is not a Cloud Run instance; 0 if you pay for"
    _add(group, "--host-usd", "USD", _amount, f"{text} it anyway")
    text = "charge for everything, because something else uses up the free allowances"
    group.add_argument("--no-free-tier", action="store_true", help=text)
    text = 'read other prices from a JSON file of the form that --json prints as "prices"'
    _add(group, "--prices", "FILE", Path, text)


def _add(
    group: Group, flag: str, metavar: str, read: Reader, text: str, default: Any = None
) -> None:
    if default is not None:
        shown = format_duration(default) if metavar == "DURATION" else f"{default:g}"
        text = f"{text} (default: {shown})"
    group.add_argument(flag, metavar=metavar, type=read, default=default, help=text)


def load_prices(path: Path | None = None) -> Prices:
    """Return the prices of the file at ``path``, or those of the package.

    Raises ConfigurationError that names the file, the field and what was expected.
    """
    file = path or files(__package__).joinpath("prices.json")
    try:
        raw = file.read_bytes()
        document = decode_data(raw)
        prices: Prices = decoder(Prices)(raw)
    except (OSError, InvalidPayload) as error:
        msg = f"{file}: expected a JSON file of prices: {error}"
        raise ConfigurationError(msg) from error
    for name, section in asdict(prices).items():
        if isinstance(section, dict) and (unknown := sorted({*document[name]} - {*section})):
            msg = f"{file}: {name}.{unknown[0]}: expected one of {', '.join(section)}"
            raise ConfigurationError(msg)
    return prices


def _expecting(expected: str, read: Reader) -> Reader:
    def value_of(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            raise ValueError(expected) from None

    return reader(value_of)


def _read_amount(text: str) -> float:
    amount = float(text)
    if not 0 <= amount < inf:
        raise ValueError
    return amount


def _read_delayed(text: str) -> tuple[float, float]:
    jobs, _, duration = text.partition(":")
    return _read_amount(jobs), parse_duration(duration)


def _read_kind(text: str) -> JobKind:
    name, _, numbers = text.partition("=")
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise ValueError
    jobs, seconds = _read_delayed(numbers)
    return JobKind(name=name, jobs_per_day=jobs, mean_seconds=seconds)


_count = reader_of(Whole(low=1))
_amount = _expecting("a number, 0 or more", _read_amount)
_duration = _expecting("a duration such as 90, 90s, 5m or 1h", parse_duration)
_delayed = _expecting("JOBS:DELAY, such as 20:15m", _read_delayed)
_jobs = _expecting("KIND=JOBS:LENGTH, such as audio=40:45s", _read_kind)
