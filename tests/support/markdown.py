"""The documentation as a program: its fenced blocks, with what introduces each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_FENCE = re.compile(r"^```(?P<kind>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`(?P<name>[\w.]+\.(?:py|ts))`[^`]*:$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its kind (``python``, ``console``, ...), its text, and where it begins.

    ``file`` is the name that the line before gives it, if that ends in a file name and a colon;
    ``section`` counts the page's second-level headings before it.
    """

    kind: str
    text: str
    line: int
    section: int
    file: str | None

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The commands of a console block, each with the output that is shown below it."""
        found: list[tuple[str, str]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:].partition(" # ")[0].strip(), ""))
            elif found:
                command, output = found[-1]
                found[-1] = command, f"{output}{line}\n"
        return found


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page that names its kind, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            kind=match["kind"],
            text=match["text"],
            line=text.count("\n", 0, match.start()) + 1,
            section=text.count("\n## ", 0, match.start()),
            file=_file_named(text[: match.start()]),
        )
        for match in _FENCE.finditer(text)
    ]


def _file_named(before: str) -> str | None:
    lines = before.rstrip().splitlines()
    named = _FILE.search(lines[-1]) if lines else None
    return named["name"] if named else None


def shown(page: Path) -> str:
    """The page's path as the project knows it."""
    return page.relative_to(ROOT).as_posix()
