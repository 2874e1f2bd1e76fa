"""Jobs that have failed, as BullMQ keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from convolab_worker import Settings


async def add_failed(redis: Redis, settings: Settings, count: int) -> str:
    """Write failed jobs as BullMQ keeps them; return the queue."""
    queue = settings.queues[0]
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(count):
            key = f"{settings.prefix}:{queue}:{number}"
            reason = f"no voice for {number}" if number % 3 else "rate limited"
            pipeline.hset(
                key,
                mapping={
                    "name": "speak",
                    "data": f'{{"text": "héllo {number}"}}',
                    "opts": '{"attempts": 1}',
                    "timestamp": "1700000000000",
                    "finishedOn": str(1_700_000_000_000 + number // 7),
                    "failedReason": reason,
                    "atm": "1",
                },
            )
            pipeline.zadd(
                f"{settings.prefix}:{queue}:failed",
                {str(number): 1_700_000_000_000 + number // 7},
            )
        await pipeline.execute()
    return queue
