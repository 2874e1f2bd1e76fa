"""Where coroutines and threads stand, however they got there."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Generator

import pytest

from convolab_worker.worker.watchdog import (
    StackReports,
    below,
    stack_of_coroutine,
    stack_of_frame,
    stack_of_thread,
    where,
)


class Awaitable:
    """An object whose __await__ is a generator."""

    def __await__(self) -> Generator[None, None, None]:
        yield


@types.coroutine
def by_generator() -> Generator[None, None, None]:
    """A coroutine of the old kind."""
    yield from Awaitable().__await__()


async def outer() -> None:
    """Wait in an old coroutine, which waits in an object's."""
    await by_generator()


def test_a_coroutine_is_followed_through_all_it_waits_for() -> None:
    """Coroutines and generator-based ones, down to the line where it stands."""
    coroutine = outer()
    coroutine.send(None)

    names = [frame.name for frame in stack_of_coroutine(coroutine)]
    coroutine.close()

    assert names == ["outer", "by_generator", "__await__"]
    assert stack_of_coroutine(coroutine) == []


@pytest.mark.asyncio
async def test_a_task_is_followed_to_its_innermost_await() -> None:
    """From the outermost frame to the one that waits for a future."""
    waiting, begun = asyncio.Event(), asyncio.Event()

    async def inner() -> None:
        begun.set()
        await waiting.wait()

    async def middle() -> None:
        await inner()

    task = asyncio.create_task(middle())
    await begun.wait()
    names = [frame.name for frame in stack_of_coroutine(task.get_coro())]
    task.cancel()

    assert names == ["middle", "inner", "wait"]


def test_what_has_ended_stands_nowhere() -> None:
    """A thread that is gone, no thread, no coroutine, no frame."""
    stacks = [stack_of_thread(None), stack_of_thread(1), stack_of_coroutine(None)]

    assert [*stacks, stack_of_frame(None)] == [[], [], [], []]
    assert where(stack_of_frame(None)) is None


def test_what_stands_below_a_file_is_told_apart() -> None:
    """Without a frame of that file, the whole stack is."""
    stack = stack_of_frame(sys._getframe())  # noqa: SLF001

    assert where(stack) == f"{__file__}:{stack[-1].lineno} in {stack[-1].name}"
    assert below(stack, "/no/such/file.py") == stack
    assert len(below(stack, stack[0].filename)) == len(stack) - 1


def test_the_last_report_of_each_kind_is_kept() -> None:
    """A newer one takes its place."""
    stack_reports = StackReports()

    stack_reports.keep("blocked", job_id="1")
    stack_reports.keep("blocked", job_id="2")

    kept = stack_reports.snapshot()
    assert kept["blocked"] is not None
    assert kept["blocked"]["job_id"] == "2"
    assert (kept["timed_out"], kept["abandoned"]) == (None, None)
