"""Each handler has a task and a context of its own, and begins at once."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from convolab_worker.worker.execution.handler_tasks import begun_task

pytestmark = pytest.mark.asyncio

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="nobody's")
SOON = 5.0


def begin(handler: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
    """The handler's task, if it has not ended."""
    return begun_task(handler, asyncio.get_running_loop(), name)


def own_task() -> asyncio.Task[Any]:
    """The task that the caller runs in."""
    task = asyncio.current_task()
    assert task is not None
    return task


async def wait_and_tell(told: list[Any]) -> None:
    """A handler that waits, and tells how that ended."""
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    except asyncio.CancelledError:
        told.append("cancelled")
    else:
        told.append("waited")


async def test_what_ends_at_once_needs_no_turn_of_the_loop_and_sees_nothing_of_the_last_one() -> (
    None
):
    told: list[tuple[str, str]] = []

    async def work(own: str) -> None:
        told.append((own_task().get_name(), VARIABLE.get()))
        VARIABLE.set(own)

    for own in ("one", "two"):
        assert begin(work(own), own) is None
    await asyncio.sleep(0)  # the task has made a step of its own
    assert begin(work("three"), "three") is None

    assert told == [(own, "nobody's") for own in ("one", "two", "three")]
    assert VARIABLE.get() == "nobody's"


async def test_a_handlers_task_shows_where_it_stands_while_it_makes_its_first_step() -> None:
    """To those who look at tasks, from inside of one: a log line, a debugger, anyio."""
    told: list[tuple[str, bool, bool]] = []

    async def work() -> None:
        task = own_task()
        coroutine: Any = task.get_coro()
        is_named = "work() running at" in repr(task)
        told.append((inspect.getcoroutinestate(coroutine), is_named, bool(task.get_stack())))

    for name in ("one", "two"):
        assert begin(work(), name) is None

    assert told == [(inspect.CORO_RUNNING, True, True)] * 2


@pytest.mark.parametrize("turns", [0, 2])
async def test_what_waits_goes_on_in_its_own_task_and_context(turns: int) -> None:
    told: list[Any] = []

    async def end() -> None:
        """Nothing to wait for."""

    async def work(own: str) -> None:
        VARIABLE.set(own)
        began_in = own_task()
        async with asyncio.timeout(SOON):
            for _ in range(3):
                await asyncio.sleep(0)
        told.append((own, VARIABLE.get(), own_task() is began_in, began_in.get_name()))

    running = []
    for own in ("one", "two"):
        assert begin(end(), "ends") is None
        for _ in range(turns):
            await asyncio.sleep(0)
        task = begin(work(own), own)
        assert task is not None
        running.append(task)
    await asyncio.wait_for(asyncio.gather(*running), SOON)

    assert told == [(own, own, True, own) for own in ("one", "two")]


@pytest.mark.parametrize("turns", [0, 2])
async def test_a_handler_that_waits_is_cancelled_where_it_waits(turns: int) -> None:
    async def end() -> None:
        """Nothing to wait for."""

    told: list[Any] = []
    for _ in range(3):
        begin(end(), "ends")
        for _ in range(turns):
            await asyncio.sleep(0)
        task = begin(wait_and_tell(told), "waits")
        assert task is not None
        task.cancel()
        await asyncio.wait_for(task, SOON)

    assert told == ["cancelled"] * 3


@pytest.mark.parametrize("turns", [0, 2])
@pytest.mark.parametrize(
    "cancel",
    [
        lambda task: task.cancel(),
        lambda task: (task.cancel(), task.uncancel()),
        lambda _: [task.cancel() for task in asyncio.all_tasks() if task.get_name() == "cancels"],
    ],
)
async def test_a_handler_that_cancels_itself_and_ends_does_not_cancel_the_next_one(
    cancel: Callable[[asyncio.Task[Any]], object], turns: int
) -> None:
    told: list[Any] = []

    async def cancels() -> None:
        cancel(own_task())

    begin(cancels(), "cancels")
    for _ in range(turns):
        await asyncio.sleep(0)
    task = begin(wait_and_tell(told), "waits")
    assert task is not None
    await asyncio.wait_for(task, SOON)

    assert told == ["waited"]


async def test_nothing_that_a_handler_has_bound_is_kept_when_it_has_ended() -> None:
    class Large:
        """What a handler binds to its context."""

    bound: ContextVar[Large] = ContextVar("bound")
    kept = []

    async def work() -> None:
        large = Large()
        bound.set(large)
        kept.append(weakref.ref(large))

    for _ in range(2):
        begin(work(), "works")
    await asyncio.sleep(0)
    gc.collect()

    assert [reference() for reference in kept] == [None, None]
