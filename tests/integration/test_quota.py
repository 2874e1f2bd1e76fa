"""A provider whose quota is spent: said once, not hammered, and nothing lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from tests.support.scripted import ScriptedProxy, Trouble
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.embedded import EmbeddedServer

pytestmark = pytest.mark.asyncio
SOON = 10.0
# What Upstash answers to every command.
SPENT = Trouble("error", reply="ERR max requests limit exceeded. Limit: 500000, Usage: 500001.")


class Provider(ScriptedProxy):
    """While the quota is ``spent`` it refuses, and counts, every command."""

    spent = False
    refused = 0

    def trouble_at(self, name: str) -> Trouble | None:
        if not self.spent:
            return super().trouble_at(name)
        self.refused += 1
        return SPENT


async def test_spent_quota_is_named_once_and_waited_for(
    server: EmbeddedServer,
    make_settings: Callable[..., Settings],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A job that ends while every command is refused is recorded afterwards, and the next runs."""
    handlers = HandlerRegistry()
    gate = asyncio.Event()
    started = asyncio.Event()

    @handlers.audio("speak")
    async def speak(job: Job[Any]) -> str:
        started.set()
        await gate.wait()
        return job.id

    with Provider(server.port) as provider:
        settings = make_settings(redis_url=provider.url)
        async with JobClient(make_settings()) as client, Worker(handlers, settings) as worker:
            job = await client.enqueue("speak")
            await asyncio.wait_for(started.wait(), SOON)
            provider.spent = True
            gate.set()
            # Three commands are tried together, after pauses of 0.5, 1, 2 … s: the second try is
            # over, and within the second that follows falls the third one at most.
            await wait_until(lambda: provider.refused >= 6, timeout=SOON)
            first = provider.refused
            with Stopwatch() as watch:
                await asyncio.wait_for(_a_second(), SOON)
            hammered = provider.refused - first
            provider.spent = False
            result = await client.result(job, 30.0)
            after = await client.enqueue("speak")
            assert await client.result(after, 30.0) == after
            await wait_until(lambda: worker.stats()["outcomes"].get("completed") == 2)

    said = capsys.readouterr().out
    assert result == job
    assert hammered <= 4 * (1 + watch.paused)
    assert said.count("redis.refused") == 1
    assert "the provider's quota is spent" in said


async def _a_second() -> None:
    """The time that commands are counted in."""
    await asyncio.sleep(1.0)
