"""Follows a cluster's MOVED answers: a command that a node sends on was not executed there."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convolab_worker.connection.address import Route
    from convolab_worker.connection.commands import Unanswered
    from convolab_worker.errors import RedisRefused

# Nodes that send a client to and fro, so often in so many seconds, disagree: that is an error.
_MOST_MOVES, _MOVE_SECONDS = 5, 1.0


class Redirects:
    """The ``commands`` that a node has sent on, to be sent again to the node that it named."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._moved_at: deque[float] = deque(maxlen=_MOST_MOVES)
        self.commands: list[Unanswered] = []

    def take(self, error: RedisRefused, command: Unanswered, now: float) -> bool:
        """Keep the command, and point the route at the node, if the error names another one."""
        text = str(error)
        if not text.startswith("MOVED "):
            return False
        if not self.commands:
            moved_at = self._moved_at
            if len(moved_at) == _MOST_MOVES and now - moved_at[0] < _MOVE_SECONDS:
                return False
            moved_at.append(now)
        self._route.follow(text.rsplit(maxsplit=1)[-1])
        self.commands.append(command)
        return True

    def release(self) -> list[Unanswered]:
        """Return the commands, and keep them no longer."""
        commands, self.commands = self.commands, []
        return commands
