"""Counts Redis commands by purpose, as a provider bills them, and compares a day with a budget."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from msgspec import Struct, field

DAY_SECONDS = 86_400.0


class Purpose(StrEnum):
    """What a command is sent for, as metrics, logs and the console name it."""

    CONNECT = "connect"
    ENQUEUE = "enqueue"
    FETCH = "fetch"
    COMPLETE = "complete"
    PROGRESS = "progress"
    STEP = "step"
    LOCK = "lock"
    PARK = "park"
    LISTEN = "listen"
    PROBE = "probe"
    STALLED = "stalled"
    MOVE = "move"
    STATUS = "status"


class CommandCounter(Struct):
    """Counts Redis commands by purpose.

    ``sent`` counts the commands of a client, ``inner`` those that its scripts run inside Redis,
    which a provider that bills by the command charges for too. What a script ran that stopped with
    an error, or whose reply was lost, is not known and not counted.
    """

    sent: Counter[Purpose] = field(default_factory=Counter)
    inner: Counter[Purpose] = field(default_factory=Counter)

    def count(self, purpose: Purpose, commands: int = 1) -> None:
        self.sent[purpose] += commands

    def count_inner(self, purpose: Purpose, commands: int) -> None:
        self.inner[purpose] += commands

    def add(self, other: CommandCounter) -> None:
        self.sent.update(other.sent)
        self.inner.update(other.inner)

    @property
    def client_sent(self) -> int:
        return self.sent.total()

    @property
    def billable(self) -> int:
        """How many commands were sent, and were run by scripts that were sent."""
        return sum(dict(self.sent).values()) + sum(dict(self.inner).values())

    def __add__(self, other: CommandCounter) -> CommandCounter:
        # It copies them first: another thread may add to one of them meanwhile.
        sent = Counter(dict(self.sent)) + Counter(dict(other.sent))
        return CommandCounter(sent, Counter(dict(self.inner)) + Counter(dict(other.inner)))

    def __sub__(self, other: CommandCounter) -> CommandCounter:
        """Return what was counted since the ``other``, an earlier copy."""
        return CommandCounter(self.sent - other.sent, self.inner - other.inner)

    def snapshot(self) -> dict[str, dict[str, int]]:
        return {
            purpose.value: {"sent": self.sent[purpose], "billable": both}
            for purpose, both in sorted((self.sent + self.inner).items())
        }


class DayReport(Struct, frozen=True, kw_only=True):
    """A day's commands: those ``used`` so far, and the ``projected`` count at the day's end.

    ``is_over`` says that the budget has been passed, or will be; otherwise the day has ended.
    """

    used: int
    projected: int
    budget: int | None
    is_over: bool


class DailyBudget:
    """Compares the day's commands with a budget; ``check`` is given the time and the count.

    A day is 24 hours from the start, since providers count by different clocks. The projection
    continues the pace of the last hour. None is made in the first minutes, when a worker connects
    and looks at every queue.
    """

    _PACE_SECONDS = 3600.0
    _SETTLING_SECONDS = 600.0

    def __init__(self, budget: int | None, now: float) -> None:
        self.budget = budget
        self._begin(now, 0)

    def _begin(self, now: float, billable: int) -> None:
        self._started_at = self._pace_at = now
        self._at_start = self._at_pace = billable
        self._pace = 0.0
        self._warned = False

    def check(self, now: float, billable: int) -> DayReport | None:
        """Return what is to be reported at ``now``, None where nothing is.

        ``billable`` counts the commands since the worker's start.
        """
        elapsed = now - self._started_at
        used = billable - self._at_start
        if elapsed >= DAY_SECONDS or elapsed < 0:
            self._begin(now, billable)
            return DayReport(used=used, projected=used, budget=self.budget, is_over=False)
        if now - self._pace_at >= self._PACE_SECONDS:
            self._pace = (billable - self._at_pace) / (now - self._pace_at)
            self._pace_at, self._at_pace = now, billable
        projected = self.projection(now, billable)
        if self.budget is None or self._warned:
            return None
        if used > self.budget or (self.is_settled(now) and projected > self.budget):
            self._warned = True
            return DayReport(used=used, projected=projected, budget=self.budget, is_over=True)
        return None

    def used(self, billable: int) -> int:
        return billable - self._at_start

    def is_settled(self, now: float) -> bool:
        """Whether the day is old enough for a projection to mean something."""
        return now - self._started_at >= self._SETTLING_SECONDS

    def projection(self, now: float, billable: int) -> int:
        """Return the commands of the whole day, if it continues at the pace of the last hour."""
        elapsed = max(now - self._started_at, 1.0)
        used = billable - self._at_start
        pace = self._pace or used / elapsed
        return round(used + pace * max(DAY_SECONDS - elapsed, 0.0))
