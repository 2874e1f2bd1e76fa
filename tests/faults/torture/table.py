"""The closing tables of a torture run, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.torture.account import Fate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.torture.run import Report

_MOST_FAULTS = 40


def tables(report: Report) -> str:
    """What was done to the workers, and what became of every job."""
    options, account = report.options, report.account
    title = (
        f"seed {options.seed}: {options.jobs:,} jobs for {options.workers} workers, with locks of "
        f"{options.lock_duration:g} s, in {report.seconds:.0f} s"
    )
    fates = [
        ("added", options.jobs + report.parts),
        ("- by Python's JobClient", report.by_python),
        ("- by Node's BullMQ", report.by_node),
        ("- by handlers, as parts of courses", report.parts),
        (Fate.ONCE.value, account.fates[Fate.ONCE]),
        ("- of these, begun again since their first run came to no end", account.reruns),
        (Fate.AGAIN.value, account.fates[Fate.AGAIN]),
        *(
            (f"- ended in vain after: {cause}", count)
            for cause, count in account.causes.most_common()
        ),
        (Fate.WRONG.value, account.fates[Fate.WRONG]),
        (Fate.LOST.value, account.fates[Fate.LOST]),
        (Fate.ACTIVE.value, account.fates[Fate.ACTIVE]),
    ]
    parts = [
        title,
        _table("what was done", "times", sorted(report.deeds.items())),
        _table("what held requests were answered", "times", sorted(report.answers.items())),
        _table("what became of the jobs", "jobs", fates),
    ]
    faults = [*report.faults, *account.faults]
    if faults:
        parts.append("\n".join(["What went wrong:", *(f"- {line}" for line in _some(faults))]))
    return "\n\n".join(parts)


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_FAULTS
    return lines[:_MOST_FAULTS] + ([f"... and {more} more"] if more > 0 else [])


def _table(left: str, right: str, rows: Iterable[tuple[str, int]]) -> str:
    lines = [(left, right), *((text, f"{count:,}") for text, count in rows)]
    width = max(len(text) for text, _ in lines)
    number = max(len(count) for _, count in lines)
    head, *body = [f"| {text:<{width}} | {count:>{number}} |" for text, count in lines]
    return "\n".join([head, f"|{'-' * (width + 2)}|{'-' * (number + 1)}:|", *body])
