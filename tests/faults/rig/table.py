"""The closing table of a day, in Markdown: one column for each contender."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.rig.day import Day
    from tests.faults.rig.run import Result

_ROWS: Sequence[tuple[str, Callable[[Result, Day], str]]] = (
    ("jobs added", lambda result, _: f"{result.jobs:,}"),
    ("ended", lambda result, _: f"{result.ended:,}"),
    ("ended twice", lambda result, _: f"{result.ended_twice:,}"),
    ("begun again, since a run came to no end", lambda result, _: f"{result.begun_again:,}"),
    ("wait from due to start, median", lambda result, day: _wait(result, day, 0.5)),
    ("the same, 95 of 100", lambda result, day: _wait(result, day, 0.95)),
    ("the same, worst", lambda result, day: _wait(result, day, 1.0)),
    ("wakes from the APIs, lost ones included", lambda result, _: f"{_from_apis(result):,}"),
    ("- of these lost", lambda result, _: f"{result.account.lost:,}"),
    ("calls of the scheduler", lambda result, _: f"{result.scheduled:,}"),
    ("instances started", lambda result, _: f"{result.account.starts:,}"),
    ("instance time billed", lambda result, day: _share(result.account.billed_seconds, day)),
    ("Redis commands, adding included", lambda result, _: f"{result.commands.total:,}"),
)


def table(results: Sequence[Result], day: Day) -> str:
    """What became of the day, by contender."""
    cells = [["", *(result.contender.value for result in results)]]
    cells += [[text, *(show(result, day) for result in results)] for text, show in _ROWS]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *body = [_line(row, widths) for row in cells]
    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:]), ""])
    title = (
        f"seed {day.seed}: a day in {day.seconds:g} s ({day.scale:,.0f} times as fast), "
        f"{day.lost:.0%} of the APIs' wakes lost"
    )
    return "\n".join([title, "", head, rule, *body])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(row, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    return f"| {' | '.join(cells)} |"


def _from_apis(result: Result) -> int:
    return result.account.requests - result.scheduled


def _wait(result: Result, day: Day, share: float) -> str:
    if not result.waits:
        return "never"
    seconds = result.waits[min(int(share * len(result.waits)), len(result.waits) - 1)]
    return f"{seconds * 1000:,.0f} ms ({seconds * day.scale:,.0f} s of the day)"


def _share(seconds: float, day: Day) -> str:
    return f"{seconds:.1f} s ({seconds / day.seconds:.0%} of the day)"


def places_table(results: Sequence[Result], day: Day) -> str:
    """What became of the day, a line for each place."""
    head = [
        "",
        "jobs done",
        "twice",
        "begun again",
        "wait, median",
        "worst",
        "starts",
        "time billed",
    ]
    cells = [[*head, "commands"]]
    cells += [
        [
            result.contender.value,
            f"{result.ended} of {result.jobs}",
            f"{result.ended_twice}",
            f"{result.begun_again}",
            _of_the_day(result, day, 0.5),
            _of_the_day(result, day, 1.0),
            f"{result.account.starts}",
            f"{result.account.billed_seconds / day.seconds:.0%}",
            f"{result.commands.total:,}",
        ]
        for result in results
    ]
    rule = "|".join(["", "---", *["--:"] * (len(head)), ""])
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], rule, *lines[1:]])


def _of_the_day(result: Result, day: Day, share: float) -> str:
    if not result.waits:
        return "never"
    at = min(int(share * len(result.waits)), len(result.waits) - 1)
    return f"{result.waits[at] * day.scale:,.0f} s"
