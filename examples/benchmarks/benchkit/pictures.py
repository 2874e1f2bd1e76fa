"""Pictures of the suite's tables: bars of rates, and lines of waits under load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_COLOURS = {
    "this worker": "#1b7837",
    "this worker, its log at info": "#7fbf7b",
    "bullmq Node": "#b2182b",
    "bullmq Python": "#ef8a62",
}
_OTHERS = ("#2166ac", "#67a9cf", "#4d4d4d", "#762a83")
_QUANTILES = ("p50", "p99", "p99.9")
_MARKS = ("o", "s", "^")


def draw_bars(path: Path, bars: Sequence[tuple[str, str, float]], *, title: str) -> None:
    """Draw bars of (group, label, height) to a PNG at ``path``."""
    # Here, so that only who asks for the picture needs it; no display is used.
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(group for group, _, _ in bars))
    labels = list(dict.fromkeys(label for _, label, _ in bars))
    figure = Figure(figsize=(9, 4.5), dpi=130, layout="tight")
    axes = figure.subplots()
    width = 0.8 / len(labels)
    for number, label in enumerate(labels):
        heights = [_height(bars, group, label) for group in groups]
        places = [at + (number - (len(labels) - 1) / 2) * width for at in range(len(groups))]
        drawn = axes.bar(places, heights, width * 0.92, label=label, color=_colour(label, number))
        axes.bar_label(drawn, labels=[f"{h:,.0f}" if h else "" for h in heights], fontsize=8)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_title(title)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, format="png")


def draw_latency(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Draw rows of (load, label, rate, p50, p99, p99.9) to a PNG at ``path``."""
    from matplotlib.figure import Figure

    loads = list(dict.fromkeys(str(row[0]) for row in rows))
    labels = list(dict.fromkeys(str(row[1]) for row in rows))
    figure = Figure(figsize=(9, 4.5), dpi=130, layout="tight")
    axes = figure.subplots()
    for number, label in enumerate(labels):
        own = [row for row in rows if row[1] == label]
        for at, name in enumerate(_QUANTILES):
            axes.plot(
                range(len(loads)),
                [float(str(row[3 + at])) for row in own],
                color=_colour(label, number),
                marker=_MARKS[at],
                linestyle=("-", "--", ":")[at],
                label=f"{label}, {name}",
            )
    axes.set_xticks(range(len(loads)), [f"{load} of its highest rate" for load in loads])
    axes.set_yscale("log")
    axes.set_ylabel("ms from add to handler (logarithmic)")
    axes.set_title("How long jobs wait under load")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=len(labels))
    figure.savefig(path, format="png")


def _height(bars: Sequence[tuple[str, str, float]], group: str, label: str) -> float:
    return next((h for g, name, h in bars if (g, name) == (group, label)), 0.0)


def _colour(label: str, number: int) -> str:
    return _COLOURS.get(label, _OTHERS[number % len(_OTHERS)])
