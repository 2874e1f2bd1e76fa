"""Integers that JavaScript can't hold: refused where Node will read them, exact where we do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import InvalidResult, JobFailed

pytestmark = pytest.mark.asyncio
SOON = 30.0
TOO_BIG = 2**53
REFUSED = "expected an int within"
HANDLERS = HandlerRegistry()


@HANDLERS.audio("result")
async def result(_: Job[Any]) -> dict[str, int]:
    """Return one."""
    return {"n": TOO_BIG}


@HANDLERS.audio("progress")
async def progress(job: Job[Any]) -> None:
    """Report one."""
    await job.progress({"n": TOO_BIG})


@HANDLERS.audio("child")
async def child(job: Job[Any]) -> None:
    """Hand one on."""
    await job.enqueue_children([Child("echo", data={"n": TOO_BIG})])


@HANDLERS.audio("echo")
async def echo(job: Job[Any]) -> str:
    """Return the data as text, and log it."""
    job.log.info("seen", n=job.data["n"])
    return str(job.data["n"])


@pytest.mark.parametrize(
    ("name", "place"),
    [("result", "result.n"), ("progress", "progress.n"), ("child", "data of the child 'echo'.n")],
)
async def test_what_node_would_read_changed_fails_the_job(
    make_settings: Callable[..., Settings], name: str, place: str
) -> None:
    """With the place of the number, and what was expected."""
    settings = make_settings()
    async with JobClient(settings) as client, Worker(HANDLERS, settings):
        with pytest.raises(JobFailed) as failed:
            await client.result(await client.enqueue(name), timeout=SOON)

    assert f"{place}: {REFUSED}" in str(failed.value)


async def test_it_is_not_enqueued(make_settings: Callable[..., Settings]) -> None:
    """The producer hears of it at once, and nothing is added."""
    async with JobClient(make_settings()) as client:
        with pytest.raises(InvalidResult, match=rf"data\.n: {REFUSED}"):
            await client.enqueue("echo", {"n": TOO_BIG})

        assert set((await client.counts())[client.settings.queues[0]].values()) == {0}


async def test_what_others_wrote_is_exact(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    """In a handler's data, and in the log's rows, which are text."""
    settings, number = make_settings(), 2**60 + 1
    base = f"{settings.prefix}:{settings.queues[0]}"
    mapping: Any = {
        "name": "echo", "data": json.dumps({"n": number}), "opts": "{}", "timestamp": "1",
    }  # fmt: skip
    async with JobClient(settings) as client, Worker(HANDLERS, settings):
        await redis.hset(f"{base}:big", mapping=mapping)
        await redis.lpush(f"{base}:wait", "big")
        await redis.zadd(f"{base}:marker", {"0": 0})

        assert await client.result("big", timeout=SOON) == str(number)

    assert await redis.lrange(f"{base}:big:logs", 0, -1) == [f"[info] seen n={number}"]
