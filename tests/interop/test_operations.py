"""JobClient's methods for operators leave what Node's own leave, and list what those list."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import JobClient
from tests.interop.session import PACKAGES
from tests.interop.test_failed import left_of
from tests.support.node import NodeScripts

pytestmark = pytest.mark.asyncio
STATES = ("waiting", "delayed", "prioritized", "completed", "failed")
JOBS: list[Any] = [
    ("first", {}),
    ("second", {}),
    ("third", {}),
    ("fourth", {}),
    ("later", {"delay": 100_000}),
    ("latest", {"delay": 200_000, "priority": 2}),
    ("urgent", {"priority": 3}),
    ("twice", {"priority": 3, "jobId": "named"}),
    ("hidden", {"deduplication": {"id": "one"}}),
]
ACTS: list[Any] = [
    ("promote", "5"),
    ("promote", "6"),
    ("remove", "9"),
    ("retry", "1", "completed"),
    ("retry", "2", "failed"),
    ("clean", None, 1, "wait"),
    ("clean", None, 100, "prioritized"),
]
PAUSES: list[Any] = [("pause", None), ("resume", None), ("pause", None)]


@pytest.mark.parametrize("version", PACKAGES)
async def test_node_would_have_left_the_same(
    node: NodeScripts, redis: Redis, server_url: str, *, version: str
) -> None:
    """Every key of the queue, every event, the lists' order, and what is answered."""
    prefix = f"operations-{uuid.uuid4().hex[:10]}"
    # BullMQ 5 moves the jobs of a paused queue to another list, and forgets retried priorities.
    acts = [*ACTS, *([] if version == "5" else PAUSES)]
    task = {
        "bullmq": PACKAGES[version], "url": server_url, "prefix": prefix,
        "queues": ["theirs", "ours"], "jobs": JOBS, "states": STATES,
        "acts": [[act, *([] if job is None and act != "clean" else [job]), *rest]
                 for act, job, *rest in acts],
    }  # fmt: skip
    told = await node.run("operating.mjs", task)

    async with JobClient(redis_url=server_url, prefix=prefix, queues=("ours",)) as client:
        listed = {state: [job.id async for job in client.jobs(state)] for state in STATES}
        cleaned = []
        for act, job, *rest in acts:
            if act == "clean":
                cleaned += await client.clean(
                    "ours", rest[1].replace("wait", "waiting"), limit=rest[0]
                )
            elif job is None:
                await getattr(client, act)("ours")
            else:
                await getattr(client, act)(job)
        paused = (await client.queues())[0].paused

    assert listed == told["listed"]
    assert (cleaned, paused) == (told["cleaned"], told["paused"])
    theirs, ours = await left_of(redis, f"{prefix}:theirs"), await left_of(redis, f"{prefix}:ours")
    assert _without_due_times(ours) == _without_due_times(theirs)


def _without_due_times(left: dict[str, Any]) -> dict[str, Any]:
    for entry in left[":events"]:
        if entry.get("event") == "delayed":
            entry["delay"] = "<time>"
    left[":marker"] = [marker for marker, _ in left[":marker"]] if ":marker" in left else None
    return left
