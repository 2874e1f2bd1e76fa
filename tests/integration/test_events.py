"""Results on several queues at once, also where the server lets nobody end a blocked read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.connection.commands.usage import Purpose
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
QUEUES = ("speech", "images")
# Sooner than a job is looked at whose events are missing.
SOON = 5.0


class Work:
    """A handler that waits until it is told to go on."""

    def __init__(self) -> None:
        self.handlers = HandlerRegistry()
        self.go_on = asyncio.Event()

        @self.handlers.audio("work")
        async def work(job: Job[Any]) -> str:
            await self.go_on.wait()
            return job.queue


@pytest.mark.parametrize("may_unblock", [True, False])
async def test_results_on_a_second_queue_are_heard_while_the_first_is_read(
    make_settings: Callable[..., Settings],
    start_server: Callable[..., ServerProcess],
    may_unblock: bool,  # noqa: FBT001
) -> None:
    """The blocked read is ended for the second queue: by one command, or by a new connection."""
    server, work = start_server(), Work()
    settings = make_settings(redis_url=server.url, queues=QUEUES)
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        allowed = ["+@all"] if may_unblock else ["+@all", "-client"]
        await redis.acl_setuser(
            "api", enabled=True, passwords=["+pw"], keys=["*"], commands=allowed
        )
        theirs = settings.replace(redis_url=server.url.replace("://", "://api:pw@"))
        async with JobClient(theirs) as client, Worker(work.handlers, settings):
            first, second = [await client.enqueue("work", queue=queue) for queue in QUEUES]
            results = [asyncio.create_task(client.result(first, SOON))]
            await wait_until(lambda: is_read(redis))
            sent = client.counter.sent[Purpose.STATUS]
            results.append(asyncio.create_task(client.result(second, SOON)))
            # The id knows its queue: one look at the second queue's stream and two at the
            # job there; one command that ends the read, where there is one; and the next read.
            expected = 3 + int(may_unblock) + 1
            await wait_until(lambda: client.counter.sent[Purpose.STATUS] >= sent + expected)

            work.go_on.set()
            assert await asyncio.gather(*results) == list(QUEUES)


async def is_read(redis: Redis) -> bool:
    """Whether a client waits for events."""
    return any(client["cmd"] == "xread" for client in await redis.client_list())
