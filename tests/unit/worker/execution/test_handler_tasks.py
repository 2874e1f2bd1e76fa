"""Each handler has a task and a context of its own, whichever task that is."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import pytest_asyncio

from convolab_worker.worker.execution.handler_tasks import HandlerTasks

pytestmark = pytest.mark.asyncio

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="nobody's")
SOON = 5.0


@pytest_asyncio.fixture
async def tasks() -> AsyncIterator[HandlerTasks]:
    """Tasks of handlers, of which none is left afterwards."""
    before = asyncio.all_tasks()
    tasks = HandlerTasks(asyncio.get_running_loop())
    yield tasks
    await tasks.close()
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}


def own_task() -> asyncio.Task[Any]:
    """The task that the caller runs in."""
    task = asyncio.current_task()
    assert task is not None
    return task


def cancel_all_others() -> None:
    """Cancel every task but the caller's, and keep none of them."""
    for each in asyncio.all_tasks() - {own_task()}:
        each.cancel()


async def wait_and_tell(told: list[Any]) -> None:
    """A handler that waits, and tells how that ended."""
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    except asyncio.CancelledError:
        told.append("cancelled")
    else:
        told.append("waited")


async def test_what_ends_at_once_needs_no_turn_of_the_loop_and_sees_nothing_of_the_last_one(
    tasks: HandlerTasks,
) -> None:
    told: list[tuple[str, str]] = []

    async def work(own: str) -> None:
        told.append((own_task().get_name(), VARIABLE.get()))
        VARIABLE.set(own)

    for own in ("one", "two"):
        assert tasks.begin(work(own), own) is None
    await asyncio.sleep(0)  # the task has made a step of its own
    assert tasks.begin(work("three"), "three") is None

    assert told == [(own, "nobody's") for own in ("one", "two", "three")]
    assert VARIABLE.get() == "nobody's"


async def test_a_handlers_task_shows_where_it_stands_while_it_makes_its_first_step(
    tasks: HandlerTasks,
) -> None:
    """To those who look at tasks, from inside of one: a log line, a debugger, anyio."""
    told: list[tuple[str, bool, bool]] = []

    async def work() -> None:
        task = own_task()
        coroutine: Any = task.get_coro()
        is_named = "work() running at" in repr(task)
        told.append((inspect.getcoroutinestate(coroutine), is_named, bool(task.get_stack())))

    for name in ("one", "two"):
        assert tasks.begin(work(), name) is None

    assert told == [(inspect.CORO_RUNNING, True, True)] * 2


@pytest.mark.parametrize("turns", [0, 2])
async def test_what_waits_goes_on_in_its_own_task_and_context(
    tasks: HandlerTasks, turns: int
) -> None:
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
        assert tasks.begin(end(), "ends") is None
        for _ in range(turns):
            await asyncio.sleep(0)
        task = tasks.begin(work(own), own)
        assert task is not None
        running.append(task)
    await asyncio.wait_for(asyncio.gather(*running), SOON)

    assert told == [(own, own, True, own) for own in ("one", "two")]


@pytest.mark.parametrize("turns", [0, 2])
async def test_a_handler_that_waits_is_cancelled_where_it_waits(
    tasks: HandlerTasks, turns: int
) -> None:
    async def end() -> None:
        """Nothing to wait for."""

    told: list[Any] = []
    for _ in range(3):
        tasks.begin(end(), "ends")
        for _ in range(turns):
            await asyncio.sleep(0)
        task = tasks.begin(wait_and_tell(told), "waits")
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
    tasks: HandlerTasks, cancel: Callable[[asyncio.Task[Any]], object], turns: int
) -> None:
    told: list[Any] = []

    async def cancels() -> None:
        cancel(own_task())

    tasks.begin(cancels(), "cancels")
    for _ in range(turns):
        await asyncio.sleep(0)
    task = tasks.begin(wait_and_tell(told), "waits")
    assert task is not None
    await asyncio.wait_for(task, SOON)

    assert told == ["waited"]


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 2), (2, 0), (2, 2)])
async def test_somebody_who_cancels_all_tasks_cancels_no_handler_that_comes_later(
    tasks: HandlerTasks, before: int, after: int
) -> None:
    told: list[Any] = []

    async def end() -> None:
        """Nothing to wait for."""

    tasks.begin(end(), "ends")
    for _ in range(before):
        await asyncio.sleep(0)
    cancel_all_others()
    for _ in range(after):
        await asyncio.sleep(0)
    task = tasks.begin(wait_and_tell(told), "waits")
    assert task is not None
    await asyncio.wait_for(task, SOON)

    assert told == ["waited"]


async def test_a_task_that_somebody_has_kept_is_no_later_handlers_and_ends(
    tasks: HandlerTasks,
) -> None:
    kept: list[asyncio.Task[Any]] = []
    known: WeakKeyDictionary[asyncio.Task[Any], str] = WeakKeyDictionary()
    told: list[Any] = []

    async def is_kept() -> None:
        kept.append(own_task())

    async def is_known() -> None:
        told.append(known.get(own_task()))
        known[own_task()] = "is known"

    async def is_waited_for() -> None:
        own_task().add_done_callback(lambda _: told.append("has ended"))

    for work in (is_kept, is_kept, is_known, is_known, is_waited_for):
        tasks.begin(work(), "works")
    await asyncio.wait_for(asyncio.gather(*kept), SOON)
    await asyncio.sleep(0)

    assert len({*kept}) == 2
    assert told == [None, None, "has ended"]


async def test_nothing_that_a_handler_has_bound_is_kept_when_it_has_ended(
    tasks: HandlerTasks,
) -> None:
    class Large:
        """What a handler binds to its context."""

    bound: ContextVar[Large] = ContextVar("bound")
    kept = []

    async def work() -> None:
        large = Large()
        bound.set(large)
        kept.append(weakref.ref(large))

    for _ in range(2):
        tasks.begin(work(), "works")
    gc.collect()

    assert [reference() for reference in kept] == [None, None]
