"""Which commands a server ran between two moments."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis


@dataclass
class CommandCounts:
    """Commands run on a server, by lower-case name; filled when the counting ends.

    Counts every client's commands, those that scripts ran included; the counting's own INFO
    is left out.
    """

    calls: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All commands together."""
        return sum(self.calls.values())


@asynccontextmanager
async def counted_commands(redis: Redis) -> AsyncIterator[CommandCounts]:
    """Count the commands that the server runs inside the block, from its own statistics."""
    counts = CommandCounts()
    before = await _calls(redis)
    yield counts
    after = await _calls(redis)
    # The first INFO is not yet in its own answer, but in the second's.
    after["info"] = after.get("info", 1) - 1
    counts.calls.update(
        (name, calls - before.get(name, 0))
        for name, calls in after.items()
        if calls > before.get(name, 0)
    )


async def _calls(redis: Redis) -> dict[str, int]:
    stats: dict[str, Any] = await redis.info("commandstats")
    return {
        name.removeprefix("cmdstat_").lower(): int(entry["calls"]) for name, entry in stats.items()
    }
