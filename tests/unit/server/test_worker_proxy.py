"""The worker as the server reaches it: health from checks once a second, calls in its own loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from convolab_worker import HandlerRegistry, Job, Settings, Worker
from convolab_worker.errors import NotRunning
from convolab_worker.server.worker_proxy import HealthWatch, WorkerProxy
from convolab_worker.worker.status import Health

WELL = Health(state="running", ready=True, overdue=False)
OVERDUE = Health(state="running", ready=True, overdue=True)


def test_a_worker_that_answers_is_healthy() -> None:
    """Nothing is wrong."""
    watch = HealthWatch()
    for _ in range(100):
        watch.record(WELL, answered=True)

    assert watch.problem(WELL) is None


def test_a_loop_that_hangs_for_five_checks_is_a_problem_until_it_turns() -> None:
    """Four are not: a garbage collection or a slow disk restarts no process."""
    watch = HealthWatch()
    for _ in range(4):
        watch.record(WELL, answered=False)
    assert watch.problem(WELL) is None
    watch.record(WELL, answered=False)

    assert watch.problem(WELL) == "the event loop has not turned for 5 s"

    watch.record(WELL, answered=True)
    assert watch.problem(WELL) is None


def test_a_process_that_was_suspended_is_healthy() -> None:
    """Frozen for an hour between two checks: only one check fails."""
    watch = HealthWatch()
    watch.record(OVERDUE, answered=False)

    assert watch.problem(OVERDUE) is None


def test_a_fetch_loop_that_is_overdue_for_five_checks_is_a_problem() -> None:
    """The event loop turns, and yet no job is fetched."""
    watch = HealthWatch()
    for _ in range(5):
        watch.record(OVERDUE, answered=True)

    assert watch.problem(OVERDUE) == "the loop that fetches jobs makes no progress"


@pytest.mark.parametrize("state", ["new", "running", "stopping"])
def test_a_worker_that_starts_or_stops_is_healthy(state: str) -> None:
    """It is not ready, but nothing is wrong with it."""
    assert HealthWatch().problem(Health(state=state, ready=False, overdue=False)) is None


def test_a_worker_that_has_ended_is_a_problem() -> None:
    """A server that outlives its worker is of no use."""
    health = Health(state="stopped", ready=False, overdue=False)

    assert HealthWatch().problem(health) == "the worker has ended"


class CountingWorker(Worker):
    """Counts its wakes, and tells when it has been woken."""

    def __init__(self) -> None:
        handlers = HandlerRegistry()

        @handlers.audio("work")
        async def work(_: Job[dict[str, str]]) -> None:
            pass

        super().__init__(handlers, Settings())
        self.wakes = 0
        self.woken = threading.Event()

    def wake(self) -> None:
        """Count."""
        self.wakes += 1
        self.woken.set()


class LoopThread:
    """An event loop in a thread of its own, as the worker's is to the server."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def end(self) -> None:
        """End the loop and its thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(10)
            self.loop.close()


@pytest.fixture
def there() -> Iterator[LoopThread]:
    """The worker's loop."""
    there = LoopThread()
    yield there
    there.end()


async def thread_and_state(worker: Worker) -> tuple[int, str]:
    """Where this runs, and what the worker says."""
    return threading.get_ident(), worker.stats()["state"]


@pytest.mark.asyncio
async def test_a_call_runs_in_the_workers_loop(there: LoopThread) -> None:
    """In the other thread's loop, or at once in a loop that both share."""
    worker = CountingWorker()

    across = await WorkerProxy(worker, there.loop).call(thread_and_state)
    here = await WorkerProxy(worker).call(thread_and_state)

    assert across == (there.thread.ident, "new")
    assert here == (threading.get_ident(), "new")


@pytest.mark.asyncio
async def test_a_call_raises_what_the_worker_raises(there: LoopThread) -> None:
    """An error crosses from one loop to the other."""

    async def fail(_: Worker) -> None:
        msg = "no Redis"
        raise LookupError(msg)

    with pytest.raises(LookupError, match="no Redis"):
        await WorkerProxy(CountingWorker(), there.loop).call(fail)


@pytest.mark.asyncio
async def test_a_caller_that_is_cancelled_cancels_its_call(there: LoopThread) -> None:
    """A client that hangs up ends its held request in the worker's loop too."""
    began, cancelled = threading.Event(), threading.Event()

    async def hold(_: Worker) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    call = asyncio.create_task(WorkerProxy(CountingWorker(), there.loop).call(hold))
    assert await asyncio.to_thread(began.wait, 10)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(cancelled.wait, 10)


@pytest.mark.asyncio
async def test_a_call_to_a_loop_that_has_ended_says_so(there: LoopThread) -> None:
    """It does not wait for an answer that can't come; a wake is not an error."""
    proxy = WorkerProxy(CountingWorker(), there.loop)
    there.end()

    with pytest.raises(NotRunning, match="the worker has ended"):
        await proxy.call(thread_and_state)
    proxy.wake()


@pytest.mark.asyncio
async def test_wakes_that_come_before_the_worker_is_woken_are_one(there: LoopThread) -> None:
    """A flood of requests costs the worker's loop one callback; the next wake is another one."""
    worker = CountingWorker()
    proxy, free = WorkerProxy(worker, there.loop), threading.Event()
    there.loop.call_soon_threadsafe(free.wait, 10)
    for _ in range(100):
        proxy.wake()
    free.set()
    assert await asyncio.to_thread(worker.woken.wait, 10)
    await proxy.call(thread_and_state)

    assert worker.wakes == 1

    proxy.wake()
    await proxy.call(thread_and_state)
    assert worker.wakes == 2


@pytest.mark.asyncio
async def test_a_loop_that_is_blocked_fails_the_checks_until_it_turns(there: LoopThread) -> None:
    """The first check is answered in advance, so that the sixth is the fifth to fail."""
    proxy, free = WorkerProxy(CountingWorker(), there.loop), threading.Event()
    there.loop.call_soon_threadsafe(free.wait, 10)
    for _ in range(6):
        proxy.check()

    assert proxy.problem() == "the event loop has not turned for 5 s"

    free.set()
    await proxy.call(thread_and_state)
    proxy.check()
    assert proxy.problem() is None
