"""The counter agrees with the server within 1 %, and for a script's own count exactly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from msgspec import structs
from redis.asyncio import Redis

from convolab_worker import Child, Deduplication, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import LockLost, RedisRefused
from examples.benchmarks.benchkit.monitor import MonitorTap, count
from tests.integration.bullmq.conftest import BackendOfWorker
from tests.support.commandstats import counted_commands
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

StartServer = Callable[..., ServerProcess]

pytestmark = pytest.mark.asyncio
SPEECH, COURSES, IMAGES = QUEUES = ("speech", "courses", "images")
WITHIN = 0.01
A_WHILE = 60.0
# Waits and locks so short that their ends fall into the test.
SETTINGS = {
    "queues": QUEUES,
    "concurrency": 6,
    "idle_min": 0.2,
    "idle_max": 0.4,
    "lock_duration": 1.0,
    "progress_interval": 0.01,
}

handlers = HandlerRegistry()


@handlers.audio("speak")
async def speak(job: Job[Any]) -> str:
    """Succeed."""
    return job.name


@handlers.audio("stutter")
async def stutter(job: Job[Any]) -> int:
    """Succeed in the second attempt."""
    if job.attempt == 1:
        msg = "lost for words"
        raise RuntimeError(msg)
    return job.attempt


@handlers.audio("fall-silent")
async def fall_silent(job: Job[Any]) -> None:
    """Fail in every attempt."""
    msg = f"no voice for {job.id}"
    raise RuntimeError(msg)


@handlers.dialogue("tell")
async def tell(job: Job[Any]) -> None:
    """Tell of progress, and write to the job's log."""
    for percent in (10, 50, 100):
        job.log.info("line", percent=percent)
        await job.progress(percent)
        await asyncio.sleep(0.005)


@handlers.image("draw", concurrency=1)
async def draw(job: Job[Any]) -> None:
    """Take turns: all but one of these wait in memory."""
    del job
    await asyncio.sleep(0.01)


@handlers.course("read-aloud")
async def read_aloud(job: Job[Any]) -> None:
    """Outlast the lock, so that it is renewed."""
    del job
    await asyncio.sleep(1.5)


@handlers.course("teach")
async def teach(job: Job[Any]) -> int:
    """Wait for children, one of which fails."""
    done = await job.children_results()
    if "speech" not in done:
        await job.enqueue_children(
            [
                Child("speak", queue=SPEECH, key="speech"),
                Child("draw", queue=IMAGES, key="picture"),
                Child("fall-silent", queue=SPEECH, key="silence", on_failure="ignore"),
            ]
        )
    return len(done)


@handlers.course("compose")
async def compose(job: Job[Any]) -> None:
    """Record steps, in two attempts."""
    for number in range(job.attempt * 2):
        await job.step(f"line-{number}", tell_line, number)
    if job.attempt == 1:
        msg = "lost for words"
        raise RuntimeError(msg)


async def tell_line(number: int) -> str:
    """What is recorded."""
    return f"line {number}"


@dataclass(frozen=True, kw_only=True)
class Work:
    """So many jobs of one name, added with these options; one job may stand for several."""

    name: str
    queue: str = SPEECH
    options: dict[str, Any] = field(default_factory=dict)
    jobs: int = 30

    @property
    def ends(self) -> int:
        """How many jobs will have ended, children among them."""
        return self.jobs * (4 if self.name == "teach" else 1)


KINDS = {
    "successes": [Work(name="speak")],
    "failures": [Work(name="fall-silent")],
    "retries at once": [Work(name="stutter", options={"attempts": 3})],
    "retries later": [Work(name="stutter", options={"attempts": 2, "backoff": 0.1})],
    "delays": [Work(name="speak", options={"delay": 0.05 * n}, jobs=1) for n in range(2, 32)],
    "priorities": [Work(name="speak", options={"priority": n}, jobs=6) for n in range(1, 6)],
    "progress and logs": [Work(name="tell")],
    "parking": [Work(name="draw", queue=IMAGES)],
    "renewals": [Work(name="read-aloud", queue=COURSES, jobs=3)],
    "children": [Work(name="teach", queue=COURSES, jobs=15)],
    "deduplication": [
        Work(name="speak", options={"deduplication": Deduplication(f"{n}", ttl=ttl)}, jobs=1)
        for n, ttl in enumerate([None] * 20 + [60.0] * 10)
    ],
    "steps": [Work(name="compose", options={"attempts": 2})],
}
MIXTURE = [work for works in KINDS.values() for work in works]


def ended(worker: Worker) -> int:
    """How many jobs have come to their end."""
    outcomes = worker.stats().get("outcomes", {})
    return int(outcomes.get("completed", 0) + outcomes.get("failed", 0))


async def add(client: JobClient, worker: Worker, works: list[Work], *, one_by_one: bool) -> None:
    """Add the jobs: at once, or each when the one before, or its first child, has ended."""
    for work in works:
        for _ in range(work.jobs):
            before = ended(worker)
            await client.enqueue(work.name, queue=work.queue, **work.options)
            if one_by_one and "delay" not in work.options:
                await wait_until(partial(is_above, worker, before), timeout=A_WHILE)


def is_above(worker: Worker, before: int) -> bool:
    """Whether more jobs have ended than ``before``."""
    return ended(worker) > before


@pytest.mark.parametrize("arrival", ["in bulk", "one by one"])
async def test_the_meter_agrees_with_the_server(
    start_server: StartServer, make_settings: Callable[..., Settings], arrival: str
) -> None:
    """By MONITOR and commandstats, the worker's and the client's together, over mixed work."""
    server = start_server()
    settings = make_settings(redis_url=server.url, **SETTINGS)

    await check(server, settings, MIXTURE, one_by_one=arrival == "one by one")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_meter_agrees_for_each_kind_of_work(
    start_server: StartServer, make_settings: Callable[..., Settings], kind: str
) -> None:
    """Errors of several kinds don't hide behind each other."""
    server = start_server()
    settings = make_settings(redis_url=server.url, **SETTINGS)

    await check(server, settings, KINDS[kind], one_by_one=True)


async def check(
    server: ServerProcess, settings: Settings, works: list[Work], *, one_by_one: bool
) -> None:
    """Do the work, and compare the meters with the server."""
    worker, client = Worker(handlers, settings), JobClient(settings)
    async with Redis.from_url(server.url, decode_responses=True) as redis:
        await redis.ping()  # so that the greeting of this connection is not counted
        with MonitorTap(server.port) as tap:
            start = tap.mark()
            async with counted_commands(redis) as counted, AsyncExitStack() as stack:
                stack.push_async_callback(client.close)
                if one_by_one:
                    await stack.enter_async_context(worker)
                await add(client, worker, works, one_by_one=one_by_one)
                if not one_by_one:
                    await stack.enter_async_context(worker)
                ends = sum(work.ends for work in works)
                await wait_until(lambda: ended(worker) == ends, timeout=A_WHILE)
            monitored = count(tap.between(start, tap.mark()), ignore=frozenset())

    commands = worker.stats()["commands"]
    sent = commands["sent"] + client.counter.client_sent
    billable = commands["billable"] + client.counter.billable
    # Where few were sent in all, one that the end of a connection overtook is more than 1 %.
    assert sent == pytest.approx(monitored.client_sent, rel=WITHIN, abs=1)
    assert billable == pytest.approx(monitored.billable, rel=WITHIN)
    assert billable == pytest.approx(counted.total, rel=WITHIN)


async def test_a_client_counts_the_look_at_a_job_that_was_there_already(
    start_server: StartServer, make_settings: Callable[..., Settings]
) -> None:
    """A script finds its state, by one command for each place where the job may stand."""
    server = start_server()
    client = JobClient(make_settings(redis_url=server.url))
    with MonitorTap(server.port) as tap:
        start = tap.mark()
        for _ in range(20):
            await client.enqueue("speak", job_id="same", delay=60)
        await client.close()
        monitored = count(tap.between(start, tap.mark()), ignore=frozenset())

    assert client.counter.inner[Purpose.STATUS] == monitored.scripted["zscore"] > 0


@pytest.mark.parametrize("kind", ["one by one", "in one call", "deduplicated"])
async def test_a_client_counts_an_add_of_a_job_that_was_there_already(
    start_server: StartServer, make_settings: Callable[..., Settings], kind: str
) -> None:
    """It runs fewer commands than one that adds a job."""
    server = start_server()
    client = JobClient(make_settings(redis_url=server.url))
    with MonitorTap(server.port) as tap:
        start = tap.mark()
        if kind == "in one call":
            same = [{"name": "speak", "job_id": f"same-{number // 2}"} for number in range(20)]
            await client.enqueue_many(same)
        elif kind == "deduplicated":
            alike = [{"name": "speak", "deduplication": Deduplication("same")}] * 20
            await client.enqueue_many(alike)
        else:
            for _ in range(20):
                await client.enqueue("speak", job_id="same")
        await client.close()
        monitored = count(tap.between(start, tap.mark()), ignore=frozenset())

    # A queue's first job sets how many events are kept, which only a script of its own count knows.
    uncounted = 0 if kind == "deduplicated" else 1
    assert client.counter.billable == monitored.billable - uncounted


async def lose_the_lock(worker: BackendOfWorker) -> None:
    """As another worker's stalled check finds it."""
    await worker.redis.delete(worker.keys.lock("1"))


async def remove_the_job(worker: BackendOfWorker) -> None:
    """As an operator does."""
    await worker.redis.delete(worker.keys.job("1"))


async def limit_the_queue(worker: BackendOfWorker) -> None:
    """As Node's setGlobalRateLimit does."""
    await worker.redis.hset(worker.keys["meta"], mapping={"max": 1, "duration": 60_000})


END: dict[str, Callable[[Any, ActiveJob], Call]] = {
    "completed": lambda calls, job: calls.finish(job, "completed", "1", 1, fetch_next=True),
    "failed": lambda calls, job: calls.finish(
        job, "failed", "no", 1, fetch_next=False, fields={"failedReason": "no"}
    ),
    "retried": lambda calls, job: calls.retry(job, now_ms=1, fields={"failedReason": "no"}),
    "delayed": lambda calls, job: calls.delay(job, 9, 1, skip_attempt=False, fetch_next=True),
    "returned": lambda calls, job: calls.return_to_queue(job),
    "waits for children": lambda calls, job: calls.await_children(job, now_ms=1),
}


@pytest.mark.parametrize("harm", [lose_the_lock, remove_the_job, limit_the_queue])
@pytest.mark.parametrize("end", END.values(), ids=END)
async def test_an_end_is_counted_exactly_whatever_comes_of_it(
    ours: BackendOfWorker, harm: Callable[[BackendOfWorker], Any], end: Callable[..., Call]
) -> None:
    """A refused one runs 1 to 9 commands; it was told as 26."""
    await ours.add("1")
    await ours.add("2")
    job = await ours.fetched()
    call = end(ours.calls, job)
    with contextlib.suppress(RedisRefused):  # the text of the script is sent before
        await ours.run(structs.replace(call, keys=["no"] * len(call.keys), packed=None))
    await harm(ours)
    counter = ours.backend.counter
    before = counter.inner.copy()

    async with counted_commands(ours.redis) as counted:
        with contextlib.suppress(LockLost):
            await ours.backend.transition(job, call)

    del counted.calls["evalsha"]
    assert counter.inner - before == {Purpose.COMPLETE: counted.total}
