"""Lifespans: opened in order, closed in reverse, and what becomes of one that fails or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from convolab_worker.errors import ConfigurationError, LifespanFailed
from convolab_worker.handlers.around.lifespan import Lifespans
from convolab_worker.handlers.job.job import Job
from convolab_worker.handlers.registration.handler import Scope
from convolab_worker.handlers.registration.registry import HandlerRegistry
from convolab_worker.settings import Settings

pytestmark = pytest.mark.asyncio
SOON = 5.0
LONG = 60.0


@pytest.fixture
def diary() -> list[str]:
    """What happened, in order."""
    return []


def registry(
    name: str,
    diary: list[str],
    *,
    opening: Callable[[], Any] = lambda: None,
    closing: Callable[[], Any] = lambda: None,
) -> HandlerRegistry:
    """A registry with one handler and a lifespan that keeps a diary."""
    handlers = HandlerRegistry()

    @handlers.lifespan
    async def life() -> AsyncIterator[str]:
        diary.append(f"open {name}")
        await called(opening)
        yield f"resources of {name}"
        diary.append(f"close {name}")
        await called(closing)

    @handlers.audio(name)
    async def handler(job: Job[Any]) -> None:
        """Do nothing."""

    return handlers


async def called(action: Callable[[], Any]) -> None:
    """Call it, and await what it gives, if it is to be awaited."""
    given = action()
    if asyncio.iscoroutine(given):
        await given


def fail() -> None:
    """Fail."""
    msg = "no route\nto the database"
    raise OSError(msg)


def family(*members: HandlerRegistry) -> Lifespans[Scope]:
    """The lifespans of the first, which includes the others in order."""
    first, *others = members
    for other in others:
        first.include(other)
    return Lifespans(first.lifespans, Settings())


async def test_they_open_in_order_and_close_in_reverse(diary: list[str]) -> None:
    """The including registry's comes first and goes last."""
    names = ("a", "b", "c")
    lifespans = family(*[registry(name, diary) for name in names])

    opened = await lifespans.open()
    await lifespans.close(SOON)

    assert list(opened.values()) == [f"resources of {name}" for name in names]
    assert diary == ["open a", "open b", "open c", "close c", "close b", "close a"]


async def test_each_handler_sees_its_own_registrys_resources(diary: list[str]) -> None:
    """Handlers of an included registry see that one's; without one of its own, the includer's."""
    inner, plain, outer = registry("inner", diary), HandlerRegistry(), registry("outer", diary)

    @plain.audio("plain")
    async def handler(job: Job[Any]) -> None:
        """Do nothing."""

    outer.include(inner)
    outer.include(plain)
    lifespans = Lifespans(outer.lifespans, Settings())

    stage = outer.staged(await lifespans.open())
    await lifespans.close(SOON)

    seen = {handler.names[0]: handler.resources for handler in stage}
    assert seen == {
        "outer": "resources of outer",
        "inner": "resources of inner",
        "plain": "resources of outer",
    }


async def test_one_that_fails_to_open_names_itself_and_closes_the_others(diary: list[str]) -> None:
    """The reason is one line, with the place; what was opened before is closed."""
    lifespans = family(registry("a", diary), registry("b", diary, opening=fail))

    with pytest.raises(LifespanFailed) as failed:
        await lifespans.open()

    assert diary == ["open a", "open b", "close a"]
    reason = str(failed.value)
    assert f"{__name__}.registry.<locals>.life:" in reason
    assert reason.endswith("failed to start: OSError: no route to the database")


async def test_one_that_fails_to_close_is_logged_and_the_others_close(
    diary: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Closing raises nothing."""
    lifespans = family(registry("a", diary), registry("b", diary, closing=fail))

    await lifespans.open()
    await lifespans.close(SOON)

    assert diary[-2:] == ["close b", "close a"]
    assert "lifespan.not_closed" in capsys.readouterr().out


async def test_one_that_hangs_at_closing_is_cancelled_and_the_others_close(
    diary: list[str],
) -> None:
    """When the time is over, what hangs is left, and what comes after it is closed still."""
    lifespans = family(
        registry("a", diary),
        registry("b", diary, closing=lambda: asyncio.sleep(LONG)),
    )
    await lifespans.open()

    async with asyncio.timeout(SOON):
        await lifespans.close(0.0)

    assert diary[-2:] == ["close b", "close a"]


async def test_one_that_ignores_its_cancellation_is_given_up(
    diary: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not keep the process."""
    released = asyncio.Event()

    async def ignore() -> None:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()

    lifespans = family(registry("a", diary, closing=ignore))
    await lifespans.open()

    async with asyncio.timeout(SOON):
        await lifespans.close(0.0)
    released.set()

    assert "ignores its cancellation" in capsys.readouterr().out


async def test_a_second_signal_ends_the_wait_for_closing(diary: list[str]) -> None:
    """Hurried, what hangs at closing gets a moment and not its minute."""
    closing = asyncio.Event()

    async def linger() -> None:
        closing.set()
        await asyncio.sleep(LONG)

    lifespans = family(registry("a", diary, closing=linger))
    await lifespans.open()

    ending = asyncio.create_task(lifespans.close(LONG))
    await closing.wait()
    lifespans.hurry()

    async with asyncio.timeout(SOON):
        await ending


async def test_a_stop_while_they_open_gives_up_opening(diary: list[str]) -> None:
    """What was opened is closed, what is being opened is cancelled; nothing raises."""
    opening = asyncio.Event()

    async def linger() -> None:
        opening.set()
        await asyncio.sleep(LONG)

    lifespans = family(registry("a", diary), registry("b", diary, opening=linger))
    begun = asyncio.create_task(lifespans.open())
    await opening.wait()

    lifespans.give_up_opening()
    async with asyncio.timeout(SOON):
        await begun
        await lifespans.close(SOON)

    assert diary == ["open a", "open b", "close a"]


async def test_a_task_group_of_a_lifespan_works_and_its_death_is_told() -> None:
    """Entered and left in one task; when a task of it fails, the worker hears of it, with why."""
    handlers, die, died = HandlerRegistry(), asyncio.Event(), asyncio.Event()

    async def background() -> None:
        await die.wait()
        fail()

    @handlers.lifespan
    async def life() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(background())
            yield

    lifespans = Lifespans(handlers.lifespans, Settings(), on_death=died.set)
    await lifespans.open()
    lifespans.raise_death()
    die.set()
    async with asyncio.timeout(SOON):
        await died.wait()

    with pytest.raises(LifespanFailed, match="OSError: no route"):
        lifespans.raise_death()
    await lifespans.close(SOON)


async def test_a_lifespan_may_take_the_settings() -> None:
    """An asynccontextmanager is one as well."""
    handlers = HandlerRegistry()

    @handlers.lifespan
    @asynccontextmanager
    async def life(settings: Settings) -> AsyncIterator[int]:
        yield settings.concurrency

    lifespans = Lifespans(handlers.lifespans, Settings(concurrency=17))
    opened = await lifespans.open()
    await lifespans.close(SOON)

    assert list(opened.values()) == [17]


async def no_yield() -> None:
    """No lifespan."""


async def two_arguments(_one: int, _other: int) -> AsyncIterator[None]:
    """No lifespan either."""
    yield


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (no_yield, "no_yield:.*expected an async function that yields"),
        (two_arguments, "two_arguments:.*expected no argument, or one"),
    ],
)
async def test_what_can_not_be_a_lifespan_is_refused(function: Any, expected: str) -> None:
    """With its place, at registration."""
    with pytest.raises(ConfigurationError, match=expected):
        HandlerRegistry().lifespan(function)


async def test_a_second_lifespan_is_refused_with_both_places() -> None:
    """A registry has one."""
    handlers = registry("a", [])

    with pytest.raises(ConfigurationError, match="two lifespans for one registry: .*life:.*more:"):

        @handlers.lifespan
        async def more() -> AsyncIterator[None]:
            yield


async def test_what_is_no_context_manager_is_refused() -> None:
    """A function that gives something else says so when it is opened."""
    handlers = HandlerRegistry()
    handlers.lifespan(lambda: 5)  # type: ignore[type-var]

    with pytest.raises(ConfigurationError, match="expected an async context manager, got int"):
        await Lifespans(handlers.lifespans, Settings()).open()
