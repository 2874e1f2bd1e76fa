"""Live progress of every job: bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TextIO

from examples.convolab.watching import QueueEvent

_BAR = 24
_ENDED = frozenset({"completed", "failed"})
_QUIET = frozenset({"waiting"})


@dataclass(slots=True)
class _Row:
    """What is known of one job."""

    label: str
    state: str = "added"
    percent: float = 0.0

    def text(self) -> str:
        """Return the job's line."""
        filled = round(_BAR * min(self.percent, 100) / 100)
        bar = "█" * filled + "░" * (_BAR - filled)
        return f"  {self.label:<42} {bar} {self.percent:>3.0f} %  {self.state}"


class Live:
    """Shows jobs as their events come in."""

    def __init__(self, out: TextIO) -> None:
        """Write to ``out``: it decides between bars and lines."""
        self._out = out
        self._bars = out.isatty()
        self._rows: dict[str, _Row] = {}
        self._drawn = 0
        self._start = time.monotonic()

    def take(self, event: QueueEvent) -> None:
        """Show what ``event`` changed; events of a queue as a whole ("drained") change nothing."""
        if not event.job_id:
            return
        row = self._rows.get(event.job_id)
        if row is None:
            row = _Row(f"{event.queue}  {event.job_id.partition('.')[2]}".rstrip())
            self._rows[event.job_id] = row
        before = (row.state, row.percent)
        if event.event == "added":
            row.label = f"{event.data}  {event.job_id.partition('.')[2]}".rstrip()
        elif event.event == "progress" and isinstance(event.data, int | float):
            row.percent = float(event.data)
        elif event.event not in _QUIET and row.state not in _ENDED:
            row.state = event.event
        if event.event == "added" or (row.state, row.percent) != before:
            self._show(row)

    def _show(self, row: _Row) -> None:
        if not self._bars:
            seconds = time.monotonic() - self._start
            line = f"{seconds:6.2f} s  {row.label:<42} {row.percent:>3.0f} %  {row.state}"
            print(line, file=self._out, flush=True)
            return
        lines = [row.text() for row in self._rows.values()]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        print(up + "\n".join(f"\x1b[2K{line}" for line in lines), file=self._out, flush=True)
        self._drawn = len(lines)
