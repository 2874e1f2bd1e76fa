"""Tables for the terminal, JSON for files, and the machine that the numbers are from."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay rows out in columns: the first to the left, the others to the right."""
    texts = [[cell(value) for value in row] for row in [headings, *rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(headings))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def quantile(values: Sequence[float], part: float) -> float:
    """Give the smallest of ``values`` that at least ``part`` (0 to 1) of them do not exceed."""
    return sorted(values)[max(0, ceil(part * len(values)) - 1)]


def machine() -> dict[str, object]:
    """Name what the numbers depend on, and nothing that names the machine itself."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def say(text: str = "") -> None:
    """Print a part of the report to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def progress(text: str) -> None:
    """Say on standard error what is being measured now."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write_json(path: Path, report: Mapping[str, object]) -> None:
    """Write the whole report to ``path``, with the machine it is from."""
    path.write_text(json.dumps({"machine": machine(), **report}, indent=2) + "\n", encoding="utf-8")


def cell(value: object) -> str:
    """One value as tables show it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
