"""A queue that Node's BullMQ writes to and one that JobClient does, compared key by key."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, Self

from redis.asyncio import Redis

from convolab_worker import JobClient, Settings
from tests.interop.normalise import TRANSIENT, Gap, Near, gaps
from tests.interop.session import NodeSession

SCENARIO = "an open queue"
DATA = {"text": "日本語"}
EXPIRES_WITHIN_MS = 5000
_LEAST_TIME = 2**40  # milliseconds since the epoch, of the year 2004
_TIME = re.compile(r"\b1[0-9]{12}\b")


class Pair:
    """A queue that JobClient writes to and one that Node does, under prefixes of their own."""

    def __init__(self, session: NodeSession, server_url: str, redis: Redis) -> None:
        self._session = session
        self.redis: Any = redis
        self.prefixes = [f"adding-{uuid.uuid4().hex[:10]}" for _ in range(2)]
        settings = Settings(redis_url=server_url, queues=("work",), prefix=self.prefixes[1])
        self.client = JobClient(settings)
        self.ids: list[list[str]] = [[], []]

    async def __aenter__(self) -> Self:
        for prefix in self.prefixes:
            await self._session.ask("stage", scenario=SCENARIO, prefix=prefix, workerName="node")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        for prefix in self.prefixes:
            await self._session.ask("forget", prefix=prefix)

    async def ask(self, op: str, *, prefix: str | None = None, **arguments: Any) -> Any:
        """Have Node do something with a queue, its own by default."""
        prefix = prefix or self.prefixes[0]
        return await self._session.ask(op, prefix=prefix, queue="work", **arguments)

    async def upsert_by_node(
        self, prefix: str, ours: dict[str, Any], scheduler: str = "nightly"
    ) -> None:
        """Have Node write a schedule that is given in our keywords."""
        repeat = {"pattern" if key == "cron" else key: value for key, value in ours.items()}
        if "every" in ours:
            repeat["every"] = ours["every"] * 1000
        template = {"name": "work", "data": DATA}
        await self.ask(
            "upsert", prefix=prefix, scheduler=scheduler, repeat=repeat, template=template
        )

    async def gaps(self) -> list[Gap]:
        """Where what Node's side and ours have in Redis differs."""
        node, ours = [await self._dump(prefix) for prefix in self.prefixes]
        return list(gaps(node, ours, EXPIRES_WITHIN_MS))

    async def _dump(self, prefix: str) -> dict[str, Any]:
        found = {}
        async for key in self.redis.scan_iter(match=f"{prefix}:*", count=1000):
            if key.rpartition(":")[2] not in TRANSIENT:
                found[_TIME.sub("<time>", key.removeprefix(prefix))] = await self._value(key)
        return found

    async def _value(self, key: str) -> Any:
        kind = await self.redis.type(key)
        expires = await self.redis.pttl(key)
        read = {
            "string": self.redis.get,
            "hash": self.redis.hgetall,
            "list": lambda key: self.redis.lrange(key, 0, -1),
            "zset": lambda key: self.redis.zrange(key, 0, -1, withscores=True),
            "stream": self.redis.xrange,
        }[kind]
        value = _comparable(await read(key))
        return {"value": value, "expires": Near(expires) if expires >= 0 else None}


def _comparable(value: Any) -> Any:
    """A value whose times and waits are near others, without Node's id of a job in its options."""
    if isinstance(value, dict):
        return {key: _field(key, told) for key, told in value.items()}
    if isinstance(value, tuple) and isinstance(value[1], dict):  # an event, after its stream's id
        return _comparable(value[1])
    if isinstance(value, list):
        told = [_comparable(each) for each in value]
        # Scripts before BullMQ 6 tell of a deduplication by its old name, too.
        return [each for each in told if not _is_old(each)]
    if isinstance(value, tuple):  # a member and its score
        return [_comparable(value[0]), _comparable(_in_milliseconds(value[1]))]
    if isinstance(value, str) and not _TIME.fullmatch(value):
        return _TIME.sub("<time>", value)
    is_time = isinstance(value, str) or (isinstance(value, (int, float)) and value > _LEAST_TIME)
    return Near(float(value)) if is_time else value


def _field(key: str, value: Any) -> Any:
    if key == "opts":
        opts = json.loads(value) if isinstance(value, str) else value
        return {name: _field(name, told) for name, told in opts.items() if name != "jobId"}
    if key in {"delay", "offset"}:  # until a moment, or since one
        return Near(float(value))
    return _comparable(value)


def _in_milliseconds(score: float) -> float:
    """A score: an arrival, a time, or, of a delayed job, a time and a count within it."""
    return score if score < _LEAST_TIME * 0x1000 else score // 0x1000


def _is_old(event: Any) -> bool:
    return isinstance(event, dict) and event.get("event") == "debounced"
