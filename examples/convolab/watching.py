"""What happens on queues, from BullMQ's own event streams, as dashboards read it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

_BLOCK_SECONDS = 5


class QueueEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a job. ``data``: progress, result or reason, and the name for "added"."""

    queue: str
    job_id: str
    event: str
    data: Any = None


async def queue_events(
    url: str, queues: Sequence[str], prefix: str = "bull"
) -> AsyncIterator[QueueEvent]:
    """Give every event of ``queues`` from the streams' beginning on, and wait for more."""
    redis = Redis.from_url(url, decode_responses=True, socket_timeout=_BLOCK_SECONDS + 5)
    last: dict[Any, Any] = {f"{prefix}:{queue}:events": "0-0" for queue in queues}
    try:
        while True:
            answer: Any = await redis.xread(last, block=_BLOCK_SECONDS * 1000)
            # Protocol 3 answers with a mapping of streams, each to a list of batches.
            batches = answer.items() if isinstance(answer, dict) else answer
            for stream, entries in batches:
                rows = entries[0] if isinstance(answer, dict) else entries
                for entry_id, fields in rows:
                    last[stream] = entry_id
                    yield _event(stream.removeprefix(f"{prefix}:").removesuffix(":events"), fields)
    finally:
        await redis.aclose()


def _event(queue: str, fields: dict[str, str]) -> QueueEvent:
    name = fields.get("event", "")
    data: Any = None
    match name:
        case "added":
            data = fields.get("name")
        case "progress":
            data = _json(fields.get("data"))
        case "completed":
            data = _json(fields.get("returnvalue"))
        case "failed":
            data = fields.get("failedReason")
    return QueueEvent(queue=queue, job_id=fields.get("jobId", ""), event=name, data=data)


def _json(text: str | None) -> Any:
    try:
        return json.loads(text) if text is not None else None
    except ValueError:
        return text
