"""The flags of ``cost``, and what they describe: a workload, a host, and prices."""

from __future__ import annotations

import argparse
import re
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import convert

from convolab_worker.cli.arguments.flags import reader, reader_of
from convolab_worker.cli.commands.cost import report
from convolab_worker.cli.commands.cost.model import JobKind, Workload, table
from convolab_worker.cli.commands.cost.prices import Hosting, Prices
from convolab_worker.cli.output import result
from convolab_worker.errors import ConfigurationError, InvalidPayload
from convolab_worker.payloads.decode import decoder
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
    """Add the flags; those of a Workload and a Hosting are kept under the names of its fields."""
    group = command.add_argument_group("the workload (default: the ConvoLab app's)")
    text = (
        "jobs a day of one kind, and how long one runs; repeatable; the first --jobs replaces "
        f"all defaults ({', '.join(DEFAULT_JOBS)})"
    )
    form = "KIND=JOBS:LENGTH"
    group.add_argument("--jobs", metavar=form, dest="kinds", type=_jobs, action="append", help=text)
    _add(group, "--queue-count", "N", "queues", _count, "queues", 4)
    _add(group, "--worker-count", "N", "workers", _count, "worker processes", 1)
    slots = OPTIONS["concurrency"].default
    _add(group, "--slots", "N", "concurrency", _count, "jobs that one worker runs at once", slots)
    text = "progress updates of one job"
    _add(group, "--progress", "N", "progress_updates_per_job", _amount, text, 10.0)
    text = "jobs a day that wait for a time or a retry, and how long they wait (default: none)"
    _add(group, "--delayed", "JOBS:DELAY", "delayed", _delayed, text)
    for name in ("idle_min", "idle_max"):
        option, flag = OPTIONS[name], f"--{name.replace('_', '-')}"
        _add(group, flag, "DURATION", name, _duration, option.help, option.default)

    group = command.add_argument_group("the host (default: Cloud Run)")
    _add(group, "--vcpu", "N", "vcpu", _amount, "vCPUs of one instance", 1.0)
    _add(group, "--memory", "GIB", "memory_gib", _amount, "memory of one instance", 0.5)
    text = "time from a wake to the first fetch"
    _add(group, "--cold-start", "DURATION", "cold_start_seconds", _duration, text, 2.0)
    text = (
        "price a month of an always-on host that is not a Cloud Run instance; 0 if you pay for it "
        "anyway"
    )
    _add(group, "--host-usd", "USD", "always_on_usd_per_month", _amount, text)
    text = "charge for everything, because something else uses up the free allowances"
    group.add_argument("--no-free-tier", dest="free_tier", action="store_false", help=text)
    text = 'read other prices from a JSON file of the form that --json prints as "prices"'
    _add(group, "--prices", "FILE", "prices", Path, text)

    group = command.add_argument_group("output")
    text = "show this worker only where a wake starts it, or only where it is always on"
    group.add_argument("--wake", action=argparse.BooleanOptionalAction, help=text)
    group.add_argument("--json", action="store_true", help="print JSON instead of tables")
    _add(group, "--plot", "FILE", "plot", Path, "also draw a picture (.png, .svg or .pdf)")


def main(given: argparse.Namespace) -> int:
    """Print what a day and a month cost; with ``--plot``, draw it too."""
    settings = Settings(idle_min=given.idle_min, idle_max=given.idle_max)  # checks the flags
    given.idle = Bounds(shortest=settings.idle_min, longest=settings.idle_max)
    given.kinds = given.kinds or [*map(_jobs, DEFAULT_JOBS)]
    given.delayed_jobs_per_day, given.mean_delay_seconds = given.delayed or (0.0, 0.0)
    workload = convert(given, Workload, from_attributes=True)
    hosting = convert(given, Hosting, from_attributes=True)
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


def _add(
    group: Group, flag: str, metavar: str, dest: str, read: Reader, text: str, default: Any = None
) -> None:
    if default is not None:
        shown = format_duration(default) if metavar == "DURATION" else f"{default:g}"
        text = f"{text} (default: {shown})"
    group.add_argument(flag, metavar=metavar, dest=dest, type=read, default=default, help=text)


def load_prices(path: Path | None = None) -> Prices:
    """Return the prices of the file at ``path``, or those of the package.

    Raises ConfigurationError that names the file, the field and what was expected.
    """
    file = path or files(__package__).joinpath("prices.json")
    try:
        prices: Prices = decoder(Prices)(file.read_bytes())
    except (OSError, InvalidPayload) as error:
        msg = f"{file}: expected a JSON file of prices: {error}"
        raise ConfigurationError(msg) from error
    return prices


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
_amount = reader(_read_amount, expected="a number, 0 or more")
_duration = reader(parse_duration, expected="a duration such as 90, 90s, 5m or 1h")
_delayed = reader(_read_delayed, expected="JOBS:DELAY, such as 20:15m")
_jobs = reader(_read_kind, expected="KIND=JOBS:LENGTH, such as audio=40:45s")
