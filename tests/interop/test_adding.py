"""What JobClient adds and what Node's queue adds for the same options, key by key."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, Self

import pytest
from redis.asyncio import Redis

from convolab_worker import Deduplication, Exponential, Fixed, JobClient, Settings
from tests.interop.normalise import TRANSIENT, Gap, Near, gaps
from tests.interop.session import NodeSession

pytestmark = pytest.mark.asyncio

SCENARIO = "an open queue"
DATA = {"text": "日本語 é", "speed": 0.9, "parts": [1, None, True]}
EXPIRES_WITHIN_MS = 5000
_TIME = re.compile(r"\b1[0-9]{12}\b")

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
            await pair.add(job_id, ours, theirs)

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
        await pair.add("first", {"deduplication": ours}, {"deduplication": theirs})
        await pair.start_all()
        for job_id in ("second", "third"):
            await pair.add(job_id, {"deduplication": ours}, {"deduplication": theirs})

        assert await pair.gaps() == []
        assert pair.ids[0] == pair.ids[1] == ["first"] * 3


class Pair:
    """A queue that JobClient adds to and one that Node does, under prefixes of their own."""

    def __init__(self, session: NodeSession, server_url: str, redis: Redis) -> None:
        self._session = session
        self._redis: Any = redis
        self._prefixes = [f"adding-{uuid.uuid4().hex[:10]}" for _ in range(2)]
        settings = Settings(redis_url=server_url, queues=("work",), prefix=self._prefixes[1])
        self._client = JobClient(settings)
        self.ids: list[list[str]] = [[], []]

    async def __aenter__(self) -> Self:
        for prefix in self._prefixes:
            await self._session.ask("stage", scenario=SCENARIO, prefix=prefix, workerName="node")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        for prefix in self._prefixes:
            await self._session.ask("forget", prefix=prefix)

    async def add(self, job_id: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        """Add the same job on both sides: on ours the first one alone, others as one of many."""
        data = {**DATA, "id": job_id}
        node = self._prefixes[0]
        opts = {**theirs, "jobId": job_id}
        self.ids[0].append(
            await self._session.ask(
                "add", prefix=node, queue="work", name="work", data=data, opts=opts
            )
        )
        if job_id == "first":
            self.ids[1].append(await self._client.enqueue("work", data, job_id=job_id, **ours))
        else:
            job = {"name": "work", "data": data, "job_id": job_id, **ours}
            self.ids[1] += await self._client.enqueue_many([job])

    async def start_all(self) -> None:
        """Move what waits to active, as a worker's fetch does."""
        for prefix in self._prefixes:
            await self._redis.rpoplpush(f"{prefix}:work:wait", f"{prefix}:work:active")

    async def gaps(self) -> list[Gap]:
        """Where what Node's side and ours have in Redis differs."""
        node, ours = [await self._dump(prefix) for prefix in self._prefixes]
        return list(gaps(node, ours, EXPIRES_WITHIN_MS))

    async def _dump(self, prefix: str) -> dict[str, Any]:
        found = {}
        async for key in self._redis.scan_iter(match=f"{prefix}:*", count=1000):
            if key.rpartition(":")[2] not in TRANSIENT:
                found[key.removeprefix(prefix)] = await self._value(key)
        return found

    async def _value(self, key: str) -> Any:
        kind = await self._redis.type(key)
        expires = await self._redis.pttl(key)
        read = {
            "string": self._redis.get,
            "hash": self._redis.hgetall,
            "list": lambda key: self._redis.lrange(key, 0, -1),
            "zset": lambda key: self._redis.zrange(key, 0, -1, withscores=True),
            "stream": self._redis.xrange,
        }[kind]
        value = _comparable(await read(key))
        return {"value": value, "expires": Near(expires) if expires >= 0 else None}


def _comparable(value: Any) -> Any:
    """A value without times, and without the id that Node keeps in a job's options too."""
    if isinstance(value, dict):
        return {
            key: _opts(text) if key == "opts" else _comparable(text) for key, text in value.items()
        }
    if isinstance(value, tuple) and isinstance(value[1], dict):  # an event, after its stream's id
        return _comparable(value[1])
    if isinstance(value, tuple):  # a member and its score: the arrival, or a time
        return [value[0], value[1] if value[1] < 2**42 else "<time>"]
    if isinstance(value, list):
        told = [_comparable(each) for each in value]
        # Scripts before BullMQ 6 tell of a deduplication by its old name, too.
        return [each for each in told if not _is_old(each)]
    return _TIME.sub("<time>", value) if isinstance(value, str) else value


def _is_old(event: Any) -> bool:
    return isinstance(event, dict) and event.get("event") == "debounced"


def _opts(text: str) -> dict[str, Any]:
    opts: dict[str, Any] = json.loads(text)
    opts.pop("jobId", None)
    return opts
