"""Drains and holds end within their budget, whatever Redis does; and no hold is forgotten."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from convolab_worker import HandlerRegistry, Job, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import RedisUnavailable
from tests.faults.harness import Bench
from tests.support.proxy import TcpProxy
from tests.support.stopwatch import Stopwatch

pytestmark = pytest.mark.asyncio

BUDGET_SECONDS = 2.0
# Far less than a command may take; enough for handlers to be told to end, on a busy machine.
ENDED_WITHIN = BUDGET_SECONDS + 2.0


def striking(strike: Callable[[], None]) -> HandlerRegistry:
    """A handler that strikes the network, and returns."""
    handlers = HandlerRegistry()

    @handlers.audio("work")
    async def work(_: Job[object]) -> None:
        strike()

    return handlers


STRIKES: dict[str, Callable[[TcpProxy], None]] = {
    "refused": lambda proxy: proxy.cut(refuse=True),
    "silent": lambda proxy: proxy.blackhole(),
}


@pytest.mark.parametrize("strike", STRIKES.values(), ids=STRIKES)
@pytest.mark.parametrize("moment", ["before", "in a job"])
async def test_a_drain_ends_within_its_budget(
    safe_bench: Bench,
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
    strike: Callable[[TcpProxy], None],
    moment: str,
) -> None:
    """It can't tell what is left, and says so; it does not wait for Redis to be back."""
    proxy = start_proxy(server)
    await safe_bench.add({})
    settings = safe_bench.settings(redis_url=proxy.url, command_timeout=10.0)
    worker = Worker(striking(lambda: strike(proxy)), settings)
    if moment == "before":
        strike(proxy)

    with Stopwatch() as watch, pytest.raises(RedisUnavailable):
        await worker.drain(BUDGET_SECONDS)
    assert watch.seconds < ENDED_WITHIN


@pytest.mark.parametrize("wake_mode", ["held", "background"])
async def test_a_hold_ends_within_its_budget(
    safe_bench: Bench,
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
    wake_mode: str,
) -> None:
    """Redis has fallen silent, and the connection is still open."""
    proxy = start_proxy(server)
    async with safe_bench.worker(
        striking(proxy.blackhole),
        redis_url=proxy.url,
        wake_mode=wake_mode,
        command_timeout=10.0,
        concurrency=1,  # no blocked read, which is given up sooner than other commands
    ) as worker:
        await safe_bench.add({})
        with Stopwatch() as watch, pytest.raises(RedisUnavailable):
            await worker.hold(BUDGET_SECONDS)
    assert watch.seconds < ENDED_WITHIN


async def held_by(worker: Worker, callers: int) -> None:
    """Return in the very turn of the loop in which so many hold, or before anything of the next."""
    for _ in itertools.count():
        if worker.stats()["held"] == callers:
            return
        await asyncio.sleep(0)


async def test_a_hold_in_the_turn_of_the_loop_in_which_a_drain_ends_is_answered(
    safe_bench: Bench,
) -> None:
    """The drain has told the last of its callers, and is not known to have ended yet."""
    async with safe_bench.worker(striking(lambda: None), wake_mode="held") as worker:
        with Stopwatch() as watch:
            first = asyncio.create_task(worker.hold(BUDGET_SECONDS))
            await held_by(worker, 1)
            await held_by(worker, 0)
            second = await worker.hold(BUDGET_SECONDS)

    assert watch.seconds < ENDED_WITHIN
    assert {(await first).status, second.status} == {"drained"}
