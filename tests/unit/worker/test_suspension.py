"""Suspension: what ends it in each state, when the worker falls asleep, and its end for good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter
from convolab_worker.connection.connection import Connection
from convolab_worker.connection.upkeep.reconnect import Reconnection
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.worker.suspension import ALWAYS_WORKING, IdlePolicy, Suspension
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
SOON = 10.0
LONG = 3600.0
WHEN_HELD = IdlePolicy(works_when_held=True)


def nothing_due() -> float | None:
    """No time at which there is something to do."""
    return None


def make_suspension(
    policy: IdlePolicy = ALWAYS_WORKING, *, due_at: float | None = None
) -> Suspension:
    """The suspension of a worker that has no connection."""
    return Suspension(policy, Reconnection(where="nowhere"), lambda: due_at)


async def turns() -> None:
    """Some turns of the loop, in which whatever can go on does."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def waiting(suspension: Suspension) -> AsyncIterator[asyncio.Task[None]]:
    """Somebody who waits until the worker is resumed."""
    task = asyncio.create_task(suspension.wait_until_resumed())
    await turns()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ends(task: asyncio.Task[None]) -> None:
    """Fail where the wait does not end soon."""
    async with asyncio.timeout(SOON):
        await task


async def falls_asleep(suspension: Suspension) -> None:
    """Return when the worker has fallen asleep."""
    await wait_until(lambda: suspension.asleep, what="the sleep")


# how it begins


async def test_a_worker_that_works_always_begins_working() -> None:
    """One that works only when held begins suspended."""
    assert make_suspension().phase == "working"
    assert make_suspension(WHEN_HELD).phase == "suspended"


# suspend, resume, wake


async def test_a_suspended_worker_waits_until_it_is_resumed() -> None:
    """And works then."""
    suspension = make_suspension()
    suspension.suspend()

    async with waiting(suspension) as task:
        before = suspension.phase, task.done()
        suspension.resume()
        await ends(task)

    assert before == ("suspended", False)
    assert suspension.phase == "working"


async def test_a_worker_that_was_resumed_before_it_waits_does_not_wait() -> None:
    """A resumption while the worker is being suspended is kept."""
    suspension = make_suspension()
    suspension.suspend()
    suspension.resume()

    async with waiting(suspension) as task:
        assert task.done()


async def test_a_worker_is_suspended_again() -> None:
    """What resumed it the last time does not count any more."""
    suspension = make_suspension()
    for _ in range(2):
        suspension.suspend()
        async with waiting(suspension) as task:
            assert not task.done()
            suspension.resume()
            await ends(task)


async def test_suspending_twice_does_nothing_the_second_time() -> None:
    """The sleep is put off only once."""
    suspension = make_suspension(IdlePolicy(works_when_held=True, sleep_after=LONG))
    suspension.resume()
    suspension.suspend()
    before = suspension.idle_deadline
    await asyncio.sleep(0.001)

    suspension.suspend()

    assert suspension.idle_deadline == before


async def test_a_wake_resumes_a_worker_that_works_always() -> None:
    """From a suspension."""
    suspension = make_suspension()
    suspension.suspend()

    async with waiting(suspension) as task:
        suspension.wake()
        await ends(task)

    assert suspension.phase == "working"


async def test_a_wake_does_not_resume_a_worker_that_works_only_when_held() -> None:
    """It puts its sleep off."""
    suspension = make_suspension(IdlePolicy(works_when_held=True, sleep_after=LONG))
    before = suspension.idle_deadline

    async with waiting(suspension) as task:
        await asyncio.sleep(0.001)
        suspension.wake()
        await turns()
        still_waits = not task.done()

    assert still_waits
    assert suspension.phase == "suspended"
    assert suspension.idle_deadline > before


# sleep


async def test_a_worker_without_a_time_to_sleep_never_has_a_deadline() -> None:
    """However long nothing happens."""
    assert make_suspension().idle_deadline == float("inf")


@pytest.mark.parametrize("event", ["touch", "wake", "resume"])
async def test_what_happens_puts_the_sleep_off(event: str) -> None:
    """A job's end, a wake, a request."""
    suspension = make_suspension(IdlePolicy(sleep_after=LONG))
    before = suspension.idle_deadline
    await asyncio.sleep(0.001)

    getattr(suspension, event)()

    assert suspension.idle_deadline > before
    assert suspension.idle_deadline == suspension.active_at + LONG


async def test_the_time_to_sleep_begins_with_the_end_of_a_drain() -> None:
    """For a worker that works only when held; another one has been idle before."""
    held = make_suspension(IdlePolicy(works_when_held=True, sleep_after=LONG))
    always = make_suspension(IdlePolicy(sleep_after=LONG))
    held.resume()
    before = held.idle_deadline, always.idle_deadline
    await asyncio.sleep(0.001)

    held.suspend()
    always.suspend()

    assert held.idle_deadline > before[0]
    assert always.idle_deadline == before[1]


@pytest.mark.parametrize("how", ["resume", "wake", "end"])
async def test_a_worker_that_is_asleep_goes_on(how: str) -> None:
    """When it is resumed or woken, or stops."""
    suspension = make_suspension(IdlePolicy(sleep_after=0.001))
    suspension.suspend()

    async with waiting(suspension) as task:
        await falls_asleep(suspension)
        during = suspension.phase
        getattr(suspension, how)()
        await ends(task)

    assert (during, suspension.asleep) == ("asleep", False)


async def test_a_wake_leaves_a_worker_asleep_that_works_only_when_held() -> None:
    """Only a request ends its sleep, or its end."""
    suspension = make_suspension(IdlePolicy(works_when_held=True, sleep_after=0.001))

    async with waiting(suspension) as task:
        await falls_asleep(suspension)
        suspension.wake()
        await turns()
        during = suspension.phase, task.done()
        suspension.resume()
        await ends(task)

    assert during == ("asleep", False)
    assert suspension.phase == "working"


async def test_a_sleeping_worker_works_when_a_job_is_due() -> None:
    """If it works always."""
    due_at = time.time() + 0.05
    suspension = make_suspension(IdlePolicy(sleep_after=0.001), due_at=due_at)
    suspension.suspend()

    async with waiting(suspension) as task:
        await ends(task)

    assert time.time() >= due_at - 0.002
    assert suspension.phase == "working"


async def test_nothing_that_is_due_ends_the_sleep_of_a_worker_that_works_only_when_held() -> None:
    """It has no CPU then."""
    policy = IdlePolicy(works_when_held=True, sleep_after=0.001)
    suspension = make_suspension(policy, due_at=time.time() - LONG)

    async with waiting(suspension) as task:
        await falls_asleep(suspension)
        await turns()

        assert not task.done()


# connections


async def connected(server: EmbeddedServer) -> tuple[Reconnection, Connection]:
    """A connection that is open, and what keeps it."""
    connection = Connection(Address.parse(server.url), timeout=SOON, counter=CommandCounter())
    reconnection = Reconnection(connection, where="here")
    async with asyncio.timeout(SOON):
        await reconnection.wait()
    return reconnection, connection


async def test_a_sleeping_worker_has_no_connection(server: EmbeddedServer) -> None:
    """A suspended one has."""
    reconnection, connection = await connected(server)
    suspension = Suspension(IdlePolicy(sleep_after=0.1), reconnection, nothing_due)
    suspension.suspend()

    async with waiting(suspension):
        suspended = connection.is_open
        await falls_asleep(suspension)
        asleep = connection.is_open

    assert (suspended, asleep) == (True, False)


async def test_a_worker_that_has_jobs_keeps_its_connection(server: EmbeddedServer) -> None:
    """Their ends are still to be written; it falls asleep afterwards."""
    reconnection, connection = await connected(server)
    policy, looks = IdlePolicy(sleep_after=0.01), iter([True, True, False])
    open_at_looks = []

    def has_jobs() -> bool:
        open_at_looks.append((suspension.phase, connection.is_open))
        return next(looks)

    suspension = Suspension(policy, reconnection, nothing_due, has_jobs=has_jobs)
    suspension.suspend()

    async with waiting(suspension):
        await falls_asleep(suspension)

    assert open_at_looks == [("suspended", True)] * 3


@pytest.mark.parametrize("works_when_held", [False, True], ids=["background", "held"])
async def test_a_worker_that_overslept_connects_anew(
    server: EmbeddedServer, *, works_when_held: bool
) -> None:
    """Its process was frozen when its connections should have been closed, and they may be dead."""
    reconnection, connection = await connected(server)
    policy = IdlePolicy(works_when_held=works_when_held, sleep_after=0.02)
    suspension = Suspension(policy, reconnection, nothing_due)
    suspension.suspend()
    time.sleep(0.05)  # noqa: ASYNC251 - the loop stands still, as in a frozen process
    suspension.wake()  # a request that is held wakes the worker before it resumes it
    suspension.resume()

    async with waiting(suspension) as task:
        await ends(task)

    assert not connection.is_open
    assert suspension.phase == "working"


async def test_a_worker_that_is_resumed_in_time_keeps_its_connections(
    server: EmbeddedServer,
) -> None:
    """They are good."""
    reconnection, connection = await connected(server)
    suspension = Suspension(IdlePolicy(sleep_after=LONG), reconnection, nothing_due)
    suspension.suspend()

    async with waiting(suspension) as task:
        suspension.resume()
        await ends(task)

    assert connection.is_open
    await reconnection.close()


async def test_a_worker_connects_before_its_first_work(server: EmbeddedServer) -> None:
    """It is ready, and suspended."""
    connection = Connection(Address.parse(server.url), timeout=SOON, counter=CommandCounter())
    reconnection = Reconnection(connection, where="here")
    suspension = Suspension(WHEN_HELD, reconnection, nothing_due)

    suspension.connect_early()
    await wait_until(lambda: connection.is_open, what="the connection")

    assert suspension.phase == "suspended"
    await reconnection.close()


# its end


@pytest.mark.parametrize("policy", [ALWAYS_WORKING, WHEN_HELD], ids=["always", "when held"])
@pytest.mark.parametrize("state", ["working", "suspended", "waited for"])
async def test_whoever_waits_goes_on_at_the_end(policy: IdlePolicy, state: str) -> None:
    """Whatever the state, and so does whoever waits later."""
    suspension = make_suspension(policy)
    if state == "working":
        suspension.resume()
    else:
        suspension.suspend()

    async with waiting(suspension) as early:
        if state == "waited for":
            assert not early.done()
        suspension.end()
        await ends(early)
    async with waiting(suspension) as late:
        assert late.done()


async def test_nothing_suspends_a_worker_after_its_end() -> None:
    """A stop that comes while the worker is being suspended is not waited for in vain."""
    suspension = make_suspension()

    suspension.end()
    suspension.suspend()

    assert suspension.phase == "working"
    async with waiting(suspension) as task:
        assert task.done()


async def test_a_wake_and_an_end_in_one_turn_end_a_wait() -> None:
    """In whichever order they come, and though the worker is suspended between them."""
    for first, second in (("wake", "end"), ("end", "wake")):
        suspension = make_suspension()
        suspension.suspend()
        async with waiting(suspension) as task:
            getattr(suspension, first)()
            suspension.suspend()
            getattr(suspension, second)()
            await ends(task)


@pytest.mark.parametrize("count", range(8))
async def test_an_end_in_any_turn_of_falling_asleep_ends_the_wait(
    server: EmbeddedServer, count: int
) -> None:
    """Before, while and after the connections are closed."""
    reconnection, _ = await connected(server)
    suspension = Suspension(IdlePolicy(sleep_after=0.0), reconnection, nothing_due)
    suspension.suspend()
    task = asyncio.create_task(suspension.wait_until_resumed())
    for _ in range(count):
        await asyncio.sleep(0)

    suspension.end()
    await ends(task)

    assert not suspension.asleep
    await reconnection.close()
