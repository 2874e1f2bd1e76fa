"""The wake signal: latched, coalescing, cleared before the look, and never missed."""

from __future__ import annotations

import asyncio

import pytest

from convolab_worker.worker.dispatch.listener import Signal

SOON = 5.0


async def ends(signal: Signal, timeout: float | None = None) -> None:
    """Wait for the signal, and fail where that takes suspiciously long."""
    async with asyncio.timeout(SOON):
        await signal.wait(timeout)


async def stays(signal: Signal) -> bool:
    """Whether a wait for the signal goes on: it is stopped after some turns of the loop."""
    waiting = asyncio.create_task(signal.wait())
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
    signal = Signal()

    signal.set()

    await ends(signal)


@pytest.mark.asyncio
async def test_a_wake_ends_a_wait() -> None:
    """Whoever waits goes on at once."""
    signal = Signal()
    waiting = asyncio.create_task(ends(signal))
    await asyncio.sleep(0)

    signal.set()

    await waiting


@pytest.mark.asyncio
async def test_many_wakes_are_one() -> None:
    """A burst of wakes is answered with one look, not with as many."""
    signal = Signal()
    for _ in range(100):
        signal.set()
    await ends(signal)

    signal.clear()

    assert await stays(signal)


@pytest.mark.asyncio
async def test_many_wakes_of_one_wait_are_one() -> None:
    """So are those that come in one turn of the loop, while somebody waits."""
    signal = Signal()
    waiting = asyncio.create_task(ends(signal))
    await asyncio.sleep(0)
    for _ in range(100):
        signal.set()
    await waiting

    signal.clear()

    assert await stays(signal)


@pytest.mark.asyncio
async def test_a_wake_during_a_look_is_kept() -> None:
    """Cleared before the look, the signal is set by what comes in the middle of it."""
    signal = Signal()
    signal.set()
    await ends(signal)

    signal.clear()
    signal.set()  # while whoever was woken looks for work

    await ends(signal)


@pytest.mark.asyncio
async def test_a_wait_does_not_use_the_wake_up() -> None:
    """Only clearing does: an error between wait and look loses nothing."""
    signal = Signal()
    signal.set()

    await ends(signal)

    await ends(signal)


@pytest.mark.asyncio
async def test_nothing_ends_a_wait_without_a_wake() -> None:
    """A signal that was never set, or was cleared, is waited for."""
    signal = Signal()

    assert await stays(signal)

    signal.set()
    signal.clear()

    assert await stays(signal)


@pytest.mark.asyncio
@pytest.mark.parametrize("timeout", [0, -1, -1e9, 0.001])
async def test_a_time_out_ends_a_wait_without_an_error(timeout: float) -> None:
    """Time over is not a failure, and a time that has passed already is not a wait."""
    signal = Signal()

    await ends(signal, timeout)

    assert await stays(signal)


@pytest.mark.asyncio
async def test_a_wake_and_a_time_out_may_meet() -> None:
    """A wake in the turn of the loop in which the time is over is kept."""
    signal = Signal()
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(ends(signal, 0.01))
    await asyncio.sleep(0)

    loop.call_later(0.01, signal.set)
    await waiting

    await ends(signal)


@pytest.mark.asyncio
async def test_a_cancelled_wait_leaves_the_signal_usable() -> None:
    """Whoever waits next is woken like the first."""
    signal = Signal()
    waiting = asyncio.create_task(signal.wait(SOON))
    await asyncio.sleep(0)
    waiting.cancel()
    signal.set()
    await asyncio.gather(waiting, return_exceptions=True)

    assert waiting.cancelled()
    await ends(signal)
