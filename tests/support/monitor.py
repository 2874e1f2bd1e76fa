"""Every command that a server is sent or runs inside a script, as MONITOR tells it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from redis.asyncio import Redis
    from redis.asyncio.client import Monitor

_PATIENCE_SECONDS = 10.0
# The tests' own: they look at the server's statistics, and mark moments.
_IGNORED = frozenset({"info", "echo", "monitor"})


@dataclass
class Monitored:
    """Commands by lower-case name: those that clients sent, and those that scripts ran.

    The server's own statistics count both together; only MONITOR tells them apart.
    """

    sent: Counter[str] = field(default_factory=Counter)
    scripted: Counter[str] = field(default_factory=Counter)

    @property
    def client_sent(self) -> int:
        """Commands that clients sent."""
        return self.sent.total()

    @property
    def billable(self) -> int:
        """Commands that clients sent and those that their scripts ran."""
        return self.sent.total() + self.scripted.total()

    def note(self, told: Mapping[str, object]) -> str:
        """Count what one line of MONITOR tells; the command's text."""
        text = str(told["command"])
        name = text.partition(" ")[0].lower()
        if told["client_type"] == "lua":
            self.scripted[name] += 1
        elif name not in _IGNORED:
            self.sent[name] += 1
        return text


@asynccontextmanager
async def monitored_commands(redis: Redis) -> AsyncIterator[Monitored]:
    """Count by MONITOR what the server runs inside the block."""
    counts = Monitored()
    # MONITOR keeps one connection, ECHO takes another: both greet the server before the counting.
    await asyncio.gather(redis.ping(), redis.ping())
    async with redis.monitor() as monitor:
        # A task of its own: the server drops a reader that lets its output pile up.
        fence = uuid.uuid4().hex
        reader = asyncio.create_task(_read(monitor, counts, fence), name="monitor")
        try:
            yield counts
            await redis.echo(fence)
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await reader
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader


async def _read(monitor: Monitor, counts: Monitored, fence: str) -> None:
    async for told in monitor.listen():
        if fence in counts.note(told):
            return
