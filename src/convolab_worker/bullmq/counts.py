"""Counts the jobs that queues have in each state, with one command for each state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convolab_worker.connection.usage import Purpose

if TYPE_CHECKING:
    from collections.abc import Collection

    from convolab_worker.bullmq.protocol.keys import QueueKeys
    from convolab_worker.connection.connection import Connection

_COUNTED = {
    "wait": "LLEN",
    "prioritized": "ZCARD",
    "delayed": "ZCARD",
    "active": "LLEN",
    "waiting-children": "ZCARD",
    "completed": "ZCARD",
    "failed": "ZCARD",
}
_STATE_NAMES = {"wait": "waiting"}
COMMANDS_PER_QUEUE = len(_COUNTED)


async def depths(
    connection: Connection, queues: Collection[QueueKeys]
) -> dict[str, dict[str, int]]:
    """Returns the numbers of jobs by queue and state, asked for in one pipeline."""
    asked = {
        (keys.queue, kind): connection.call(Purpose.STATUS, command, keys[kind])
        for keys in queues
        for kind, command in _COUNTED.items()
    }
    counts: dict[str, dict[str, int]] = {keys.queue: {} for keys in queues}
    for (queue, kind), future in asked.items():
        counts[queue][_STATE_NAMES.get(kind, kind)] = await future
    return counts
