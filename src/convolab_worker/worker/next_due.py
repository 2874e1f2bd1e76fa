"""Tells the application's ``on_next_due`` functions when the worker has to be called again.

Each moment is told once. While a told moment is still to come, no later one is told: the call at
that moment makes the worker look, and tell the next one.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from convolab_worker.handlers.around.hooks import LONGEST_SECONDS

if TYPE_CHECKING:
    from convolab_worker.handlers.around.hooks import Hooks

# How long a function may take at least, even if its worker has no time left.
_LEAST_SECONDS = 0.5


class NextDue:
    """What the ``hooks`` of one worker were told."""

    def __init__(self, hooks: Hooks[float]) -> None:
        self._hooks = hooks
        self._told = 0

    async def tell(self, at: float | None, within: float = LONGEST_SECONDS) -> None:
        """Tell of ``at`` (epoch seconds; None: nothing is due), in ``within`` seconds at most.

        Whole seconds, rounded up: task queues know no others, and a call must not come too early.
        """
        if at is None or not self._hooks.functions:
            return
        moment = math.ceil(at)
        if moment == self._told or time.time() < self._told <= moment:
            return
        if await self._hooks.tell(float(moment), max(within, _LEAST_SECONDS)):
            self._told = moment
