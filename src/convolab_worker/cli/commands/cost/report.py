"""The cost model's report: the text of report.txt in at most 100 columns, JSON, or a picture."""

from __future__ import annotations

from importlib.resources import files
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from convolab_worker.cli.commands.cost import model
from convolab_worker.cli.commands.cost.prices import DAYS_PER_MONTH
from convolab_worker.cli.output import as_json, table
from convolab_worker.errors import ConfigurationError
from convolab_worker.settings.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from convolab_worker.cli.commands.cost.model import Row, Workload
    from convolab_worker.cli.commands.cost.prices import Hosting, Prices

    Columns = dict[str, Callable[[Row], str]]

WIDTH = 100
_TEN_THOUSAND, _TEN_MILLION = 1e4, 1e7
_FORMATS = (".png", ".svg", ".pdf")
_BULLMQ, _OURS = "#b3541e", "#1f6f8b"
_EVENTS = [value for value in vars(model).values() if isinstance(value, model.Event)]
_COMMANDS: Columns = {
    "": lambda row: row.way.name,
    "client-sent": lambda row: count(row.commands.client_sent),
    "billable": lambda row: count(row.commands.billable),
    "idle part": lambda row: count(row.idle.billable),
    "starts": lambda row: count(row.starts) if row.way.sleeps else "-",
    "worst wait": lambda row: duration(row.worst_pickup_seconds),
    "signal lost": lambda row: duration(row.if_signal_lost_seconds),
}
_MONEY: Columns = {
    "": lambda row: row.way.name,
    "M commands": lambda row: count(row.redis.commands_per_month / 1e6, 3),
    "metered": lambda row: count(row.redis.pay_as_you_go_usd, 2),
    "plan": lambda row: row.redis.plan,
    "Redis": lambda row: count(row.redis.plan_usd, 2),
    "compute": lambda row: count(row.compute_usd, 2),
    "scheduler": lambda row: count(row.scheduler_usd, 2),
    "total": lambda row: count(row.total_usd, 2),
}
_DELAYED = (
    "{0.delayed_jobs_per_day:g} of the jobs are delayed or tried again, by "
    "{0.mean_delay_seconds:g} s on average, all on one queue. While one is there, bullmq waits "
    f"{model.BULLMQ_DELAYED_SECONDS:g} s at a time on that queue. A worker that sleeps starts once "
    "for each, and something has to wake it when the job is due."
)
_TOO_FEW_SLOTS = (
    "- NOT ENOUGH SLOTS: {:.3g} jobs would run at once, and there are {} slots. Jobs pile up, and "
    "no wait in the table holds.\n"
)


def as_text(workload: Workload, hosting: Hosting, prices: Prices, rows: Sequence[Row]) -> str:
    """Return the workload in one sentence, the tables, and the assumptions."""
    wrap = TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in _lines(workload, hosting, prices, rows):
        wrap.subsequent_indent = "  " if line.startswith("- ") else ""
        lines.append(wrap.fill(line))
    return "\n".join(lines)


def as_lines(workload: Workload, hosting: Hosting, prices: Prices, rows: Sequence[Row]) -> str:
    """Return one line of JSON with the same, and with every input."""
    lines = _lines(workload, hosting, prices, rows)
    document = {
        "workload": workload,
        "hosting": hosting,
        "ways": [to_builtins(row) | {"total_usd": row.total_usd} for row in rows],
        "events": _EVENTS,
        "assumptions": [line[2:] for line in lines if line.startswith("- ")],
        "prices": prices,
    }
    return as_json(to_builtins(document))


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


def _lines(workload: Workload, hosting: Hosting, prices: Prices, rows: Sequence[Row]) -> list[str]:
    """Return the lines of report.txt with everything filled in."""
    slots, usd = workload.concurrency * workload.workers, hosting.always_on_usd_per_month
    events = [[event.client_sent, event.billable, event.name] for event in _EVENTS]
    return files(__package__).joinpath("report.txt").read_text(encoding="utf-8").format(
        workload=workload,
        hosting=hosting,
        prices=prices,
        model=model,
        kinds=", ".join(
            f"{kind.jobs_per_day:g} {kind.name} of {duration(kind.mean_seconds)}"
            for kind in workload.kinds
        ),
        commands=_tabled(_COMMANDS, rows),
        money=_tabled(_MONEY, rows),
        events=table([["client-sent", "billable", "event"], *events]),
        warning=_TOO_FEW_SLOTS.format(workload.load, slots) if workload.load >= slots else "",
        steps=len(model.wait_ends(workload.idle)),
        delayed=_DELAYED.format(workload)
        if workload.delayed_jobs_per_day
        else "No job is delayed, and no attempt fails.",
        push=duration(model.PUSH_SECONDS),
        host="an instance billed for its whole life"
        if usd is None
        else f"a host of {usd:,.2f} USD a month",
        days=DAYS_PER_MONTH,
        free="all for this workload" if hosting.free_tier else "used up by something else",
    ).splitlines()  # fmt: skip


def _tabled(columns: Columns, rows: Sequence[Row]) -> str:
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    return table([[*columns], *cells], right=True)


def count(number: float, places: int = 0) -> str:
    """Write a number: with its places below ten thousand, in millions from ten million on."""
    if number >= _TEN_MILLION:
        return f"{number / 1e6:,.1f} M"
    return f"{number:,.{places if number < _TEN_THOUSAND else 0}f}"


def duration(seconds: float | None) -> str:
    """Write a time to three digits: ``5.4ms``, ``2.01s``, ``5m``."""
    return "next wake" if seconds is None else format_duration(float(f"{seconds:.3g}"))


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
