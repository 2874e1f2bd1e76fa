"""The wakeup of the loop: latched, coalescing, cleared before the look, and never missed."""

from __future__ import annotations

import asyncio

import pytest

from convolab_worker.worker.dispatch.listener import Wakeup

SOON = 5.0


async def ends(wakeup: Wakeup, timeout: float | None = None) -> None:
    """Wait for the wakeup, and fail where that takes suspiciously long."""
    async with asyncio.timeout(SOON):
        await wakeup.wait(timeout)


async def stays(wakeup: Wakeup) -> bool:
    """Whether a wait for the wakeup goes on: it is stopped after some turns of the loop."""
    waiting = asyncio.create_task(wakeup.wait())
    for _ in range(5):
        await asyncio.sleep(0)
    if waiting.done():
        return False
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return True


@pytest.mark.asyncio
async def test_a_wake_before_the_wait_is_kept() -> None:
    """Whoever was not waiting yet finds it when he does."""
    wakeup = Wakeup()

    wakeup.set()

    await ends(wakeup)


@pytest.mark.asyncio
async def test_a_wake_ends_a_wait() -> None:
    """Whoever waits goes on at once."""
    wakeup = Wakeup()
    waiting = asyncio.create_task(ends(wakeup))
    await asyncio.sleep(0)

    wakeup.set()

    await waiting


@pytest.mark.asyncio
async def test_many_wakes_are_one() -> None:
    """A burst of wakes is answered with one look, not with as many."""
    wakeup = Wakeup()
    for _ in range(100):
        wakeup.set()
    await ends(wakeup)

    wakeup.clear()

    assert await stays(wakeup)


@pytest.mark.asyncio
async def test_many_wakes_of_one_wait_are_one() -> None:
    """So are those that come in one turn of the loop, while somebody waits."""
    wakeup = Wakeup()
    waiting = asyncio.create_task(ends(wakeup))
    await asyncio.sleep(0)
    for _ in range(100):
        wakeup.set()
    await waiting

    wakeup.clear()

    assert await stays(wakeup)


@pytest.mark.asyncio
async def test_a_wake_during_a_look_is_kept() -> None:
    """Cleared before the look, the wakeup is set by what comes in the middle of it."""
    wakeup = Wakeup()
    wakeup.set()
    await ends(wakeup)

    wakeup.clear()
    wakeup.set()  # while whoever was woken looks for work

    await ends(wakeup)


@pytest.mark.asyncio
async def test_a_wait_does_not_use_the_wake_up() -> None:
    """Only clearing does: an error between wait and look loses nothing."""
    wakeup = Wakeup()
    wakeup.set()

    await ends(wakeup)

    await ends(wakeup)


@pytest.mark.asyncio
async def test_nothing_ends_a_wait_without_a_wake() -> None:
    """A wakeup that was never set, or was cleared, is waited for."""
    wakeup = Wakeup()

    assert await stays(wakeup)

    wakeup.set()
    wakeup.clear()

    assert await stays(wakeup)


@pytest.mark.asyncio
@pytest.mark.parametrize("timeout", [0, -1, -1e9, 0.001])
async def test_a_time_out_ends_a_wait_without_an_error(timeout: float) -> None:
    """Time over is not a failure, and a time that has passed already is not a wait."""
    wakeup = Wakeup()

    await ends(wakeup, timeout)

    assert await stays(wakeup)


@pytest.mark.asyncio
async def test_a_wake_and_a_time_out_may_meet() -> None:
    """A wake in the turn of the loop in which the time is over is kept."""
    wakeup = Wakeup()
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(ends(wakeup, 0.01))
    await asyncio.sleep(0)

    loop.call_later(0.01, wakeup.set)
    await waiting

    await ends(wakeup)


@pytest.mark.asyncio
async def test_a_cancelled_wait_leaves_the_signal_usable() -> None:
    """Whoever waits next is woken like the first."""
    wakeup = Wakeup()
    waiting = asyncio.create_task(wakeup.wait(SOON))
    await asyncio.sleep(0)
    waiting.cancel()
    wakeup.set()
    await asyncio.gather(waiting, return_exceptions=True)

    assert waiting.cancelled()
    await ends(wakeup)
