"""Scenarios of a Python producer, by bullmq's own worker for Python and by ours: the same ends."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from bullmq import FlowProducer, Queue

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
