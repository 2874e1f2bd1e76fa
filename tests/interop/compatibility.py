"""The compatibility table of docs/bullmq.md, made from the suite's scenarios and differences.

Each scenario is compared field by field with both versions of BullMQ; one that differs in anything
but what ``differences.py`` lists fails the tests, and so does a table that is not this one.
``python -m tests.interop.compatibility`` writes it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tests.interop.differences import DIFFERENCES
from tests.interop.session import HERE

PAGE = Path(__file__).parents[2] / "docs" / "bullmq.md"
BEGIN, END = "<!-- the suite's own table: make compatibility -->", "<!-- end of the table -->"


def groups() -> dict[str, list[str]]:
    """The names of the compared scenarios by what they are about."""
    tell = "import('./scenarios.mjs').then((m) => console.log(JSON.stringify(m.compared)))"
    told = subprocess.run(
        ["node", "-e", tell], cwd=HERE, capture_output=True, check=True, timeout=20
    )
    found: dict[str, list[str]] = json.loads(told.stdout)
    return found


def table(scenarios: Mapping[str, Sequence[str]]) -> str:
    """The table and its notes, as Markdown."""
    reasons = list(dict.fromkeys(each.reason for each in DIFFERENCES))
    lines = ["| | scenarios, the same on BullMQ 6.x and 5.x | but for |", "|---|---|---|"]
    for about, names in scenarios.items():
        notes = sorted({reasons.index(reason) + 1 for name in names for reason in _reasons(name)})
        lines.append(f"| {about} | {'; '.join(names)} | {', '.join(map(str, notes))} |")
    general = [str(reasons.index(each.reason) + 1) for each in DIFFERENCES if each.scenarios == "*"]
    anywhere = ", ".join(dict.fromkeys(general))
    lines += ["", f"What differs ({anywhere} in every scenario that can show it):", ""]
    lines += [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join(lines)


def _reasons(scenario: str) -> list[str]:
    """The reasons of the differences that are about this scenario and not about any."""
    return [
        each.reason
        for each in DIFFERENCES
        if each.scenarios != "*" and fnmatchcase(scenario, each.scenarios)
    ]


def documented() -> str:
    """The table that the page has."""
    text = PAGE.read_text(encoding="utf-8")
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(groups())}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
