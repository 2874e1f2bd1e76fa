"""What a benchmark gives: a table with a note, for a terminal or for a page, and its numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from examples.benchmarks.benchkit.report import cell, say, table, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table: ``title``, ``headings`` and ``rows``; ``note`` says how it was measured."""

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    results: object
    versions: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The table as a terminal shows it."""
        return f"{table(self.headings, self.rows)}\n\n{self.note}"

    def markdown(self) -> str:
        """The section of a page."""
        lines = [f"### {self.title}", "", self.note, ""]
        lines += [_line(self.headings), _line(["---"] * len(self.headings))]
        lines += [_line([cell(value) for value in row]) for row in self.rows]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def add_contenders(parser: argparse.ArgumentParser, known: Collection[str], *default: str) -> None:
    """Add the flag that chooses among the ``known`` contenders: by default some of them, or all."""
    chosen = list(default or known)
    parser.add_argument("--contenders", nargs="+", choices=list(known), default=chosen)


def run_alone(
    description: str | None,
    measure: Callable[[argparse.Namespace], Section],
    add_options: Callable[[argparse.ArgumentParser], None],
) -> None:
    """A benchmark as a program of its own: options in, a table out, JSON where asked."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    options = parser.parse_args()
    section = measure(options)
    say(section.text())
    say(", ".join(f"{name} {version}" for name, version in sorted(section.versions.items())))
    if options.json:
        write_json(options.json, {"versions": section.versions, "results": section.results})
