"""The command meter: what leaves our connections, counted by purpose as a bill counts it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

DAY_SECONDS = 86_400.0


@dataclass(slots=True)
class Meter:
    """Counts of Redis commands by purpose (fetch, finish, wait, sweep, lock, progress, …).

    ``sent`` counts what a client sends; ``inner`` what scripts ran inside Redis, which a provider
    that bills by the command charges for too. Inner commands are estimated by whoever sends the
    script (``queues``), from tables that a test compares with the server's own statistics.
    """

    sent: Counter[str] = field(default_factory=Counter)
    inner: Counter[str] = field(default_factory=Counter)

    def count(self, purpose: str, commands: int = 1) -> None:
        """Count ``commands`` sent for ``purpose``."""
        self.sent[purpose] += commands

    def count_inner(self, purpose: str, commands: int) -> None:
        """Count ``commands`` that a script sent for ``purpose`` ran inside Redis."""
        self.inner[purpose] += commands

    @property
    def client_sent(self) -> int:
        """Commands sent so far."""
        return self.sent.total()

    @property
    def billable(self) -> int:
        """Commands sent so far, and those that their scripts ran."""
        return self.sent.total() + self.inner.total()

    def snapshot(self) -> dict[str, dict[str, int]]:
        """By purpose: ``sent`` and ``billable`` counts, as plain data."""
        return {
            purpose: {"sent": sent, "billable": sent + self.inner[purpose]}
            for purpose, sent in sorted(self.sent.items())
        }


def projected_day(billable: int, elapsed_seconds: float) -> float:
    """The commands that a whole day would cost at the pace of the last ``elapsed_seconds``."""
    return billable * DAY_SECONDS / max(elapsed_seconds, 1.0)
