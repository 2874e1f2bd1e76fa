"""Which connections a server keeps, and which it drops for another. Pure.

    (new)   -->                    reading
    idle    -- bytes came -->      reading
    reading -- the head is in -->  serving
    serving -- too fast -->        slowed    (its answer is put off)
    slowed  -- -->                 serving
    serving -- answered -->        idle

When there is no place, the connection that has been idle for longest goes, then one that is slowed,
then one whose request is not complete. A connection that is being served is never dropped for
another. If all are, the newcomer gets one of a few further places, where only probes are answered.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
# Places beyond the limit, for probes.
SPARE_PLACES = 16
# How long a head may take, and how long a connection may be idle; the last number holds when three
# of four places are used.
HEAD_SECONDS = 10.0
IDLE_SECONDS = 75.0
CROWDED_IDLE_SECONDS = 5.0
_CROWDED = 0.75


class Activity(enum.Enum):
    """What a connection does; in the order in which connections are dropped."""

    IDLE = "idle"
    SLOWED = "slowed"
    READING = "reading"
    SERVING = "serving"


_MAY_BE_DROPPED = (Activity.IDLE, Activity.SLOWED, Activity.READING)


class Placement(Struct, Generic[T], frozen=True):
    """Where a new connection goes: which one to ``drop`` for it, and whether only probes pass."""

    drop: T | None = None
    probes_only: bool = False


class _Entry(Struct):
    peer: str
    activity: Activity
    since: float
    is_spare: bool


class ConnectionTable(Generic[T]):
    """The open connections, by what they do; times are arguments, in seconds.

    ``share`` is the part of the ``limit`` that one peer may have.
    """

    def __init__(self, limit: int, *, share: float) -> None:
        self.limit = limit
        self._peer_limit = max(int(limit * share), 1)
        self._entries: dict[T, _Entry] = {}
        # The connections of an activity, in the order in which they took it up; the values mean
        # nothing.
        self._order: dict[Activity, dict[T, None]] = {activity: {} for activity in Activity}
        self._of_peer: dict[str, int] = {}
        self._spares: dict[T, None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_crowded(self) -> bool:
        """Whether three of four places are used."""
        return len(self._entries) > _CROWDED * self.limit

    def place(self, peer: str) -> Placement[T]:
        """Return where a new connection of ``peer`` goes."""
        has_share = self._of_peer.get(peer, 0) < self._peer_limit
        if has_share and len(self._entries) - len(self._spares) < self.limit:
            return Placement()
        victim = self.droppable(None if has_share else peer)
        if victim is not None:
            return Placement(drop=victim)
        full = len(self._spares) >= SPARE_PLACES
        return Placement(drop=next(iter(self._spares)) if full else None, probes_only=True)

    def droppable(self, peer: str | None = None) -> T | None:
        """Return the connection to drop first, of ``peer`` if one is given."""
        candidates = (one for activity in _MAY_BE_DROPPED for one in self._order[activity])
        return next(
            (
                one
                for one in candidates
                if one not in self._spares and peer in (None, self._entries[one].peer)
            ),
            None,
        )

    def add(self, connection: T, peer: str, now: float, *, is_spare: bool = False) -> None:
        """Note a new connection, whose first request is awaited."""
        self._entries[connection] = _Entry(peer, Activity.READING, now, is_spare)
        self._order[Activity.READING][connection] = None
        if is_spare:
            self._spares[connection] = None
        else:
            self._of_peer[peer] = self._of_peer.get(peer, 0) + 1

    def move(self, connection: T, activity: Activity, now: float) -> None:
        """Note what a connection does now; ignored for one that was dropped."""
        entry = self._entries.get(connection)
        if entry is not None and entry.activity is not activity:
            del self._order[entry.activity][connection]
            self._order[activity][connection] = None
            entry.activity, entry.since = activity, now

    def remove(self, connection: T) -> None:
        """Forget a connection; ignored for one that was dropped."""
        entry = self._entries.pop(connection, None)
        if entry is None:
            return
        del self._order[entry.activity][connection]
        self._spares.pop(connection, None)
        if not entry.is_spare:
            left = self._of_peer[entry.peer] - 1
            if left:
                self._of_peer[entry.peer] = left
            else:
                del self._of_peer[entry.peer]

    def overdue(self, now: float) -> list[tuple[T, str]]:
        """Return the connections that have taken too long, and for what."""
        idle = CROWDED_IDLE_SECONDS if self.is_crowded else IDLE_SECONDS
        return [
            *((one, "idle") for one in self._since(Activity.IDLE, now - idle)),
            *((one, "slow") for one in self._since(Activity.READING, now - HEAD_SECONDS)),
        ]

    def _since(self, activity: Activity, moment: float) -> Iterator[T]:
        for connection in self._order[activity]:
            if self._entries[connection].since > moment:
                return
            yield connection

    def all(self) -> list[T]:
        """Return every connection."""
        return list(self._entries)
