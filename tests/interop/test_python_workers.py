"""Scenarios of a Python producer, by bullmq's own worker for Python and by ours: the same ends.

What bullmq's own suite for Python checks of a worker that runs, in scenarios of our own:

| scenario | ours |
|---|---|
| results: lists, booleans, objects, none | passes |
| a result that JSON does not have (NaN) | passes; the reason has other words |
| failures, attempts, fixed and exponential backoff, a strategy of the worker's own | passes |
| a job that gives up; priorities; delays; progress; jobs added in bulk | passes |
| jobs of a worker that died; a job that lasts longer than its lock | passes |
| concurrency; pause and resume; removal of what has ended | passes |
| failed and completed jobs retried, with their attempts or from none | passes |
| flows: order, values, a failed part that fails its parent, many flows at once | passes |
| children that a processor adds, its data updated between | passes |
| one job cancelled, all cancelled, one that is not there | passes: the call is cancelled |
| a scheduler that goes on; its limit, its end, its removal | passes |
| QueueEvents of results, with their values | passes |
| a client of redis-py shared with the worker | passes: it has connections of its own |
| a job fetched and completed by hand (getNextJob, moveToCompleted) | documented: none |
| events of the worker object (completed, stalled, locksRenewed) | documented: log, QueueEvents |
| LockManager, AbortController, RedisConnection alone; PostgreSQL | nothing to compare |
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from bullmq import FlowProducer, Job, Queue, QueueEvents, Worker
from redis.asyncio import Redis

from tests.interop.python_workers import Given, GiveUpError, ended, worker
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.interop.python_workers import Whose

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.parametrize("whose", ["theirs", "ours"]),
    # bullmq's own worker leaves tasks and sockets behind.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest_asyncio.fixture
async def queue(server_url: str, queue_name: str) -> AsyncIterator[Queue]:
    """A queue of bullmq's Python."""
    queue = Queue(queue_name, {"connection": server_url})
    yield queue
    await queue.close()


async def run(
    whose: Whose, url: str, queue: Queue, process: Any, jobs: list[tuple[Any, dict[str, Any]]]
) -> list[Any]:
    """Add jobs called ``work``, run them one by one, and return them when all have ended."""
    ids = [(await queue.add("work", data, opts)).id for data, opts in jobs]
    async with worker(whose, url, queue.name, process, "work"):
        return [await ended(queue, job_id) for job_id in ids]


async def all_completed(queue: Queue, count: int) -> bool:
    return len(await queue.getCompleted()) == count


async def test_results_of_every_kind_are_read_back(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    values: list[Any] = [None, 0, "text", [1, {"a": None}], {"käse": "🧀"}, True, 1.5]

    async def echo(job: Given) -> Any:
        return job.data["value"]

    found = await run(whose, server_url, queue, echo, [({"value": v}, {}) for v in values])

    assert [job.returnvalue for job in found] == values
    assert [job.attemptsMade for job in found] == [1] * len(values)


async def test_a_job_is_tried_as_often_as_it_says_and_keeps_its_traces(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    tried: list[tuple[str, int]] = []

    async def flaky(job: Given) -> str:
        tried.append((job.data["name"], job.attempt))
        if job.attempt < job.data["good"]:
            msg = f"attempt {job.attempt}"
            raise ValueError(msg)
        return "good"

    fixed, doubled = {"type": "fixed", "delay": 20}, {"type": "exponential", "delay": 20}
    jobs: list[tuple[Any, dict[str, Any]]] = [
        ({"name": "none", "good": 2}, {"attempts": 3}),
        ({"name": "fixed", "good": 3}, {"attempts": 3, "backoff": fixed}),
        ({"name": "doubled", "good": 9}, {"attempts": 3, "backoff": doubled}),
        ({"name": "once", "good": 9}, {}),
    ]
    found = await run(whose, server_url, queue, flaky, jobs)

    assert [job.attemptsMade for job in found] == [2, 3, 3, 1]
    assert [job.failedReason for job in found][2:] == ["attempt 3", "attempt 1"]
    assert [len(job.stacktrace or []) for job in found] == [1, 2, 3, 1]
    assert sorted(tried)[:3] == [("doubled", 1), ("doubled", 2), ("doubled", 3)]


async def test_a_job_that_gives_up_is_not_tried_again(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    async def hopeless(_: Given) -> None:
        msg = "no voice"
        raise GiveUpError(msg)

    [job] = await run(whose, server_url, queue, hopeless, [({}, {"attempts": 5})])

    assert (job.attemptsMade, job.failedReason) == (1, "no voice")


async def test_priorities_and_lifo_decide_the_order(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    order: list[str] = []

    async def note(job: Given) -> None:
        order.append(job.data)

    jobs: list[tuple[Any, dict[str, Any]]] = [
        ("third", {}), ("last", {"priority": 9}), ("fourth", {"priority": 1}),
        ("second", {"lifo": True}), ("first", {"lifo": True}), ("fifth", {"priority": 2}),
    ]  # fmt: skip
    await run(whose, server_url, queue, note, jobs)

    assert order == ["first", "second", "third", "fourth", "fifth", "last"]


async def test_delayed_jobs_run_when_they_are_due_and_not_before(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    began: dict[int, float] = {}

    async def note(job: Given) -> None:
        began[job.data] = time.time() * 1000

    delays = [400, 200, 0]
    found = await run(whose, server_url, queue, note, [(d, {"delay": d}) for d in delays])

    early = [began[d] - (job.timestamp + d) for d, job in zip(delays, found, strict=True)]
    assert min(early) > -5
    assert [*began] == sorted(delays)


async def test_progress_is_kept_with_the_job(whose: Whose, server_url: str, queue: Queue) -> None:
    async def report(job: Given) -> None:
        await job.progress(10)
        await job.progress({"done": [1, 2]})

    [job] = await run(whose, server_url, queue, report, [({}, {})])

    assert job.progress == {"done": [1, 2]}


async def test_jobs_that_have_ended_are_removed_as_they_say(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    async def fail_odd(job: Given) -> None:
        if job.data % 2:
            raise ValueError(job.data)

    kept = {"removeOnComplete": {"count": 1}, "removeOnFail": {"count": 2}}
    ids = [(await queue.add("work", n, kept)).id for n in range(8)]
    async with worker(whose, server_url, queue.name, fail_odd, "work"):
        await ended(queue, ids[-1])

    assert [job.data for job in await queue.getCompleted()] == [6]
    assert sorted(job.data for job in await queue.getFailed()) == [5, 7]


async def test_as_many_jobs_run_at_once_as_the_worker_may(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    running, most, together = 0, 0, asyncio.Event()

    async def meet(_: Given) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 4:
            together.set()
        await asyncio.wait_for(together.wait(), 5)
        running -= 1

    ids = [(await queue.add("work", n, {})).id for n in range(6)]
    async with worker(whose, server_url, queue.name, meet, "work", concurrency=4):
        found = [await ended(queue, job_id) for job_id in ids]

    assert most == 4
    assert [job.failedReason for job in found] == [None] * 6


async def test_a_flow_of_two_generations_gives_values_up(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    flow = FlowProducer(server_url)

    async def add_up(job: Given) -> int:
        values: list[int] = [*(await job.children()).values()]
        return sum(values, start=int(job.data))

    tree = {
        "name": "work", "queueName": queue.name, "data": 1,
        "children": [
            {"name": "work", "queueName": queue.name, "data": 10, "children": [
                {"name": "work", "queueName": queue.name, "data": 100},
            ]},
            {"name": "work", "queueName": queue.name, "data": 20},
        ],
    }  # fmt: skip
    added = await flow.add(tree)
    async with worker(whose, server_url, queue.name, add_up, "work", concurrency=2):
        job = await ended(queue, added["job"].id)
    await flow.close()

    assert job.returnvalue == 131


async def test_a_paused_queue_gives_nothing_until_it_is_resumed(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    started: list[float] = []

    async def note(_: Given) -> None:
        started.append(time.monotonic())

    await queue.pause()
    job_id = (await queue.add("work", {}, {})).id
    async with worker(whose, server_url, queue.name, note, "work"):
        await asyncio.sleep(0.3)  # that nothing happens is told by nothing
        resumed = time.monotonic()
        await queue.resume()
        await ended(queue, job_id)

    assert len(started) == 1
    assert started[0] >= resumed


async def test_failed_jobs_run_again_when_they_are_retried(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    is_broken = [True]

    async def heal(job: Given) -> int:
        if is_broken:
            msg = "broken"
            raise ValueError(msg)
        return int(job.data)

    ids = [(await queue.add("work", n, {})).id for n in range(3)]
    async with worker(whose, server_url, queue.name, heal, "work"):
        failed = [await ended(queue, job_id) for job_id in ids]
        is_broken.clear()
        await queue.retryJobs({"state": "failed"})
        await wait_until(lambda: all_completed(queue, len(ids)), what="three results")
        values = [job.returnvalue for job in await queue.getCompleted()]

    assert [job.failedReason for job in failed] == ["broken"] * 3
    assert sorted(values) == [0, 1, 2]


async def test_a_result_that_json_does_not_have_fails_the_job(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    async def broken(_: Given) -> float:
        return float("nan")

    [job] = await run(whose, server_url, queue, broken, [({}, {})])

    assert job.failedReason
    assert (job.attemptsMade, len(job.stacktrace), job.returnvalue) == (1, 1, None)


async def test_a_strategy_of_the_workers_own_says_how_long_a_job_waits(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    began: list[float] = []

    async def third_time(job: Given) -> None:
        began.append(time.monotonic())
        if job.attempt < 3:
            msg = "not yet"
            raise ValueError(msg)

    job_id = (await queue.add("work", {}, {"attempts": 3, "backoff": {"type": "custom"}})).id
    async with worker(
        whose, server_url, queue.name, third_time, "work", backoff=lambda attempt: attempt * 100
    ):
        job = await ended(queue, job_id)

    waits = [after - before for before, after in itertools.pairwise(began)]
    assert job.attemptsMade == 3
    assert waits[0] >= 0.095
    assert waits[1] >= 0.195


async def test_jobs_that_were_added_in_bulk_are_run(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    async def echo(job: Given) -> Any:
        return job.data["foo"]

    added = await queue.addBulk(
        [{"name": "work", "data": {"foo": "bar"}}, {"name": "work", "data": {"foo": "baz"}}]
    )
    async with worker(whose, server_url, queue.name, echo, "work"):
        found = [await ended(queue, job.id) for job in added]

    assert [job.returnvalue for job in found] == ["bar", "baz"]


async def test_a_job_that_lasts_longer_than_its_lock_is_run_once(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    runs: list[str] = []

    async def slow(job: Given) -> str:
        runs.append(job.id)
        await asyncio.sleep(2.4)  # more than a lock, whose end nothing tells
        return "done"

    job_id = (await queue.add("work", {}, {})).id
    async with worker(whose, server_url, queue.name, slow, "work", lock=2.0):
        job = await ended(queue, job_id)

    assert (job.returnvalue, job.attemptsMade, runs) == ("done", 1, [job_id])


async def test_a_job_of_a_worker_that_died_is_run_by_another(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    async def done(_: Given) -> str:
        return "done by another"

    job_id = (await queue.add("work", {}, {})).id
    options = {"connection": server_url, "lockDuration": 500, "autorun": False}
    dead = Worker(queue.name, None, options)
    assert (await dead.getNextJob("a token")).id == job_id
    await dead.close(force=True)

    async with worker(whose, server_url, queue.name, done, "work", lock=1.0, stalled=0.3):
        job = await ended(queue, job_id)

    assert (job.returnvalue, job.attemptsMade) == ("done by another", 1)


@pytest.mark.parametrize("state", ["failed", "completed"])
@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_job_that_has_ended_is_run_again_with_its_attempts_or_from_none(
    whose: Whose, server_url: str, queue: Queue, state: str, *, is_reset: bool
) -> None:
    runs: list[int] = []

    async def first_otherwise(job: Given) -> int:
        runs.append(job.attempt)
        if state == "failed" and len(runs) == 1:
            msg = "not even"
            raise ValueError(msg)
        return len(runs)

    job_id = (await queue.add("work", {}, {})).id
    async with worker(whose, server_url, queue.name, first_otherwise, "work"):
        job = await ended(queue, job_id)
        first = (job.attemptsMade, job.attemptsStarted)
        how = {"resetAttemptsMade": True, "resetAttemptsStarted": True} if is_reset else {}
        await job.retry(state, how)

        async def has_run_again() -> bool:
            found = await Job.fromId(queue, job_id)
            return bool(found.finishedOn and found.returnvalue == 2)

        await wait_until(has_run_again, what="the second run's result")
        again = await Job.fromId(queue, job_id)

    assert first == (1, 1)
    assert (again.attemptsMade, again.attemptsStarted) == ((1, 1) if is_reset else (2, 2))


async def test_a_part_that_fails_fails_its_parent_where_it_is_told_to(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    async def fail_parts(job: Given) -> None:
        if job.data == "part":
            msg = "no part"
            raise ValueError(msg)

    flow = FlowProducer(server_url)
    part = {"name": "work", "queueName": queue.name, "data": "part"}
    added = await flow.add(
        {
            "name": "work", "queueName": queue.name, "data": "whole",
            "children": [{**part, "opts": {"failParentOnFailure": True}}],
        }
    )  # fmt: skip
    async with worker(whose, server_url, queue.name, fail_parts, "work"):
        job = await ended(queue, added["job"].id)
    await flow.close()

    assert await job.getState() == "failed"
    assert job.failedReason


async def test_many_flows_at_once_run_their_parts_first(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    order: list[str] = []

    async def note(job: Given) -> Any:
        order.append(job.data["name"])
        return [*(await job.children()).values()] or job.data["value"]

    def part(name: str, value: Any) -> dict[str, Any]:
        data = {"name": name, "value": value}
        return {"name": "work", "queueName": queue.name, "data": data}

    flow = FlowProducer(server_url)
    values = [None, 12.93, "text"]
    trees = [
        {**part(f"whole {at}", None), "children": [part(f"part {at}", value)]}
        for at, value in enumerate(values)
    ]
    added = await flow.addBulk(trees)
    async with worker(whose, server_url, queue.name, note, "work"):
        found = [await ended(queue, tree["job"].id) for tree in added]
    await flow.close()

    assert [job.returnvalue for job in found] == [[value] for value in values]
    assert all(order.index(f"part {at}") < order.index(f"whole {at}") for at in range(3))


async def test_a_processor_adds_children_and_goes_on_when_they_have_ended(
    whose: Whose, server_url: str, queue: Queue, queue_name: str
) -> None:
    """Its data says how far it came."""
    parts = f"{queue_name}-parts"
    runs: list[str] = []

    async def whole(job: Given) -> Any:
        runs.append(job.data["step"])
        if job.data["step"] == "first":
            await job.update({"step": "second"})
            await job.ask(parts, [{"n": 1}, {"n": 2}])
        return sorted((await job.children()).values())

    async def part(job: Given) -> int:
        return int(job.data["n"]) * 10

    job_id = (await queue.add("work", {"step": "first"}, {})).id
    async with (
        worker(whose, server_url, queue.name, whole, "work"),
        worker(whose, server_url, parts, part, "work"),
    ):
        job = await ended(queue, job_id)

    assert (runs, job.returnvalue, job.attemptsMade) == (["first", "second"], [10, 20], 1)


async def test_jobs_that_are_cancelled_end_and_others_do_not(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    """One that is not there is said not to be."""
    started: list[str] = []

    async def wait(job: Given) -> None:
        started.append(job.id)
        await job.cancelled()
        raise GiveUpError(job.id)

    ids = [(await queue.add("work", {}, {})).id for _ in range(3)]
    async with worker(whose, server_url, queue.name, wait, "work", concurrency=3) as running:
        await wait_until(lambda: len(started) == 3, what="three jobs that run")
        was_there = await running.cancel("nobody's")
        told = [await running.cancel(job_id) for job_id in ids[:2]]
        found = [await ended(queue, job_id) for job_id in ids[:2]]
        other = await Job.fromId(queue, ids[2])
        await running.cancel(ids[2])
        await ended(queue, ids[2])

    assert (was_there, told) == (False, [True, True])
    assert all(job.failedReason for job in found)
    assert not other.finishedOn


async def test_a_scheduler_goes_on_with_each_job_until_it_is_removed(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    ran: list[str] = []

    async def tick(job: Given) -> None:
        ran.append(job.id)

    await queue.upsertJobScheduler("tick", {"every": 200}, job_name="work")
    async with worker(whose, server_url, queue.name, tick, "work"):
        await wait_until(lambda: len(ran) >= 3, what="three iterations")
        scheduler = await queue.getJobScheduler("tick")
        pending = await queue.getDelayedCount()
        removed = await queue.removeJobScheduler("tick")

    assert len({*ran}) == len(ran)
    assert all(job_id.startswith("repeat:tick:") for job_id in ran)
    assert scheduler["iterationCount"] > 1
    assert (pending, removed, await queue.getJobSchedulersCount()) == (1, 0, 0)


@pytest.mark.parametrize("what", ["limit", "endDate"])
async def test_a_scheduler_ends_as_it_was_told(
    whose: Whose, server_url: str, queue: Queue, what: str
) -> None:
    ran: list[str] = []

    async def tick(job: Given) -> None:
        ran.append(job.id)

    async with worker(whose, server_url, queue.name, tick, "work"):
        end = 2 if what == "limit" else round(time.time() * 1000) + 250
        await queue.upsertJobScheduler("tick", {"every": 100, what: end}, job_name="work")
        await wait_until(lambda: ran, what="the first iteration, which no pause can prevent")

        async def is_over() -> bool:
            counts = await queue.getJobCounts("wait", "delayed", "active")
            return not any(counts.values())

        await wait_until(is_over, what="no further iteration")

    assert len(ran) == 2 if what == "limit" else 1 <= len(ran) <= 4


async def test_queue_events_tell_of_results_with_their_values(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    told: dict[str, Any] = {}

    async def answer(job: Given) -> Any:
        return {"answer": job.data}

    events = QueueEvents(queue.name, {"connection": server_url, "lastEventId": "0"})
    ids = [(await queue.add("work", n, {})).id for n in (42, 43)]
    events.on("completed", lambda event, _: told.update({event["jobId"]: event["returnvalue"]}))
    async with worker(whose, server_url, queue.name, answer, "work"):
        await wait_until(lambda: len(told) == 2, what="two events")
    await events.close()

    assert told == {ids[0]: {"answer": 42}, ids[1]: {"answer": 43}}


async def test_a_client_of_redis_py_can_be_shared(
    whose: Whose, server_url: str, queue: Queue
) -> None:
    """It serves its owner all the while, and afterwards."""

    async def done(_: Given) -> str:
        return "done"

    async with Redis.from_url(server_url, decode_responses=True) as shared:
        job_id = (await queue.add("work", {}, {})).id
        async with worker(whose, server_url, queue.name, done, "work", shared=shared):
            job = await ended(queue, job_id)
            during = await shared.ping()
        after = await shared.ping()

    assert (job.returnvalue, during, after) == ("done", True, True)
