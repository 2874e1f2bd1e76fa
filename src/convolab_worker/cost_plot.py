"""A picture of the cost model's rows; the only module that draws, and only with ``--plot``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.cost_text import duration
from convolab_worker.errors import ConfigurationError
from convolab_worker.prices import DAYS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from convolab_worker.cost import Row
    from convolab_worker.prices import Prices

_FORMATS = (".png", ".svg", ".pdf")
_BULLMQ, _OURS = "#b3541e", "#1f6f8b"
_PARTS = ("#b3541e", "#7a9e7e", "#c9b458")


def draw(rows: Sequence[Row], prices: Prices, file: Path) -> None:
    """Draw commands a day, USD a month and the worst wait, a bar for each way of working.

    Raises ConfigurationError without matplotlib (the extra ``plot``), for an ending that is
    none of ``.png``, ``.svg`` and ``.pdf``, and where the file can't be written.
    """
    if file.suffix.lower() not in _FORMATS:
        msg = f"--plot {file}: expected a file name that ends in {', '.join(_FORMATS)}"
        raise ConfigurationError(msg)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        msg = "--plot needs matplotlib: pip install 'convolab_worker[plot]'"
        raise ConfigurationError(msg) from error
    figure: Any = Figure(figsize=(13, 1.6 + 0.5 * len(rows)), layout="constrained")
    commands, money, waits = figure.subplots(1, 3, sharey=True)
    _draw_commands(commands, rows, prices)
    _draw_money(money, rows)
    _draw_waits(waits, rows)
    commands.set_yticks(range(len(rows)), [row.way.name for row in rows])
    commands.invert_yaxis()
    figure.suptitle("Redis commands, money and waiting, by way of working")
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        msg = f"--plot {file}: can't be written: {error.strerror or error}"
        raise ConfigurationError(msg) from error


def _colours(rows: Sequence[Row]) -> list[str]:
    return [_OURS if row.way.bullmq_waits is None else _BULLMQ for row in rows]


def _draw_commands(axes: Any, rows: Sequence[Row], prices: Prices) -> None:
    amounts = [row.commands.billable for row in rows]
    places = range(len(rows))
    bars = axes.barh(places, amounts, color=_colours(rows), alpha=0.45)
    axes.barh(places, [row.idle.billable for row in rows], height=0.3, color=_colours(rows))
    axes.set_xscale("log")
    axes.set_xlim(1, max([*amounts, 10.0]) * 30)
    axes.bar_label(bars, [f"{amount:,.0f}" for amount in amounts], padding=3, fontsize=8)
    free_per_day = prices.redis.free_plan_commands_per_month / DAYS_PER_MONTH
    axes.axvline(free_per_day, color="black", linestyle="--", linewidth=1)
    axes.set_xlabel(
        f"billable commands a day, idle part dark\n(dashed: the free plan, {free_per_day:,.0f})"
    )


def _draw_money(axes: Any, rows: Sequence[Row]) -> None:
    left = [0.0] * len(rows)
    parts = {
        "Redis, cheapest plan": [row.redis.plan_usd for row in rows],
        "compute": [row.compute_usd for row in rows],
        "scheduler": [row.scheduler_usd for row in rows],
    }
    for (label, amounts), colour in zip(parts.items(), _PARTS, strict=True):
        axes.barh(range(len(rows)), amounts, left=left, color=colour, label=label)
        left = [a + b for a, b in zip(left, amounts, strict=True)]
    for place, total in enumerate(left):
        axes.annotate(
            f"{total:,.2f}",
            (total, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlim(0, max([*left, 1.0]) * 1.25)
    axes.set_xlabel("USD a month")
    axes.legend(fontsize=8, loc="lower right")


def _draw_waits(axes: Any, rows: Sequence[Row]) -> None:
    waits = [row.worst_pickup_seconds for row in rows]
    bars = axes.barh(range(len(rows)), waits, color=_colours(rows))
    axes.set_xscale("log")
    axes.set_xlim(0.001, max([*waits, 1.0]) * 20)
    axes.bar_label(bars, [duration(wait) for wait in waits], padding=3, fontsize=8)
    axes.set_xlabel("worst wait for a job's start, seconds")
