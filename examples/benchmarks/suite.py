"""All benchmarks, short: prints each table, and writes docs/benchmarks.md's own part of them.

What stands between the page's two marks is replaced, with pictures in docs/images; the rest of
the page is left alone.

    python examples/benchmarks/suite.py
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

# Run as a file, only the file's own folder is importable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.benchmarks import (
    cold_start,
    enqueue,
    filling,
    growth,
    handlers,
    latency,
    memory,
    payloads,
    peers,
    pick_up,
    scaling,
    sync_client,
    throughput,
)
from examples.benchmarks.benchkit.pictures import draw_bars, draw_latency
from examples.benchmarks.benchkit.report import machine, say, write_json
from examples.benchmarks.benchkit.section import Section

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs" / "benchmarks.md"
_IMAGES = _ROOT / "docs" / "images"
_BEGIN, _END = "<!-- make bench writes from here -->", "<!-- to here -->"
# Each program with flags that make it short: all of them are to end within ten minutes.
_PROGRAMS: tuple[tuple[ModuleType, str], ...] = (
    (throughput, "--jobs 8000 --rounds 5 --count-jobs 1000"),
    (pick_up, "--rounds 5 --jobs 10"),
    (handlers, "--rounds 2"),
    (filling, "--rounds 1"),
    (latency, "--seconds 2"),
    (enqueue, "--rounds 5"),
    (sync_client, "--rounds 5"),
    (payloads, "--rounds 30"),
    (cold_start, "--rounds 7"),
    (memory, "--rounds 2"),
    (scaling, "--rounds 3"),
    (growth, ""),
    (peers, "--rounds 5 --jobs 1000"),
)


def main() -> None:
    """Run every program, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", type=Path, default=_PAGE, help="the page to write to")
    parser.add_argument("--images", type=Path, default=_IMAGES, help="where pictures go")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    options = parser.parse_args()
    began = time.monotonic()
    sections = {}
    for program, flags in _PROGRAMS:
        name = program.__name__.rpartition(".")[2]
        sections[name] = _measured(program, flags)
        say(f"\n{sections[name].title}\n\n{sections[name].text()}\n")
    minutes = (time.monotonic() - began) / 60
    pictures = _draw(sections, options.images)
    page = options.page.read_text(encoding="utf-8")
    options.page.write_text(replaced(page, _part(sections, pictures, minutes)), encoding="utf-8")
    if options.json:
        results = {name: section.results for name, section in sections.items()}
        write_json(options.json, {"versions": _versions(sections), "results": results})


def _measured(program: ModuleType, flags: str) -> Section:
    parser = argparse.ArgumentParser()
    program.add_options(parser)
    measure: Callable[[argparse.Namespace], Section] = program.measure
    return measure(parser.parse_args(flags.split()))


def _draw(sections: dict[str, Section], folder: Path) -> dict[str, str]:
    """Draw the pictures; the line of the page that shows each."""
    throughputs = [
        (f"concurrency {row[0]}", str(row[1]), float(str(row[2])))
        for row in sections["throughput"].rows
    ]
    draw_bars(folder / "throughput.png", throughputs, title="No-op jobs a second")
    draw_latency(folder / "latency.png", sections["latency"].rows)
    return {
        "throughput": "![Bars of jobs a second at concurrency 1, 10 and 50, for each worker]"
        "(images/throughput.png)",
        "latency": "![Lines of p50, p99 and p99.9 in milliseconds at 10, 50 and 90 % of each "
        "worker's highest rate](images/latency.png)",
    }


def _versions(sections: dict[str, Section]) -> dict[str, str]:
    return {name: v for section in sections.values() for name, v in section.versions.items()}


def _part(sections: dict[str, Section], pictures: dict[str, str], minutes: float) -> str:
    on = machine()
    versions = ", ".join(f"{name} {v}" for name, v in sorted(_versions(sections).items()))
    head = (
        f"Measured by `make bench` on {datetime.now(UTC):%d %B %Y}, in {minutes:.0f} minutes, on "
        f"{on['cores']} cores of an {on['processor']}, {on['system']}, Python {on['python']}: "
        f"{versions}. This worker runs at its defaults, its log as JSON in a file, where no row "
        "says otherwise; bullmq's workers log nothing. Each worker in Python has an environment "
        "that holds it and what it needs, and nothing else."
    )
    parts = [head, ""]
    for name, section in sections.items():
        title, *rest = section.markdown().split("\n\n", 1)
        picture = [pictures[name], ""] if name in pictures else []
        program = f"[`{name}.py`](../examples/benchmarks/{name}.py)"
        parts += [title, "", *picture, f"{program}: {rest[0]}"]
    return "\n".join(parts)


def replaced(page: str, part: str) -> str:
    """The page with ``part`` between its two marks. Raises ValueError if it has none."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        msg = f"the page has no part between {_BEGIN!r} and {_END!r}"
        raise ValueError(msg)
    return f"{before}{_BEGIN}\n\n{part}\n{_END}{after}"


if __name__ == "__main__":
    main()
