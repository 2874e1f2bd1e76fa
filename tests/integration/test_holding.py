"""Held requests and rest: one drain for all, right numbers, and nothing left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import pytest
from msgspec import structs
from redis.asyncio import Redis

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import NotRunning, UnrecoverableError
from tests.support.commandstats import counted_commands
from tests.support.proxy import TcpProxy
from tests.support.serving import serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

Data = dict[str, Any]


@asynccontextmanager
async def held(
    handlers: HandlerRegistry, settings: Settings
) -> AsyncIterator[tuple[Worker, JobClient]]:
    """A worker that works only when held."""
    settings = settings.replace(wake_mode="held")
    async with JobClient(settings) as client, Worker(handlers, settings) as worker:
        yield worker, client


def quick() -> tuple[HandlerRegistry, list[str]]:
    """Handlers that note which jobs have run."""
    handlers, ran = HandlerRegistry(), []

    @handlers.audio("quick")
    async def run(job: Job[Data]) -> None:
        ran.append(job.id)

    return handlers, ran


async def test_nothing_is_done_before_the_first_hold(
    make_settings: Callable[..., Settings],
) -> None:
    """A worker that works when held leaves jobs alone, and waits on no queue."""
    handlers, ran = quick()
    async with held(handlers, make_settings()) as (worker, client):
        job_id = await client.enqueue("quick", {})
        await wait_until(lambda: worker.health().ready, what="the worker's readiness")
        worker.wake()

        assert worker.stats()["phase"] == "suspended"
        assert ran == []

        result = await worker.hold(30)

    assert (result.status, result.processed, result.failed) == ("drained", 1, 0)
    assert (result.remaining, result.next_due_at) == (0, None)
    assert ran == [job_id]


async def test_after_the_answer_nothing_runs_and_nothing_listens(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """Frozen at once, the process would swallow no marker: the next job's is still there."""
    handlers = HandlerRegistry()

    async def listens() -> bool:
        clients = await redis.client_list()
        return any(each["cmd"] == "bzpopmin" and "b" in each["flags"] for each in clients)

    @handlers.audio("until-it-listens")
    async def until_it_listens(_: Job[Data]) -> None:
        await wait_until(listens, what="the wait for further jobs beside this one")

    async with held(handlers, make_settings()) as (worker, client):
        await client.enqueue("until-it-listens", {})
        assert (await worker.hold(30)).processed == 1
        assert not await listens()
        async with counted_commands(redis) as counts:
            await client.enqueue("until-it-listens", {})
            assert await redis.exists(f"bull:{queue_name}:marker")

        assert "bzpopmin" not in counts.calls
        assert worker.stats()["running"] == 0
        assert (await worker.hold(30)).processed == 1


async def test_concurrent_holds_share_one_drain(make_settings: Callable[..., Settings]) -> None:
    """Ten at once are answered alike, from one drain."""
    handlers, ran = quick()
    async with held(handlers, make_settings()) as (worker, client):
        for _ in range(20):
            await client.enqueue("quick", {})
        results = await asyncio.gather(*[worker.hold(30) for _ in range(10)])
        drains = worker.stats()["drains"]

    assert {result.processed for result in results} == {20}
    assert drains == 1
    assert len(ran) == 20


async def test_a_caller_that_hangs_up_leaves_the_others_alone(
    make_settings: Callable[..., Settings],
) -> None:
    """Of two holds one is cancelled: the job of both ends, and the other is told so."""
    handlers, started, go_on = HandlerRegistry(), asyncio.Event(), asyncio.Event()

    @handlers.audio("slow")
    async def slow(_: Job[Data]) -> None:
        started.set()
        await go_on.wait()

    async with held(handlers, make_settings()) as (worker, client):
        await client.enqueue("slow", {})
        one, other = (asyncio.create_task(worker.hold(30)) for _ in range(2))
        await asyncio.wait_for(started.wait(), 10)
        one.cancel()
        await asyncio.wait({one})
        go_on.set()

        assert (await other).processed == 1


async def test_when_all_hang_up_what_runs_goes_back(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """Nobody holds any more, so the CPU may be gone: the job is at the head of its queue again."""
    handlers, started = HandlerRegistry(), asyncio.Event()

    @handlers.audio("slow")
    async def slow(job: Job[Data]) -> None:
        started.set()
        await job.cancelled.wait()

    async with held(handlers, make_settings()) as (worker, client):
        job_id = await client.enqueue("slow", {})
        caller = asyncio.create_task(worker.hold(30))
        await asyncio.wait_for(started.wait(), 10)
        caller.cancel()
        await wait_until(
            lambda: _is_waiting(redis, queue_name, job_id), what="the job's return to its queue"
        )

        assert await redis.hget(f"bull:{queue_name}:{job_id}", "atm") in {None, "0"}
        assert worker.stats()["running"] == 0


async def _is_waiting(redis: Redis, queue: str, job_id: str) -> bool:
    return job_id in await redis.lrange(f"bull:{queue}:wait", 0, -1)


async def test_at_the_end_of_the_budget_what_runs_goes_back(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """A job longer than the budget is returned before the answer, its attempt not used up."""
    handlers, ends = HandlerRegistry(), asyncio.Event()
    attempts = []

    @handlers.audio("slow")
    async def slow(job: Job[Data]) -> None:
        attempts.append(job.attempt)
        await ends.wait()

    settings = make_settings(concurrency=1)
    async with held(handlers, settings) as (worker, client):
        first, second = [await client.enqueue("slow", {}) for _ in range(2)]
        result = await worker.hold(3)
        waiting = await redis.lrange(f"bull:{queue_name}:wait", 0, -1)
        ends.set()
        again = await worker.hold(30)

    assert (result.status, result.processed, result.remaining) == ("budget", 0, 2)
    assert waiting == [second, first]  # the head of the list that BullMQ takes from is its end
    assert (again.status, again.processed) == ("drained", 2)
    assert attempts == [1, 1, 1]


async def test_a_short_hold_beside_a_long_one_is_answered_in_its_own_time(
    make_settings: Callable[..., Settings],
) -> None:
    """The short one hears what was done so far; the work goes on for the long one."""
    handlers, ends = HandlerRegistry(), asyncio.Event()

    @handlers.audio("slow")
    async def slow(job: Job[Data]) -> None:
        if job.data:
            await ends.wait()

    async with held(handlers, make_settings()) as (worker, client):
        await client.enqueue("slow", {})
        await client.enqueue("slow", {"long": True})
        long = asyncio.create_task(worker.hold(60))
        await wait_until(lambda: worker.stats()["outcomes"], what="the end of the first job")
        short = await worker.hold(1)
        ends.set()
        result = await long

    assert (short.status, short.processed) == ("budget", 1)
    assert (result.status, result.processed) == ("drained", 2)


async def test_a_job_that_is_due_soon_is_waited_for_and_a_later_one_announced(
    make_settings: Callable[..., Settings],
) -> None:
    """Within the linger time a delayed job still runs; the answer says when the next is due."""
    handlers, ran = quick()
    async with held(handlers, make_settings(wake_linger=5.0)) as (worker, client):
        await client.enqueue("quick", {}, delay=0.5)
        due_at = time.time() + 600
        await client.enqueue("quick", {}, delay=600)
        result = await worker.hold(30)

    assert (result.status, result.processed, result.remaining) == ("drained", 1, 1)
    assert result.next_due_at == pytest.approx(due_at, abs=2)
    assert len(ran) == 1


async def test_a_hold_recovers_the_job_of_a_worker_that_died(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """While its lock lasts, the answer says when that ends; afterwards a hold runs the job."""
    handlers, ran = quick()
    settings = make_settings(wake_linger=0.0)
    async with held(handlers, settings) as (worker, client):
        job_id = await client.enqueue("quick", {})
        assert await redis.rpoplpush(f"bull:{queue_name}:wait", f"bull:{queue_name}:active")
        await redis.set(f"bull:{queue_name}:{job_id}:lock", "another", px=60_000)
        early = await worker.hold(10)
        await redis.delete(f"bull:{queue_name}:{job_id}:lock")
        late = await worker.hold(10)

    assert (early.status, early.processed) == ("drained", 0)
    assert early.next_due_at == pytest.approx(time.time() + 60, abs=15)
    assert late.processed == 1
    assert ran == [job_id]


async def test_asleep_it_has_no_connection_and_a_hold_wakes_it(
    make_settings: Callable[..., Settings],
) -> None:
    """After the idle time both connections are closed, and nothing is sent."""
    handlers, ran = quick()
    async with held(handlers, make_settings(sleep_after=0.05)) as (worker, client):
        await worker.hold(10)
        await wait_until(lambda: worker.stats()["phase"] == "asleep", what="sleep")
        assert not worker.stats()["connected"]
        assert worker.health().ready
        await client.enqueue("quick", {})

        assert (await worker.hold(10)).processed == 1
    assert len(ran) == 1


async def test_a_worker_in_the_background_sleeps_and_is_waked(
    make_settings: Callable[..., Settings],
) -> None:
    """With sleep_after set it closes its connections when idle; a wake brings it back."""
    handlers, ran = quick()
    settings = make_settings(sleep_after=0.1)
    async with JobClient(settings) as client, Worker(handlers, settings) as worker:
        await wait_until(lambda: worker.stats()["phase"] == "asleep", what="sleep")
        job_id = await client.enqueue("quick", {})
        assert ran == []
        worker.wake()
        await client.result(job_id, timeout=10)

        await wait_until(lambda: worker.stats()["phase"] == "asleep", what="sleep again")


async def test_asleep_it_wakes_by_itself_for_a_job_that_it_knows_of(
    make_settings: Callable[..., Settings],
) -> None:
    """A delayed job's time was seen before the sleep: it runs without a wake."""
    handlers, ran = quick()
    settings = make_settings(sleep_after=0.1)
    async with JobClient(settings) as client:
        job_id = await client.enqueue("quick", {}, delay=2.0)
        async with Worker(handlers, settings) as worker:
            await wait_until(lambda: worker.stats()["phase"] == "asleep", what="sleep")
            await client.result(job_id, timeout=20)
    assert ran == [job_id]


async def test_in_the_background_a_hold_waits_for_what_is_there(
    make_settings: Callable[..., Settings],
) -> None:
    """A worker that is always at work tells a hold when nothing is left."""
    handlers, ran = quick()
    settings = make_settings()
    async with JobClient(settings) as client, Worker(handlers, settings) as worker:
        for _ in range(5):
            await client.enqueue("quick", {})
        first = await worker.hold(30)
        job_id = await client.enqueue("quick", {})
        await client.result(job_id, timeout=10)

        assert (await worker.hold(30)).remaining == 0
    assert first.status == "drained"
    assert len(ran) == 6


async def test_wakes_that_find_nothing_share_a_look(
    make_settings: Callable[..., Settings],
) -> None:
    """A hundred wakes within a second cost one look, and the first looks at once."""
    handlers, _ = quick()
    settings = make_settings(idle_min=60.0, idle_max=60.0)
    async with Worker(handlers, settings) as worker:
        await wait_until(lambda: worker.stats()["idle"]["until"] is not None, what="a wait")
        before = worker.stats()["commands"]["by_purpose"]["probe"]["sent"]
        for _ in range(100):
            worker.wake()
            await asyncio.sleep(0)

        await wait_until(
            lambda: worker.stats()["commands"]["by_purpose"]["probe"]["sent"] > before,
            what="the first look",
        )
        assert worker.stats()["commands"]["by_purpose"]["probe"]["sent"] == before + 1


async def test_a_stop_answers_who_holds(make_settings: Callable[..., Settings]) -> None:
    """What ran goes back, and the hold is told what is left; later ones are refused."""
    handlers, started = HandlerRegistry(), asyncio.Event()

    @handlers.audio("slow")
    async def slow(_: Job[Data]) -> None:
        started.set()
        await asyncio.Event().wait()

    async with held(handlers, make_settings()) as (worker, client):
        await client.enqueue("slow", {})
        caller = asyncio.create_task(worker.hold(60))
        await asyncio.wait_for(started.wait(), 10)
        await worker.stop(grace=0.1)
        result = await caller
        with pytest.raises(NotRunning):
            await worker.hold(1)

    assert (result.status, result.remaining) == ("budget", 1)


def mixed_handlers() -> HandlerRegistry:
    """Failures for good, failures that are tried again, parents with three children."""
    handlers = HandlerRegistry()

    @handlers.audio("mixed")
    async def mixed(job: Job[Data]) -> None:
        number = job.data["n"]
        if number % 10 == 3:
            msg = "for good"
            raise UnrecoverableError(msg)
        if number % 10 == 5 and job.attempt == 1:
            msg = "once"
            raise ValueError(msg)

    @handlers.course("parent")
    async def parent(job: Job[Data]) -> None:
        if not await job.children_results():
            await job.enqueue_children([Child("mixed", {"n": 0}, key=str(n)) for n in range(3)])

    return handlers


async def add_a_thousand(client: JobClient) -> None:
    """980 of them to be run now, five parents, and fifteen that are not due."""
    await client.enqueue_many(
        [{"name": "mixed", "data": {"n": n}, "attempts": 2} for n in range(980)]
    )
    await client.enqueue_many([{"name": "parent"}] * 5)
    await client.enqueue_many([{"name": "mixed", "data": {"n": 0}, "delay": 3600}] * 15)


async def by_hold(settings: Settings) -> dict[str, Any]:
    """What ``Worker.hold`` says came of them."""
    async with held(mixed_handlers(), settings) as (worker, client):
        await add_a_thousand(client)
        return structs.asdict(await worker.hold(60))


async def by_request(settings: Settings) -> dict[str, Any]:
    """What ``/wake?hold`` answers."""
    async with serving(mixed_handlers(), settings) as (_, client, session):
        await add_a_thousand(client)
        async with session.post("/wake?hold=60s") as answer:
            answered: dict[str, Any] = await answer.json()
            return answered


async def by_drain(settings: Settings) -> dict[str, Any]:
    """What ``drain`` prints."""
    async with JobClient(settings) as client:
        await add_a_thousand(client)
    return {"status": "drained", **asdict(await Worker(mixed_handlers(), settings).drain(60))}


@pytest.mark.parametrize("way", [by_hold, by_request, by_drain])
async def test_a_thousand_mixed_jobs_are_counted_right(
    make_settings: Callable[..., Settings], way: Callable[[Settings], Awaitable[dict[str, Any]]]
) -> None:
    """Failures for good, retries, delays, a parent with children: each job counts once."""
    settings = make_settings(wake_mode="held", wake_linger=0.0, concurrency=50)

    result = await way(settings)

    assert result["status"] == "drained"
    assert result["failed"] == 98
    assert result["processed"] == 980 + 5 + 5 * 3
    assert result["remaining"] == 15
    assert result["next_due_at"] == pytest.approx(time.time() + 3600, abs=60)


async def test_a_hold_with_nothing_to_do_costs_one_command(
    make_settings: Callable[..., Settings], queue_name: str
) -> None:
    """Four empty queues: one EXISTS, and no count of what it has seen to be nothing."""
    handlers, _ = quick()
    settings = make_settings(queues=tuple(f"{queue_name}-{n}" for n in range(4)))
    async with held(handlers, settings) as (worker, _):
        await worker.hold(10)
        await asyncio.sleep(1.1)  # wakes within a second share a look, and block meanwhile
        before = worker.stats()["commands"]["sent"]
        result = await worker.hold(10)

        assert (result.status, result.remaining) == ("drained", 0)
        assert worker.stats()["commands"]["sent"] - before == 1


@pytest.mark.parametrize("wake_mode", ["held", "background"])
async def test_short_holds_one_after_the_other_see_that_nothing_is_left(
    make_settings: Callable[..., Settings], wake_mode: str
) -> None:
    """Each look waits for others to share it, but not past its own request's time."""
    handlers, _ = quick()
    settings = make_settings(wake_mode=wake_mode)
    async with Worker(handlers, settings) as worker:
        await worker.hold(10)  # connects

        results = [await worker.hold(budget) for budget in (1.0, 1.0, 0.5)]

    assert [result.status for result in results] == ["drained"] * 3


async def test_who_joins_in_the_middle_of_a_probe_has_a_probe_of_its_own(
    make_settings: Callable[..., Settings],
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
    queue_name: str,
) -> None:
    """The first one has passed the queue already that the second caller added a job to."""
    handlers, ran = quick()
    proxy = start_proxy(server)
    settings = make_settings(queues=tuple(f"{queue_name}-{n}" for n in range(4)))
    async with (
        held(handlers, settings.replace(redis_url=proxy.url)) as (worker, _),
        JobClient(settings) as client,
    ):
        await wait_until(lambda: worker.health().ready, what="the worker's readiness")
        proxy.delay(0.3)
        first = asyncio.create_task(worker.hold(20))
        await wait_until(
            lambda: any(b"EXISTS" in link.last_request for link in proxy.links), what="the probe"
        )
        job_id = await client.enqueue("quick", {}, queue=settings.queues[0])
        second = asyncio.create_task(worker.hold(20))
        assert not first.done()
        proxy.delay(0)

        result = await second
        await first

    assert (result.status, result.remaining) == ("drained", 0)
    assert ran == [job_id]
