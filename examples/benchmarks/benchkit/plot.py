"""The picture: commands over an idle day, against what a free plan includes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.benchmarks.benchkit.day import DAY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_HOUR = 3600.0
_COLOURS = ("#b2182b", "#ef8a62", "#4d4d4d", "#67a9cf", "#2166ac", "#1b7837", "#7fbf7b", "#762a83")
# Curves may lie on each other: of every two neighbours, one has gaps.
_LINES = ("-", "--")


def plot_day(
    path: Path, curves: Mapping[str, Sequence[tuple[float, float]]], free: Mapping[str, float]
) -> None:
    """Draw cumulative billable commands over the day to a PNG at ``path``.

    ``curves`` has points (second of the day, commands so far) by label, ``free`` commands a
    day by the name of a plan. Raises ModuleNotFoundError when matplotlib is not installed.
    """
    # Here, so that only who asks for the picture needs it; no display is used.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=130, layout="tight")
    axes = figure.subplots()
    for number, (label, points) in enumerate(curves.items()):
        axes.plot(
            [at / _HOUR for at, _ in points],
            [count for _, count in points],
            label=f"{label}: {points[-1][1]:,.0f}",
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_LINES[number % len(_LINES)],
            linewidth=2,
        )
    for name, a_day in free.items():
        axes.axhline(a_day, color="black", linestyle=":", linewidth=1)
        axes.annotate(f"{name} ({a_day:,.0f} a day)", (4.5, a_day * 1.07), fontsize=8)
    axes.set_yscale("log")
    axes.set_xlim(0, DAY_SECONDS / _HOUR)
    axes.set_xticks(range(0, 25, 3))
    axes.set_ylim(bottom=1)
    axes.set_xlabel("hours of a day without a job")
    axes.set_ylabel("billable Redis commands so far (logarithmic)")
    axes.set_title("What an idle worker is billed for")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(loc="lower right", fontsize=8, title="worker: commands a day")
    figure.savefig(path, format="png")
