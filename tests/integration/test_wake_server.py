"""The wake server over real HTTP: what each route answers, to whom, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.server import WakeServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

Data = dict[str, Any]


@asynccontextmanager
async def serving(
    handlers: HandlerRegistry, settings: Settings
) -> AsyncIterator[tuple[Worker, JobClient, ClientSession]]:
    """A worker behind its wake server, and a session with the server as its base."""
    worker = Worker(handlers, settings.replace(port=0))
    async with WakeServer(worker) as server:
        base = f"http://127.0.0.1:{server.port}"
        async with JobClient(settings) as client, worker, ClientSession(base) as session:
            await wait_until(lambda: worker.vitals().ready, what="the worker's readiness")
            yield worker, client, session


@pytest.fixture
def handlers() -> HandlerRegistry:
    """One handler that sleeps for as long as its job says."""
    registry = HandlerRegistry()

    @registry.audio("work")
    async def work(job: Job[Data]) -> None:
        await asyncio.sleep(job.data.get("seconds", 0))

    return registry


async def test_a_wake_is_answered_at_once_and_a_hold_when_all_is_done(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """202 straight away; with hold, what came of it."""
    async with serving(handlers, make_settings()) as (_, client, session):
        async with session.get("/wake") as at_once:
            assert at_once.status == 202
            assert (await at_once.json())["status"] == "awake"
        await client.enqueue("work", {"seconds": 0.2})
        async with session.post("/wake?hold=30s") as held:
            assert held.status == 200
            assert await held.json() == {
                "status": "drained",
                "processed": 1,
                "failed": 0,
                "remaining": 0,
                "next_due_at": None,
            }


async def test_a_worker_that_works_when_held_holds_by_default(
    handlers: HandlerRegistry, make_settings: Callable[..., Settings]
) -> None:
    """As on Cloud Run: the answer comes when the queue is drained."""
    async with serving(handlers, make_settings(wake_mode="held")) as (_, client, session):
        await client.enqueue("work", {"seconds": 0.2})
        async with session.post("/wake") as held:
            assert held.status == 200
            assert (await held.json())["processed"] == 1
