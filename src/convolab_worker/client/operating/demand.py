"""Counts the jobs that need a worker, for a scaler, with as few commands as possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convolab_worker.bullmq.script_runner import now_ms
from convolab_worker.connection.commands.usage import Purpose

if TYPE_CHECKING:
    from collections.abc import Collection

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.connection.connection import Connection

# BullMQ's score of a delayed job is its time in milliseconds, and twelve bits of order.
_SCORE_OF_MS = 0x1000
_KINDS = ("wait", "prioritized", "delayed", "active")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The jobs of some queues that need a worker.

    ``ready`` wait for one, those of paused queues left out; ``due`` are delayed ones whose time has
    come; ``active`` are run by one now, or were when it died. ``total`` is the number to scale on:
    it does not fall to 0 while a job runs. ``commands`` is what the question cost.
    """

    ready: int = 0
    due: int = 0
    active: int = 0
    commands: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.ready + self.due + self.active


async def demand(connection: Connection, queues: Collection[QueueKeys]) -> Demand:
    """See ``JobClient.demand``."""
    keys = [queue[kind] for queue in queues for kind in _KINDS]
    if not await connection.call(Purpose.STATUS, "EXISTS", *keys):
        return Demand(commands=1)
    latest = (now_ms() + 1) * _SCORE_OF_MS - 1
    asked = [
        (
            connection.call(Purpose.STATUS, "LLEN", queue["wait"]),
            connection.call(Purpose.STATUS, "ZCARD", queue["prioritized"]),
            connection.call(Purpose.STATUS, "ZCOUNT", queue["delayed"], "-inf", latest),
            connection.call(Purpose.STATUS, "LLEN", queue["active"]),
        )
        for queue in queues
    ]
    ready = due = active = 0
    for waiting, prioritized, delayed, running in asked:
        ready += await waiting + await prioritized
        due += await delayed
        active += await running
    return Demand(ready=ready, due=due, active=active, commands=1 + len(_KINDS) * len(queues))
