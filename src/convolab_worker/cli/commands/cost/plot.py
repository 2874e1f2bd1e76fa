"""The picture of ``--plot``; nothing else imports matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.cli.commands.cost.prices import DAYS_PER_MONTH
from convolab_worker.cli.commands.cost.report import count, duration
from convolab_worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from convolab_worker.cli.commands.cost.model import Row
    from convolab_worker.cli.commands.cost.prices import Prices

_FORMATS = (".png", ".svg", ".pdf")
_BULLMQ, _OURS = "#b3541e", "#1f6f8b"


def draw(rows: Sequence[Row], prices: Prices, file: Path) -> None:
    """Draw commands a day, USD a month and the worst wait, a bar for each way of working.

    Raises ConfigurationError without matplotlib (the extra ``plot``), for a file name that ends
    in none of ``.png``, ``.svg`` and ``.pdf``, and for a file that can't be written.
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
    figure.suptitle("Redis commands, money and waiting, by way of working")
    commands, money, waits = figure.subplots(1, 3, sharey=True)
    commands.set_yticks(range(len(rows)), [row.way.name for row in rows])
    commands.invert_yaxis()
    free_per_day = prices.redis.free_plan_commands_per_month / DAYS_PER_MONTH
    commands.axvline(free_per_day, color="black", linestyle="--", linewidth=1)
    dashed = f"dashed: the free plan, {free_per_day:,.0f}"
    commands.set_xlabel(f"billable commands a day, idle part dark\n({dashed})")
    _draw_bars(commands, rows, lambda row: (row.commands.billable, row.idle.billable), count)
    money.set_xlabel("USD a month, Redis (on its cheapest plan) dark")
    _draw_bars(money, rows, lambda row: (row.total_usd, row.redis.plan_usd), "{:,.2f}".format)
    waits.set_xlabel("worst wait for a job's start, seconds")
    _draw_bars(waits, rows, lambda row: (row.worst_pickup_seconds, 0.0), duration)
    commands.set(xscale="log", xlim=(1, None))
    waits.set(xscale="log", xlim=(0.001, None))
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        msg = f"--plot {file}: can't be written: {error.strerror or error}"
        raise ConfigurationError(msg) from error


def _draw_bars(
    axes: Any,
    rows: Sequence[Row],
    amounts: Callable[[Row], tuple[float, float]],
    label: Callable[[float], str],
) -> None:
    """Draw a bar for each row, with a dark part inside, and label the whole."""
    wholes, parts = zip(*map(amounts, rows), strict=True)
    colours = [_BULLMQ if row.way.bullmq_waits else _OURS for row in rows]
    bars = axes.barh(range(len(rows)), wholes, color=colours, alpha=0.45)
    axes.barh(range(len(rows)), parts, height=0.3, color=colours)
    axes.bar_label(bars, [label(whole) for whole in wholes], padding=3, fontsize=8)
    axes.margins(x=0.5)  # room for the labels
