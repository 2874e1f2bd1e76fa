"""``failed retry`` and ``failed remove`` leave what Node's own retry and removal leave."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.interop.session import PACKAGES
from tests.support.commands import Commands
from tests.support.node import NodeScripts

pytestmark = pytest.mark.asyncio
# Two queues fail their jobs at two times; stack traces are the same.
_TIMES = {"timestamp", "processedOn", "finishedOn"}

URGENT = ("urgent", {"priority": 3})
JOBS: list[Any] = [("plain", {}), ("last-in", {"lifo": True}), ("twice", {"attempts": 2})]


async def left_of(redis: Redis, base: str) -> dict[str, Any]:
    """All that is in a queue, times and stream ids left out."""
    found: dict[str, Any] = {}
    async for key in redis.scan_iter(f"{base}:*", count=1000):
        kind, part = await redis.type(key), key.removeprefix(base)
        if kind == "hash":
            fields = await redis.hgetall(key)
            found[part] = {k: v for k, v in fields.items() if k not in _TIMES}
            found[f"{part} times"] = sorted(fields.keys() & _TIMES)
        elif kind == "list":
            found[part] = await redis.lrange(key, 0, -1)
        elif kind == "zset":
            scored: Any = await redis.zrange(key, 0, -1, withscores=True)
            found[part] = [m for m, _ in scored] if part == ":failed" else scored
        elif kind == "stream":
            entries: Any = await redis.xrange(key)
            found[part] = [fields for _, fields in entries]
        else:
            found[part] = part == ":stalled-check" or await redis.get(key)  # a time too
    return found


@pytest.mark.parametrize("version", PACKAGES)
@pytest.mark.parametrize(
    ("act", "flags", "opts"),
    [
        pytest.param("retry", (), {}, id="retry"),
        pytest.param(
            "retry",
            ("--reset-attempts",),
            {"resetAttemptsMade": True, "resetAttemptsStarted": True},
            id="retry-with-new-attempts",
        ),
        pytest.param("remove", (), {}, id="remove"),
    ],
)
async def test_the_command_leaves_what_node_leaves(
    node: NodeScripts,
    redis: Redis,
    server_url: str,
    tmp_path: Path,
    *,
    version: str,
    act: str,
    flags: tuple[str, ...],
    opts: dict[str, bool],
) -> None:
    """Every key of the queue and every event: hashes, places, order, markers, counters."""
    prefix = f"failed-{uuid.uuid4().hex[:10]}"
    # BullMQ 5 forgets a job's priority when it is retried; 6 keeps it, and so does the command.
    jobs = JOBS if (version, act) == ("5", "retry") else [*JOBS, URGENT]
    task = {
        "bullmq": PACKAGES[version], "url": server_url, "prefix": prefix,
        "queues": ["theirs", "ours"], "jobs": jobs, "act": act, "opts": opts,
    }  # fmt: skip
    await node.run("retrying.mjs", task)
    commands = Commands(tmp_path, server_url, "ours")

    code, out, err = await commands.run("failed", act, "--all", "--prefix", prefix, *flags)
    await commands.close()

    assert code == 0, err
    what = "retried" if act == "retry" else "removed"
    assert out == f"{len(jobs)} jobs {what}\n"
    theirs, ours = await left_of(redis, f"{prefix}:theirs"), await left_of(redis, f"{prefix}:ours")
    assert await redis.llen(f"{prefix}:ours:wait") == (3 if act == "retry" else 0)
    assert ours == theirs
