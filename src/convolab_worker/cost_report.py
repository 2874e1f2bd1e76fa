"""``convolab-worker cost``: flags in, the cost model's tables as text, JSON or a picture out."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker._setting_types import format_duration, parse_duration
from convolab_worker.settings import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.cost import Hosting, Row, Way
    from convolab_worker.cost_counts import Workload

# A language-learning app of a few dozen learners a day: assumed, to be replaced by your own.
CONVOLAB_JOBS = ("dialogue=40:20s", "audio=40:45s", "image=20:30s", "course=5:3m")
CONVOLAB_QUEUES = 4

_KIND = re.compile(r"([A-Za-z][\w-]*)=([^:]+):(.+)")
_KIND_EXPECTED = "KIND=JOBS:LENGTH, such as audio=40:45s"
_DELAYED_EXPECTED = "JOBS:DELAY, such as 20:15m"


class _Jobs(NamedTuple):
    """What ``--jobs`` says, and ``--delayed`` without a kind."""

    kind: str
    jobs_per_day: float
    mean_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that describe a workload and say what to do with the tables."""
    _add_workload(parser.add_argument_group("the workload, by default that of the ConvoLab app"))
    _add_hosting(parser.add_argument_group("what it runs on, by default Cloud Run"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--wake",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="of this worker, show only the ways that are waked, or only the one always on",
    )
    output.add_argument("--json", action="store_true", help="print JSON instead of tables")
    output.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw a picture too (.png, .svg or .pdf)"
    )


def main(args: argparse.Namespace) -> int:
    """Print the tables and draw the picture, as the flags say; 0 if that is done.

    Raises ConfigurationError for numbers, prices or a picture's file that can't be used.
    """
    # Here and below, not above: the flags of all commands are added whenever one of them runs.
    from convolab_worker.cli.output import as_json, result
    from convolab_worker.cost import table
    from convolab_worker.cost_assumptions import assumptions
    from convolab_worker.cost_checks import checks
    from convolab_worker.cost_text import as_text
    from convolab_worker.prices import load_prices

    workload, hosting = _workload(args), _hosting(args)
    prices = load_prices(args.prices)
    every_row = table(workload, prices, hosting=hosting)
    rows = [row for row in every_row if _shown(row.way, wake=args.wake)]
    compared, told = checks(every_row, prices), assumptions(workload, prices, hosting)
    if args.plot is not None:
        from convolab_worker.cost_plot import draw

        draw(rows, prices, args.plot)
    if not args.json:
        result(as_text(workload, rows, compared, told))
        return 0
    report = {
        "workload": asdict(workload),
        "hosting": asdict(hosting),
        "ways": [_plain(row) for row in rows],
        "checks": [asdict(check) for check in compared],
        "assumptions": told,
        "prices": asdict(prices),
    }
    result(as_json(report))
    return 0


def _shown(way: Way, *, wake: bool | None) -> bool:
    return wake is None or way.bullmq_waits is not None or way.sleeps == wake


def _plain(row: Row) -> dict[str, Any]:
    return asdict(row) | {"total_usd": row.total_usd}


def _workload(args: argparse.Namespace) -> Workload:
    from convolab_worker.cost_counts import JobKind, Workload
    from convolab_worker.worker.dispatch.idle_backoff import Bounds

    kinds = args.jobs or [_kind(text) for text in CONVOLAB_JOBS]
    return Workload(
        kinds=tuple(
            JobKind(name=kind, jobs_per_day=jobs_per_day, mean_seconds=mean_seconds)
            for kind, jobs_per_day, mean_seconds in kinds
        ),
        queues=args.queue_count,
        workers=args.worker_count,
        concurrency=args.slots,
        progress_updates_per_job=args.progress,
        delayed_jobs_per_day=args.delayed.jobs_per_day,
        mean_delay_seconds=args.delayed.mean_seconds,
        idle=Bounds(shortest=args.idle_min, longest=args.idle_max),
    )


def _hosting(args: argparse.Namespace) -> Hosting:
    from convolab_worker.cost import Hosting

    return Hosting(
        vcpu=args.vcpu,
        memory_gib=args.memory,
        cold_start_seconds=args.cold_start,
        free_tier=not args.no_free_tier,
        always_on_usd_per_month=args.host_usd,
    )


# The kinds of flag: each reads text, and says what it expected where it can't.


def _of(read: Callable[[str], Any], expected: str) -> Callable[[str], Any]:
    def value_of(text: str) -> Any:
        try:
            return read(text.strip())
        except ValueError:
            msg = f"{text!r}: expected {expected}"
            raise argparse.ArgumentTypeError(msg) from None

    return value_of


def _count(text: str) -> int:
    number = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
    if number < 1:
        raise ValueError
    return number


def _amount(text: str) -> float:
    number = float(text)
    if not (isfinite(number) and number >= 0):
        raise ValueError
    return number


def _kind(text: str) -> _Jobs:
    found = _KIND.fullmatch(text)
    if not found:
        raise ValueError
    name, jobs, length = found.groups()
    return _Jobs(name, _amount(jobs), parse_duration(length))


def _delayed(text: str) -> _Jobs:
    jobs, _, delay = text.partition(":")
    return _Jobs("delayed", _amount(jobs), parse_duration(delay))


_COUNT = _of(_count, "a whole number, 1 or more")
_AMOUNT = _of(_amount, "a number, 0 or more")
_DURATION = _of(parse_duration, "a duration such as 90, 90s, 5m or 1h")


def _add_workload(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--jobs",
        metavar="KIND=JOBS:LENGTH",
        action="append",
        type=_of(_kind, _KIND_EXPECTED),
        help="jobs a day of one kind, and how long one runs; repeatable; the first one takes "
        f"the place of all defaults ({', '.join(CONVOLAB_JOBS)})",
    )
    _add(group, "--queue-count", "N", _COUNT, CONVOLAB_QUEUES, "queues")
    concurrency = OPTIONS["concurrency"].default
    _add(group, "--worker-count", "N", _COUNT, 1, "worker processes")
    _add(group, "--slots", "N", _COUNT, concurrency, "jobs that one worker runs at once")
    _add(group, "--progress", "N", _AMOUNT, 10.0, "progress updates of one job")
    group.add_argument(
        "--delayed",
        metavar="JOBS:DELAY",
        type=_of(_delayed, _DELAYED_EXPECTED),
        default=_Jobs("delayed", 0.0, 0.0),
        help="jobs a day that wait for a time or a retry, and how long (default: none)",
    )
    for name in ("idle_min", "idle_max"):
        option = OPTIONS[name]
        flag = f"--{name.replace('_', '-')}"
        _add(group, flag, "DURATION", _DURATION, option.default, option.help)


def _add_hosting(group: argparse._ArgumentGroup) -> None:
    _add(group, "--vcpu", "N", _AMOUNT, 1.0, "vCPUs of one instance")
    _add(group, "--memory", "GIB", _AMOUNT, 0.5, "memory of one instance")
    _add(group, "--cold-start", "DURATION", _DURATION, 2.0, "from a wake to the first fetch")
    group.add_argument(
        "--host-usd",
        metavar="USD",
        type=_AMOUNT,
        help="price a month of an always-on host that is no Cloud Run instance; 0 for one that "
        "is paid for anyway",
    )
    group.add_argument(
        "--no-free-tier", action="store_true", help="the free allowances are used up otherwise"
    )
    group.add_argument(
        "--prices", metavar="FILE", type=Path, help="other prices (JSON, as in data/prices.json)"
    )


def _add(
    group: argparse._ArgumentGroup,
    flag: str,
    metavar: str,
    read: Callable[[str], Any],
    default: float,
    text: str,
) -> None:
    shown = format_duration(default) if metavar == "DURATION" else f"{default:g}"
    group.add_argument(
        flag, metavar=metavar, type=read, default=default, help=f"{text} (default: {shown})"
    )
