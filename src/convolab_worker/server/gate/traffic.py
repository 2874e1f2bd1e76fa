"""Counts what clients do, and logs it: a flood is one line a minute."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from msgspec import Struct, field

from convolab_worker._logs import Log

_SUMMARY_SECONDS = 60.0

_log = Log()


class _Repeated(Struct):
    logged_at: float
    count: int = 0
    fields: dict[str, Any] = field(default_factory=dict)


class Traffic(Struct):
    """Counts of a server since its start, and the repeated events of its log.

    ``answers`` by route and status are the gate's, the connections the listener's; a server that
    is the application's own has no listener, and ``limit`` stays 0.
    """

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    limit: int = 0
    _repeated: dict[str, _Repeated] = field(default_factory=dict)

    def note(self, event: str, **fields: Any) -> None:
        """Log an event that strangers can cause: the first at once, later ones as a sum."""
        self.summarise()
        repeated = self._repeated.get(event)
        if repeated is None:
            self._repeated[event] = _Repeated(time.monotonic())
            _log.warning(event, **fields)
        else:
            repeated.count += 1
            repeated.fields = fields

    def summarise(self) -> None:
        """Log how often an event was repeated since its last line, at most once a minute."""
        now = time.monotonic()
        for event, repeated in list(self._repeated.items()):
            if now - repeated.logged_at < _SUMMARY_SECONDS:
                continue
            if repeated.count:
                seconds = round(now - repeated.logged_at)
                _log.warning(event, times=repeated.count, seconds=seconds, **repeated.fields)
                self._repeated[event] = _Repeated(now)
            else:
                del self._repeated[event]
