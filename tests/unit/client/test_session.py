"""Back-pressure: who is let in, in which order, and that no room is lost."""

from __future__ import annotations

import asyncio

import pytest

from convolab_worker.client.session import Backlog
from convolab_worker.errors import RedisUnavailable

pytestmark = pytest.mark.asyncio


async def turns(count: int = 5) -> None:
    """Let the other tasks of the loop go on as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)


class Callers:
    """Calls that enter a backlog, and stay until they are told to leave."""

    def __init__(self, backlog: Backlog) -> None:
        self.inside: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._backlog = backlog

    async def come(self, *needs: tuple[int, int]) -> None:
        """One call for each of the needs, in commands and bytes."""
        for commands, size in needs:
            number = len(self.tasks)
            self.tasks.append(asyncio.create_task(self._call(number, commands, size)))
        await turns()

    async def _call(self, number: int, commands: int, size: int) -> None:
        await self._backlog.enter(commands, size)
        self.inside.append(number)

    async def leave(self, commands: int, size: int) -> None:
        """One of those inside is answered."""
        self._backlog.leave(commands, size)
        await turns()


async def test_calls_wait_for_room_and_enter_in_their_order() -> None:
    """One that would fit does not overtake one that does not fit yet."""
    backlog = Backlog(most_commands=10, most_bytes=100)
    callers = Callers(backlog)

    await callers.come((5, 10), (4, 10), (3, 10), (1, 10))
    at_first = list(callers.inside)
    await callers.leave(5, 10)

    assert at_first == [0, 1]
    assert callers.inside == [0, 1, 2, 3]
    assert (backlog.commands, backlog.size) == (8, 30)


async def test_bytes_are_bounded_too_and_what_is_too_large_goes_alone() -> None:
    """A call that needs more than there can be waits until nobody else is inside."""
    callers = Callers(Backlog(most_commands=10, most_bytes=100))

    await callers.come((1, 60), (1, 60), (1, 500))
    seen = [list(callers.inside)]
    for _ in range(2):
        await callers.leave(1, 60)
        seen.append(list(callers.inside))

    assert seen == [[0], [0, 1], [0, 1, 2]]


async def test_a_call_that_is_cancelled_takes_no_room() -> None:
    """Neither while it waits, nor in the turn of the loop in which it was let in."""
    backlog = Backlog(most_commands=1, most_bytes=100)
    callers = Callers(backlog)
    await callers.come((1, 1), (1, 1), (1, 1), (1, 1))

    callers.tasks[1].cancel()
    backlog.leave(1, 1)  # which lets the next one in: it is cancelled before it knows
    callers.tasks[2].cancel()
    await turns()

    assert callers.inside == [0, 3]
    assert (backlog.commands, backlog.size) == (1, 1)


async def test_calls_that_wait_can_be_refused_and_later_ones_enter() -> None:
    """They raise the reason; room is given back by those inside alone."""
    backlog = Backlog(most_commands=1, most_bytes=100)
    callers = Callers(backlog)
    await callers.come((1, 1), (1, 1), (1, 1))

    backlog.refuse("gone")
    outcomes = await asyncio.gather(*callers.tasks, return_exceptions=True)
    await callers.leave(1, 1)
    await callers.come((1, 1))

    assert [str(error) for error in outcomes[1:]] == ["gone", "gone"]
    assert all(isinstance(error, RedisUnavailable) for error in outcomes[1:])
    assert callers.inside == [0, 3]
