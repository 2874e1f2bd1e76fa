"""A coroutine whose first step is made before its task: the task does not notice it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from convolab_worker.worker.execution.begun_coroutine import BegunCoroutine
from convolab_worker.worker.watchdog import stack_of_coroutine

pytestmark = pytest.mark.asyncio


def begun_task(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task whose first step has been made."""
    begun = BegunCoroutine(coroutine)
    task = asyncio.get_running_loop().create_task(begun)
    begun.begin()
    return task


async def test_what_waits_for_nothing_has_ended_before_its_task_begins() -> None:
    """The task ends with its first step."""
    told = []

    async def work() -> None:
        told.append("worked")

    task = begun_task(work())

    assert told == ["worked"]
    assert not task.done()
    await task


async def test_what_waits_goes_on_when_its_future_is_done() -> None:
    """Whether that is before or after the task's first step."""
    loop = asyncio.get_running_loop()
    for turns in (0, 2):
        future: asyncio.Future[str] = loop.create_future()
        told: list[str] = []

        async def work(future: asyncio.Future[str] = future, told: list[str] = told) -> None:
            told.append(await future)
            await asyncio.sleep(0)
            told.append(await future)

        task = begun_task(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        future.set_result("here")
        await task
        assert told == ["here", "here"]


async def test_several_wait_for_the_same_future() -> None:
    """None of their tasks has made a step when the next one begins to wait."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    told: list[str] = []

    async def work() -> None:
        told.append(await future)

    tasks = [begun_task(work()) for _ in range(3)]
    plain = asyncio.create_task(work())
    await asyncio.sleep(0)
    future.set_result("here")
    await asyncio.gather(*tasks, plain)

    assert told == ["here"] * 4


async def test_giving_way_at_once_takes_one_turn() -> None:
    """As ``asyncio.sleep(0)`` does, in the first step, too."""
    told = []

    async def work() -> None:
        await asyncio.sleep(0)
        told.append("worked")

    task = begun_task(work())
    assert told == []
    await task
    assert told == ["worked"]


async def test_an_error_in_the_first_step_is_the_tasks() -> None:
    """Whoever waits for the task gets it."""

    async def work() -> None:
        msg = "no voice"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="no voice"):
        await begun_task(work())


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_cancellation_reaches_what_it_waits_for_first(turns: int) -> None:
    """That may take its time to end; the coroutine goes on after it, as with any task."""
    told: list[str] = []

    async def inner() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            told.append("inner")

    waits_for = asyncio.create_task(inner())
    await asyncio.sleep(0)  # it has begun

    async def work() -> None:
        try:
            await waits_for
        except asyncio.CancelledError:
            told.append("outer")
            raise

    task = begun_task(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert told == ["inner", "outer"]
    assert waits_for.cancelled()


async def test_a_cancellations_message_comes_along() -> None:
    """Anyio knows its own cancellations by theirs."""
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    messages = []

    async def work() -> None:
        try:
            await never
        except asyncio.CancelledError as error:
            messages.append(error.args)

    task = begun_task(work())
    task.cancel("by a scope")
    await task
    assert messages == [("by a scope",)]


async def test_what_can_not_be_awaited_is_an_error_where_it_is_awaited() -> None:
    """As in any task: something else than a future, and a future that is merely yielded."""

    class Yields:
        def __init__(self, given: object) -> None:
            self.given = given

        def __await__(self) -> Generator[object, None, None]:
            yield self.given

    future = asyncio.get_running_loop().create_future()
    for given, reason in (
        (5, "Task got bad yield: 5"),
        (False, "Task got bad yield: False"),
        (future, "yield was used instead of yield from"),
    ):
        caught: list[str] = []

        async def work(given: object = given, caught: list[str] = caught) -> None:
            try:
                await Yields(given)
            except RuntimeError as error:
                caught.append(str(error))

        await asyncio.wait_for(begun_task(work()), 5)
        assert len(caught) == 1
        assert caught[0].startswith(reason)


async def test_a_cancellation_comes_where_it_gave_way() -> None:
    """There is no future that it could reach first, or that is done already."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def give_way() -> None:
        await asyncio.sleep(0)

    async def wait() -> None:
        await done

    for work in (give_way, wait):
        caught: list[str] = []

        async def outer(work: Any = work, caught: list[str] = caught) -> None:
            try:
                await work()
            except asyncio.CancelledError:
                caught.append(work.__name__)

        task = begun_task(outer())
        if not done.done() and work is wait:
            done.set_result(None)
        task.cancel()
        await task
        assert caught == [work.__name__]


async def test_a_cancellation_after_its_end_changes_nothing() -> None:
    """It has worked."""
    told = []

    async def work() -> None:
        told.append("worked")

    task = begun_task(work())
    task.cancel()
    await asyncio.wait({task})
    assert told == ["worked"]


async def test_it_shows_where_it_stands() -> None:
    """To those who look at tasks: debuggers, anyio, the worker's own reports."""
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait_for_it() -> None:
        await never

    async def work() -> None:
        await wait_for_it()

    task = begun_task(work())
    for _ in range(2):
        coroutine: Any = task.get_coro()
        assert [frame.name for frame in stack_of_coroutine(coroutine)][:2] == [
            "work",
            "wait_for_it",
        ]
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
        assert task.get_stack()
        assert "work() running at" in repr(task)
        await asyncio.sleep(0)
    never.set_result(None)
    await task
