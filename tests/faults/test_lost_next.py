"""A script that ends an attempt is executed, and its reply is lost on the way.

The script has moved the job on, and may have taken the queue's next job under the same lock token.
Locks last long here: a job that somebody runs soon was found, not recovered as a stalled one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import RetryLater
from tests.faults.harness import Bench
from tests.support.proxy import Swallow, TcpProxy
from tests.support.waiting import wait_until

# A fraction of the locks' time, and several times what finding the next job takes.
SOON_SECONDS = 5.0
LOCK_SECONDS = 30.0


class Ends:
    """A handler that ends as its job's data says once the gate is open, and one that returns."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.attempts: list[int] = []
        self.ran: list[str] = []
        self.handlers = HandlerRegistry()
        self.handlers.audio("end")(self.end)
        self.handlers.image("work")(self.work)

    async def end(self, job: Job[Any]) -> str:
        self.attempts.append(job.attempt)
        await self.gate.wait()
        if len(self.attempts) == 1:
            await self._end_as_told(job)
        return job.id

    async def work(self, job: Job[Any]) -> None:
        self.ran.append(job.id)

    async def _end_as_told(self, job: Job[Any]) -> None:
        how = job.data["end"]
        if how == "raise":
            msg = "broken"
            raise ValueError(msg)
        if how == "later":
            raise RetryLater(job.data["seconds"])
        if how == "children":
            await job.enqueue_children([Child("part", key="part", queue=job.data["queue"])])


class MovedOn(Swallow):
    """Swallows the reply to the command that has moved a job on, whichever script that is.

    Whether it has is looked up when its reply comes by: a server that does not know the script
    answers first that it doesn't.
    """

    def __init__(self, bench: Bench, job_id: str, *, cut: bool) -> None:
        super().__init__(1, f"{bench.key(job_id)}\r\n".encode(), cut=cut)
        self._bench = bench
        self._job_id = job_id

    def takes(self, request: bytes) -> bool:
        has_moved = (
            self._job_id not in self._bench.ids_in("active")
            or self._bench.field(self._job_id, "ats") != "1"
        )
        return has_moved and super().takes(request)


class Loss:
    """Loses the reply to whatever moves a job on, on the way to a worker with one slot."""

    def __init__(self, bench: Bench, proxy: TcpProxy) -> None:
        self._bench = bench
        self._proxy = proxy
        self.settings: dict[str, Any] = {
            "redis_url": proxy.url,
            "concurrency": 1,
            "lock_duration": LOCK_SECONDS,
            "command_timeout": 10.0,
        }

    async def happen(
        self, job_id: str, act: Callable[[], object], *, unnoticed: bool = False
    ) -> None:
        """Do what makes the worker move the job on, and cut the connection in the reply's place.

        With ``unnoticed`` the worker waits for the reply until ``cut``.
        """
        lost = MovedOn(self._bench, job_id, cut=not unnoticed)
        self._proxy.call(lambda: setattr(self._proxy, "swallow", lost))
        act()
        await wait_until(lost.done.is_set, what="the lost reply")

    def cut(self) -> None:
        """Have the worker notice a loss that was unnoticed."""
        self._proxy.cut()


@pytest.fixture
def ends() -> Ends:
    """The handlers of the jobs whose ends are lost."""
    return Ends()


@pytest.fixture
def loss(bench: Bench, start_proxy: Callable[[EmbeddedServer], TcpProxy]) -> Loss:
    """A network between the worker and its server that loses replies."""
    return Loss(bench, start_proxy(bench.server))


@dataclass(frozen=True, kw_only=True)
class End:
    """How a job is added, and what becomes of it: its state, its attempts made, its outcome."""

    data: dict[str, Any]
    state: str
    atm: str | None
    outcome: str
    opts: dict[str, Any]


TAKING = {
    "moveToFinished, completed": End(
        data={"end": "return"}, opts={}, state="completed", atm="1", outcome="completed"
    ),
    "moveToFinished, failed": End(
        data={"end": "raise"}, opts={}, state="failed", atm="1", outcome="failed"
    ),
    "moveToDelayed, retried": End(
        data={"end": "raise"},
        opts={"attempts": 3, "backoff": {"type": "fixed", "delay": 60_000}},
        state="delayed",
        atm="1",
        outcome="retried",
    ),
    "moveToDelayed, RetryLater": End(
        data={"end": "later", "seconds": 60.0},
        opts={},
        state="delayed",
        atm=None,
        outcome="postponed",
    ),
}


async def _counted(worker: Worker, **outcomes: int) -> None:
    """Wait until those are all outcomes that were reported, and nothing runs."""

    def settled() -> bool:
        stats = worker.stats()
        return bool(stats["outcomes"] == outcomes and stats["running"] == 0)

    try:
        await wait_until(settled, timeout=SOON_SECONDS)
    except AssertionError:
        stats = worker.stats()
        msg = f"expected {outcomes}, got {stats['outcomes']}; {stats['running']} running"
        raise AssertionError(msg) from None


@pytest.mark.asyncio
@pytest.mark.parametrize("end", TAKING.values(), ids=TAKING)
async def test_the_next_job_runs_soon(bench: Bench, ends: Ends, loss: Loss, end: End) -> None:
    """The job that a script took with its lost reply is run, once, by the worker that has it."""
    (first,) = await bench.add(end.data, name="end", **end.opts)
    others = await bench.add({}, {})  # there before the worker looks: it knows that jobs wait
    async with bench.worker(ends.handlers, **loss.settings) as worker:
        await wait_until(lambda: ends.attempts, what="the start")
        await loss.happen(first, ends.gate.set)

        await bench.all_in("completed", others, within=SOON_SECONDS)
        await _counted(worker, **Counter([end.outcome, "completed", "completed"]))

    assert first in bench.ids_in(end.state)
    assert bench.field(first, "atm") == end.atm
    assert ends.ran == others
    assert [bench.field(job_id, "ats") for job_id in others] == ["1", "1"]
    assert [bench.field(job_id, "stc") for job_id in others] == [None, None]


@pytest.mark.asyncio
async def test_the_next_job_runs_soon_though_the_ended_one_was_added_anew(
    bench: Bench, ends: Ends, loss: Loss
) -> None:
    """A job that is removed when it ends, and added again, hides neither its end nor the next."""
    opts = {"jobId": "again", "removeOnComplete": True}
    (first,) = await bench.add({"end": "return"}, name="end", **opts)
    others = await bench.add({}, {})
    async with (
        JobClient(bench.settings()) as client,
        bench.worker(ends.handlers, **loss.settings) as worker,
    ):
        await wait_until(lambda: ends.attempts, what="the start")
        await loss.happen(first, ends.gate.set, unnoticed=True)
        await client.enqueue("end", {"end": "return"}, job_id="again")
        loss.cut()

        await bench.all_in("completed", [*others, first], within=SOON_SECONDS)
        await wait_until(lambda: worker.stats()["free"] == 1, what="the free slot")

    assert ends.ran == others
    assert ends.attempts == [1, 1]
    assert [bench.field(job_id, "stc") for job_id in others] == [None, None]


ITSELF = {
    "RetryLater": End(
        data={"end": "later", "seconds": 0},
        opts={},
        state="completed",
        atm="1",
        outcome="postponed",
    ),
    # Less than half a millisecond, of which BullMQ's scripts know nothing.
    "retried": End(
        data={"end": "raise"},
        opts={"attempts": 3, "backoff": {"type": "fixed", "delay": 0.4}},
        state="completed",
        atm="2",
        outcome="retried",
    ),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ITSELF.values(), ids=ITSELF)
async def test_a_job_that_is_its_own_next_one_is_moved_once(
    bench: Bench, ends: Ends, loss: Loss, end: End
) -> None:
    """A job that is due again at once is taken by the script that delays it, and not delayed anew.

    Its lock is the worker's as before; that it has started once more tells that the script ran.
    """
    (first,) = await bench.add(end.data, name="end", **end.opts)
    async with bench.worker(ends.handlers, **loss.settings) as worker:
        await wait_until(lambda: ends.attempts, what="the start")
        await loss.happen(first, ends.gate.set)

        await bench.all_in(end.state, [first], within=SOON_SECONDS)
        await _counted(worker, **{end.outcome: 1, "completed": 1})

    assert bench.field(first, "atm") == end.atm
    assert bench.field(first, "ats") == "2"


@pytest.mark.asyncio
async def test_a_job_that_is_tried_again_at_once_is_not_counted_as_lost(
    bench: Bench, ends: Ends, loss: Loss
) -> None:
    """The reply to retryJob is lost: the attempt counts as retried, and the next one runs."""
    (first,) = await bench.add({"end": "raise"}, name="end", attempts=2)
    async with bench.worker(ends.handlers, **loss.settings) as worker:
        await wait_until(lambda: ends.attempts, what="the start")
        await loss.happen(first, ends.gate.set)

        await bench.all_in("completed", [first], within=SOON_SECONDS)
        await _counted(worker, retried=1, completed=1)

    assert ends.attempts == [1, 2]
    assert bench.field(first, "atm") == "2"


@pytest.mark.asyncio
async def test_a_job_that_waits_for_its_children_is_not_counted_as_lost(
    bench: Bench, ends: Ends, loss: Loss
) -> None:
    """The reply to moveToWaitingChildren is lost: the parent waits, and other jobs go on."""
    data = {"end": "children", "queue": f"{bench.queue}-parts"}
    (first,) = await bench.add(data, name="end")
    (other,) = await bench.add({})
    async with bench.worker(ends.handlers, **loss.settings) as worker:
        await wait_until(lambda: ends.attempts, what="the start")
        await loss.happen(first, ends.gate.set)

        await bench.all_in("completed", [other], within=SOON_SECONDS)
        await _counted(worker, waiting_children=1, completed=1)

    assert bench.states() == {"waiting-children": [first], "completed": [other]}


@pytest.mark.asyncio
async def test_a_job_that_is_returned_when_cancelled_is_not_counted_as_lost(
    bench: Bench, ends: Ends, loss: Loss
) -> None:
    """The reply to moveJobFromActiveToWait is lost: the job was returned, and runs again."""
    settings = {**loss.settings, "concurrency": 2}  # a worker with a free slot hears at once
    (first,) = await bench.add({"end": "return"}, name="end")
    async with (
        JobClient(bench.settings()) as client,
        bench.worker(ends.handlers, **settings) as worker,
    ):
        await wait_until(lambda: ends.attempts, what="the start")
        await wait_until(lambda: bench.blocked() == 1, what="the block")
        cancels: list[asyncio.Task[str]] = []

        def cancel() -> None:
            cancels.append(asyncio.create_task(client.cancel(first, reason=None)))

        await loss.happen(first, cancel)
        ends.gate.set()

        await bench.all_in("completed", [first], within=SOON_SECONDS)
        await _counted(worker, returned=1, completed=1)
        assert await cancels[0] == "returned"

    assert ends.attempts == [1, 1]


@pytest.mark.asyncio
async def test_a_job_that_is_returned_by_a_worker_that_stops_is_not_counted_as_lost(
    bench: Bench, ends: Ends, loss: Loss
) -> None:
    """The reply to moveJobFromActiveToWait is lost while the worker stops: the job was returned."""
    (first,) = await bench.add({"end": "return"}, name="end")
    async with bench.worker(ends.handlers, **loss.settings) as worker:
        await wait_until(lambda: ends.attempts, what="the start")
        stops: list[asyncio.Task[None]] = []
        await loss.happen(first, lambda: stops.append(asyncio.create_task(worker.stop(0.0))))
        await stops[0]

        assert worker.stats()["outcomes"] == {"returned": 1}

    assert bench.states() == {"wait": [first]}
    assert bench.field(first, "atm") is None
