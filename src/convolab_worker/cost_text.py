"""Pure: the cost model's tables as text of at most 100 columns."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convolab_worker.cost import Row
    from convolab_worker.cost_checks import Check
    from convolab_worker.cost_counts import Workload

WIDTH = 100
_NOTHING = "-"
_MINUTE_SECONDS = 60.0
_HOUR_SECONDS = 3600.0
_TEN_THOUSAND = 10_000.0
_TEN_MILLION = 10_000_000.0


def as_text(
    workload: Workload, rows: Sequence[Row], compared: Sequence[Check], told: Sequence[str]
) -> str:
    """Return the whole report: the workload, two tables, the comparison, every assumption."""
    sections = [
        ("Redis commands a day, and how long a job waits for its start", _command_cells(rows)),
        ("USD a month", _money_cells(rows)),
        (
            "The proposal's numbers and the measured ones, beside this model's",
            _check_cells(compared),
        ),
    ]
    blocks = [wrapped(described(workload))]
    blocks += [f"{heading}\n\n{columns(cells)}" for heading, cells in sections]
    blocks.append("Assumptions\n\n" + "\n".join(wrapped(line, bullet="- ") for line in told))
    return "\n\n".join(blocks)


def described(workload: Workload) -> str:
    """Return one sentence that says what is to be done in a day."""
    kinds = ", ".join(
        f"{kind.jobs_per_day:g} {kind.name} of {duration(kind.mean_seconds)}"
        for kind in workload.kinds
    )
    return (
        f"A day of {workload.jobs_per_day:g} jobs ({kinds or 'none'}); "
        f"{_counted(workload.queues, 'queue')}, {_counted(workload.workers, 'worker')} with "
        f"{_counted(workload.concurrency, 'slot')}; "
        f"on average {workload.load:.2g} jobs run at once."
    )


def duration(seconds: float | None) -> str:
    """Write a time to two or three digits: ``5.4 ms``, ``2 s``, ``5 min``, ``30 min``."""
    if seconds is None:
        return "next wake"
    if 0 < seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 2 * _MINUTE_SECONDS:
        return f"{seconds:.3g} s"
    if seconds < 2 * _HOUR_SECONDS:
        return f"{seconds / _MINUTE_SECONDS:.3g} min"
    return f"{seconds / _HOUR_SECONDS:.3g} h"


def count(number: float) -> str:
    """Write a number of things: whole, or from ten millions on in millions."""
    if number < _TEN_MILLION:
        return f"{number:,.0f}"
    return f"{number / 1e6:,.1f} M" if number < 1000 * _TEN_MILLION else f"{number:.2e}"


def wrapped(text: str, *, bullet: str = "") -> str:
    """Break a paragraph into lines, with a hanging indent below a bullet."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def columns(cells: Sequence[Sequence[str]]) -> str:
    """Align cells, the first column to the left and all others to the right.

    The first row is the head; a line break in it makes a second line of it.
    """
    head, *body = cells
    depth = max(cell.count("\n") for cell in head) + 1
    split = [("\n" * (depth - 1 - cell.count("\n")) + cell).split("\n") for cell in head]
    lines = [[part[n] for part in split] for n in range(depth)]
    widths = [max(map(len, column)) for column in zip(*lines, *body, strict=True)]
    lines.append(["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (*lines, *body)
    )


def _command_cells(rows: Sequence[Row]) -> list[list[str]]:
    head = [
        "",
        "client-sent,\nall",
        "billable,\nall",
        "billable,\nidle",
        "starts\na day",
        "worst\nwait",
        "if a signal\nis lost",
    ]
    return [
        head,
        *(
            [
                row.way.name,
                count(row.commands.client_sent),
                count(row.commands.billable),
                count(row.idle.billable),
                count(row.starts) if row.way.sleeps else _NOTHING,
                duration(row.worst_pickup_seconds),
                duration(row.if_signal_lost_seconds),
            ]
            for row in rows
        ),
    ]


def _money_cells(rows: Sequence[Row]) -> list[list[str]]:
    head = [
        "",
        "million\ncommands",
        "Redis\nmetered",
        "cheapest\nplan",
        "Redis\non it",
        "compute",
        "scheduler",
        "total",
    ]
    return [
        head,
        *(
            [
                row.way.name,
                _digits(row.redis.commands_per_month / 1e6, 3),
                _digits(row.redis.pay_as_you_go_usd, 2),
                row.redis.plan,
                _digits(row.redis.plan_usd, 2),
                _digits(row.compute_usd, 2),
                _digits(row.scheduler_usd, 2),
                _digits(row.total_usd, 2),
            ]
            for row in rows
        ),
    ]


def _check_cells(compared: Sequence[Check]) -> list[list[str]]:
    return [
        ["", "proposal", "measured", "model", "how"],
        *(
            [
                check.what,
                *map(_number, (check.proposal, check.measured, check.model)),
                check.source,
            ]
            for check in compared
        ),
    ]


def _digits(amount: float, places: int) -> str:
    """Write an amount with so many places, or with none where they would say nothing."""
    return f"{amount:,.{places}f}" if amount < _TEN_THOUSAND else count(amount)


def _number(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return count(value) if value == round(value) else _digits(value, 2)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
