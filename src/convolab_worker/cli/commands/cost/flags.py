"""The flags of ``convolab-worker cost``.

The parser of every command has them, so nothing here imports the model.
"""

from __future__ import annotations

import argparse
import re
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convolab_worker._setting_types import Whole, format_duration, parse_duration
from convolab_worker.settings import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    Group = argparse._ArgumentGroup  # noqa: SLF001 - argparse has no public name for it
    Reader = Callable[[str], Any]

# A language-learning app of a few dozen learners a day: an assumption, not a measurement.
DEFAULT_JOBS = ("dialogue=40:20s", "audio=40:45s", "image=20:30s", "course=5:3m")
_COUNT = Whole(low=1, high=999_999_999)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that describe a workload and its host, and those that choose the output."""
    _add_workload(parser.add_argument_group("the workload (default: the ConvoLab app's)"))
    _add_hosting(parser.add_argument_group("the host (default: Cloud Run)"))
    output = parser.add_argument_group("output")
    text = "show this worker only where a wake starts it, or only where it is always on"
    output.add_argument("--wake", action=argparse.BooleanOptionalAction, help=text)
    output.add_argument("--json", action="store_true", help="print JSON instead of tables")
    _add(output, "--plot", "FILE", Path, "also draw a picture (.png, .svg or .pdf)")


def _add_workload(group: Group) -> None:
    text = (
        "jobs a day of one kind, and how long one runs; repeatable; the first --jobs replaces "
        f"all defaults ({', '.join(DEFAULT_JOBS)})"
    )
    form = "KIND=JOBS:LENGTH"
    group.add_argument("--jobs", metavar=form, type=read_jobs, action="append", help=text)
    _add(group, "--queue-count", "N", _count, "queues", 4)
    _add(group, "--worker-count", "N", _count, "worker processes", 1)
    slots = OPTIONS["concurrency"].default
    _add(group, "--slots", "N", _count, "jobs that one worker runs at once", slots)
    _add(group, "--progress", "N", _amount, "progress updates of one job", 10.0)
    text = "jobs a day that wait for a time or a retry, and how long they wait (default: none)"
    _add(group, "--delayed", "JOBS:DELAY", _delayed, text)
    for flag, name in (("--idle-min", "idle_min"), ("--idle-max", "idle_max")):
        _add(group, flag, "DURATION", _duration, OPTIONS[name].help, OPTIONS[name].default)


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


def _expecting(expected: str, read: Reader) -> Reader:
    def value_of(text: str) -> Any:
        try:
            return read(text.strip())
        except ValueError:
            msg = f"{text!r}: expected {expected}"
            raise argparse.ArgumentTypeError(msg) from None

    return value_of


def _read_amount(text: str) -> float:
    amount = float(text)
    if not 0 <= amount < inf:
        raise ValueError
    return amount


def _read_delayed(text: str) -> tuple[float, float]:
    jobs, _, duration = text.partition(":")
    return _read_amount(jobs), parse_duration(duration)


def _read_kind(text: str) -> tuple[str, float, float]:
    kind, _, numbers = text.partition("=")
    if not re.fullmatch(r"[A-Za-z][\w-]*", kind):
        raise ValueError
    return (kind, *_read_delayed(numbers))


_count = _expecting("a whole number, 1 or more", lambda text: _COUNT.check(_COUNT.parse(text)))
_amount = _expecting("a number, 0 or more", _read_amount)
_duration = _expecting("a duration such as 90, 90s, 5m or 1h", parse_duration)
_delayed = _expecting("JOBS:DELAY, such as 20:15m", _read_delayed)
read_jobs = _expecting("KIND=JOBS:LENGTH, such as audio=40:45s", _read_kind)
