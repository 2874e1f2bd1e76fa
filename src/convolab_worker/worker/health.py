"""Whether a worker is well: pure, from what was seen once a second.

Seconds that a whole process stood still (frozen, suspended) are nobody's fault: so looks are
counted, and not the time between them.
"""

from __future__ import annotations

from dataclasses import dataclass

# What is wrong in so many looks in a row is wrong.
_LOOKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A worker's life, as another thread may see it.

    ``ready`` tells that it is connected, or asleep and to be waked. ``overdue`` tells that the
    loop that takes jobs should have turned and has not.
    """

    state: str
    ready: bool
    overdue: bool


class Watch:
    """Is told once a second what was seen, and says what is wrong."""

    def __init__(self) -> None:
        """Begin with nothing wrong."""
        self._unanswered = 0
        self._overdue = 0

    def look(self, health: Health, *, answered: bool) -> None:
        """Note the ``health``, and whether the worker's event loop turned since the last look."""
        self._unanswered = 0 if answered else self._unanswered + 1
        self._overdue = self._overdue + 1 if health.overdue else 0

    def problem(self, health: Health) -> str | None:
        """What is wrong, in words; None if nothing is."""
        if health.state == "stopped":
            return "the worker has ended"
        if self._unanswered >= _LOOKS:
            return f"the event loop has not turned for {self._unanswered} s"
        if self._overdue >= _LOOKS:
            return "the loop that takes jobs makes no progress"
        return None
