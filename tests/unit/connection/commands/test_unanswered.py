"""The answer to come of a command: what waits for it goes on as it is delivered."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable
from typing import Any

import pytest

from convolab_worker.connection.commands.unanswered import Answer

pytestmark = pytest.mark.asyncio

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


class Loop:
    """Delivers as the event loop's reading does: outside of any task."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.seen: list[Any] = []

    def answer(self) -> Answer:
        return Answer(loop=self.loop)

    async def waiting(self, awaitable: Awaitable[Any]) -> asyncio.Task[None]:
        """A task that waits already, and writes down what it gets."""

        async def wait() -> None:
            try:
                self.seen.append(await awaitable)
            except (asyncio.CancelledError, OSError) as error:
                self.seen.append(type(error))

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        return task

    async def delivered(self, answer: Answer, value: Any) -> list[Any]:
        """What was seen by the time ``deliver`` came back."""
        at_once: list[Any] = []

        def deliver() -> None:
            answer.deliver(value)
            at_once.extend(self.seen)

        self.loop.call_soon(deliver)
        await asyncio.sleep(0)
        return at_once


async def test_a_task_goes_on_before_deliver_comes_back() -> None:
    loop = Loop()
    answer = loop.answer()
    task = await loop.waiting(answer)

    assert await loop.delivered(answer, b"OK") == [b"OK"]
    assert task.done()


async def test_a_task_goes_on_in_its_own_context() -> None:
    loop = Loop()
    answer = loop.answer()

    async def work() -> None:
        VARIABLE.set("the task's")
        await answer
        loop.seen.append((VARIABLE.get(), asyncio.current_task()))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    VARIABLE.set("the test's")

    assert await loop.delivered(answer, None) == [("the task's", task)]


async def test_all_that_wait_get_the_answer() -> None:
    loop = Loop()
    answer = loop.answer()
    tasks = [await loop.waiting(answer) for _ in range(3)]

    await loop.delivered(answer, 1)
    await asyncio.gather(*tasks)

    assert loop.seen == [1, 1, 1]


async def test_an_answer_that_is_there_is_waited_for_by_nobody() -> None:
    loop = Loop()
    answer = loop.answer()
    await loop.delivered(answer, 1)

    assert await answer == 1


@pytest.mark.parametrize(
    "together", [asyncio.gather, asyncio.shield], ids=lambda each: each.__name__
)
async def test_it_can_be_waited_for_in_company(together: Any) -> None:
    loop = Loop()
    answer = loop.answer()
    task = await loop.waiting(together(answer))

    await loop.delivered(answer, 1)
    await task

    assert loop.seen in ([1], [[1]])


async def test_a_wait_that_times_out_forgets_it() -> None:
    loop = Loop()
    answer = loop.answer()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(answer), 0)
    assert await loop.delivered(answer, 1) == []
    assert answer.result() == 1


async def test_a_callback_that_is_removed_is_not_called() -> None:
    loop = Loop()
    answer = loop.answer()
    answer.add_done_callback(loop.seen.append)

    assert answer.remove_done_callback(loop.seen.append) == 1
    assert await loop.delivered(answer, 1) == []


async def test_a_failure_comes_in_the_next_turn_since_a_task_may_tell_it() -> None:
    loop = Loop()
    answer = loop.answer()
    task = await loop.waiting(answer)

    answer.set_exception(OSError("gone"))
    assert loop.seen == []
    await task

    assert loop.seen == [OSError]


async def test_a_task_that_is_cancelled_gives_the_answer_up() -> None:
    loop = Loop()
    answer = loop.answer()
    task = await loop.waiting(answer)

    task.cancel()
    await task

    assert loop.seen == [asyncio.CancelledError]
    assert answer.cancelled()


async def test_a_callback_that_raises_is_told_to_the_loop_and_harms_nobody() -> None:
    loop = Loop()
    answer, told = loop.answer(), []
    loop.loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    error = RuntimeError("a callback's")

    def fail(_: object) -> None:
        raise error

    answer.add_done_callback(fail)
    await loop.delivered(answer, 1)

    assert told == [error]
    assert answer.result() == 1
