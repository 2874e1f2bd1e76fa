"""What JobClient adds and what Node's queue adds for the same options, key by key."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import Deduplication, Exponential, Fixed
from tests.interop.pair import Pair
from tests.interop.session import NodeSession

pytestmark = pytest.mark.asyncio

DATA = {"text": "日本語 é", "speed": 0.9, "parts": [1, None, True]}

# Two jobs each, so that the second one shows what the first one's options do to it.
SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"delay": 60}, {"delay": 60_000}),
    ({"priority": 3}, {"priority": 3}),
    ({"delay": 60, "priority": 3}, {"delay": 60_000, "priority": 3}),
    ({"lifo": True}, {"lifo": True}),
    ({"attempts": 2, "backoff": 1.5}, {"attempts": 2, "backoff": 1500}),
    (
        {"attempts": 3, "backoff": Exponential(2)},
        {"attempts": 3, "backoff": {"type": "exponential", "delay": 2000, "jitter": 0.5}},
    ),
    (
        {"backoff": Fixed(5, jitter=0)},
        {"backoff": {"type": "fixed", "delay": 5000}},
    ),
    ({"backoff": "polite"}, {"backoff": {"type": "polite"}}),
    (
        {"keep_completed": "none", "keep_failed": "all"},
        {"removeOnComplete": True, "removeOnFail": False},
    ),
    (
        {"keep_completed": "1000/1d", "keep_failed": "1h"},
        {"removeOnComplete": {"age": 86_400, "count": 1000}, "removeOnFail": {"age": 3600}},
    ),
    ({"keep_completed": 10, "keep_failed": 0}, {"removeOnComplete": 10, "removeOnFail": 0}),
    ({"keep_logs": 5, "stack_trace_limit": 2}, {"keepLogs": 5, "stackTraceLimit": 2}),
    ({"size_limit": 1000}, {"sizeLimit": 1000}),
    ({"deduplication": "same"}, {"deduplication": {"id": "same"}}),
    (
        {"deduplication": Deduplication("same", ttl=60)},
        {"deduplication": {"id": "same", "ttl": 60_000}},
    ),
    (
        {"deduplication": Deduplication("same", ttl=60, extend=True)},
        {"deduplication": {"id": "same", "ttl": 60_000, "extend": True}},
    ),
    (
        {"delay": 60, "deduplication": Deduplication("same", ttl=60, replace=True)},
        {"delay": 60_000, "deduplication": {"id": "same", "ttl": 60_000, "replace": True}},
    ),
    (
        {"delay": 60, "deduplication": Deduplication("same", ttl=9, extend=True, replace=True)},
        {
            "delay": 60_000,
            "deduplication": {"id": "same", "ttl": 9000, "extend": True, "replace": True},
        },
    ),
    (
        {"deduplication": Deduplication("same", keep_last_if_active=True)},
        {"deduplication": {"id": "same", "keepLastIfActive": True}},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME, ids=str)
async def test_what_the_client_adds_is_key_by_key_what_nodes_queue_adds(
    session: NodeSession,
    server_url: str,
    redis: Redis,
    ours: dict[str, Any],
    theirs: dict[str, Any],
) -> None:
    """Hashes, lists, sets, scores, expiries and events, and the ids that come back."""
    async with Pair(session, server_url, redis) as pair:
        for job_id in ("first", "second"):
            await add(pair, job_id, ours, theirs)

        assert await pair.gaps() == []
        assert pair.ids[0] == pair.ids[1]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            Deduplication("same", keep_last_if_active=True),
            {"id": "same", "keepLastIfActive": True},
        ),
        (
            Deduplication("same", ttl=60, replace=True),
            {"id": "same", "ttl": 60_000, "replace": True},
        ),
    ],
    ids=["keep-last-if-active", "replace"],
)
async def test_what_comes_while_a_job_runs_is_deduplicated_as_by_node(
    session: NodeSession,
    server_url: str,
    redis: Redis,
    ours: Deduplication,
    theirs: dict[str, Any],
) -> None:
    """The newest data is kept for later, or the running job stands."""
    async with Pair(session, server_url, redis) as pair:
        await add(pair, "first", {"deduplication": ours}, {"deduplication": theirs})
        await start_all(pair)
        for job_id in ("second", "third"):
            await add(pair, job_id, {"deduplication": ours}, {"deduplication": theirs})

        assert await pair.gaps() == []
        assert pair.ids[0] == pair.ids[1] == ["first"] * 3


async def add(pair: Pair, job_id: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Add the same job on both sides: on ours the first one alone, others as one of many."""
    data = {**DATA, "id": job_id}
    opts = {**theirs, "jobId": job_id}
    pair.ids[0].append(await pair.ask("add", name="work", data=data, opts=opts))
    if job_id == "first":
        pair.ids[1].append(await pair.client.enqueue("work", data, job_id=job_id, **ours))
    else:
        job = {"name": "work", "data": data, "job_id": job_id, **ours}
        pair.ids[1] += await pair.client.enqueue_many([job])


async def start_all(pair: Pair) -> None:
    """Move what waits to active, as a worker's fetch does."""
    for prefix in pair.prefixes:
        await pair.redis.rpoplpush(f"{prefix}:work:wait", f"{prefix}:work:active")
