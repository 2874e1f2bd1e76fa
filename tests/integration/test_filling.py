"""Many free slots and many waiting jobs: few round trips, no job twice, no command too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.embedded import EmbeddedServer
from tests.support.proxy import TcpProxy

pytestmark = pytest.mark.asyncio
SLOTS = 50
TRIP = 0.05


class Hall:
    """Handlers that go on until all are there."""

    def __init__(self, places: int) -> None:
        self.handlers = HandlerRegistry()
        self.full = asyncio.Event()
        self.ids: list[str] = []

        @self.handlers.audio("wait")
        async def wait(job: Job[Any]) -> None:
            """Wait for the others."""
            self.ids.append(job.id)
            if len(self.ids) == places:
                self.full.set()
            await self.full.wait()


def rounds(times: Iterable[int], trip: float) -> int:
    """How many moments those times (ms) are of, further apart than half a round trip."""
    ordered = sorted(times)
    return 1 + sum(b - a > trip * 500 for a, b in pairwise(ordered))


@pytest.mark.parametrize("queues", [1, 2])
async def test_fifty_slots_fill_in_few_round_trips(
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
    make_settings: Callable[..., Settings],
    redis: Redis,
    queue_name: str,
    queues: int,
) -> None:
    """Takes leave together: by the moments at which they were sent, which BullMQ keeps."""
    names = [f"{queue_name}-{number}" for number in range(queues)]
    settings = make_settings(queues=names, concurrency=SLOTS)
    hall = Hall(SLOTS)
    added = []
    async with JobClient(settings) as client:
        for name in names:
            added += await client.enqueue_many([{"name": "wait"}] * (SLOTS // queues), queue=name)
    proxy = start_proxy(server)
    proxy.delay(TRIP / 2)
    worker = Worker(hall.handlers, settings.replace(redis_url=proxy.url))
    async with worker:
        await asyncio.wait_for(hall.full.wait(), 20)
        taken = worker.stats()["commands"]["by_purpose"]["fetch"]["sent"]
    proxy.resume()

    assert sorted(hall.ids) == sorted(added)
    sent = [
        int(await redis.hget(f"bull:{name}:{job_id}", "processedOn") or 0)
        for name in names
        for job_id in added
        if await redis.exists(f"bull:{name}:{job_id}")
    ]
    assert len(sent) == SLOTS
    assert rounds(sent, TRIP) <= 16 * queues
    assert taken <= SLOTS + 3 * queues


async def test_a_queue_that_stops_costs_few_takes_that_find_nothing(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """With a concurrency of its own in BullMQ, a queue gives no more, however many jobs wait."""
    settings = make_settings(concurrency=SLOTS)
    hall = Hall(8)
    async with JobClient(settings) as client:
        await client.enqueue_many([{"name": "wait"}] * 100)
    await redis.hset(f"bull:{queue_name}:meta", "concurrency", 8)
    async with Worker(hall.handlers, settings) as worker:
        await asyncio.wait_for(hall.full.wait(), 20)
        taken = worker.stats()["commands"]["by_purpose"]["fetch"]["sent"]

    assert taken <= 2 * 8 + 2
