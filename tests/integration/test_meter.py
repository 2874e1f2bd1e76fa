"""The meter agrees with the server: commands sent within 1 %, billable ones within 5 %."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.meter import Meter
from tests.support.commandstats import counted_commands
from tests.support.monitor import monitored_commands
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

StartServer = Callable[..., ServerProcess]

pytestmark = pytest.mark.asyncio
SPEECH, COURSES, IMAGES = QUEUES = ("speech", "courses", "images")
SENT_WITHIN, BILLABLE_WITHIN = 0.01, 0.05
A_WHILE = 60.0

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


# A kind of work is (name, queue, options) and how many jobs of it there are.
KINDS: dict[str, list[tuple[str, str, dict[str, Any], int]]] = {
    "successes": [("speak", SPEECH, {}, 40)],
    "failures": [("fall-silent", SPEECH, {}, 40)],
    "retries at once": [("stutter", SPEECH, {"attempts": 3}, 40)],
    "retries later": [("stutter", SPEECH, {"attempts": 2, "backoff": 0.2}, 40)],
    "delays": [("speak", SPEECH, {"delay": 0.1 * n}, 4) for n in range(1, 11)],
    "priorities": [("speak", SPEECH, {"priority": n}, 8) for n in range(1, 6)],
    "progress and logs": [("tell", SPEECH, {}, 40)],
    "parked": [("draw", IMAGES, {}, 40)],
    "locks renewed": [("read-aloud", COURSES, {}, 6)],
    "children": [("teach", COURSES, {}, 20)],
}
KINDS["a mixture"] = [
    (name, queue, options, max(1, jobs // 2))
    for works in [*KINDS.values()]
    for name, queue, options, jobs in works
]


def ended(worker: Worker) -> int:
    """How many jobs have come to their end."""
    outcomes = worker.stats()["outcomes"]
    return int(outcomes.get("completed", 0) + outcomes.get("failed", 0))


@pytest.mark.parametrize("arrival", ["in bulk", "one by one"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_meter_agrees_with_the_server(
    start_server: StartServer, make_settings: Callable[..., Settings], kind: str, arrival: str
) -> None:
    """By MONITOR and commandstats, a worker's and a client's together, whatever the work."""
    settings = make_settings(
        redis_url=start_server().url,
        queues=QUEUES,
        concurrency=6,
        idle_min=0.2,
        idle_max=0.4,
        lock_duration=1.0,
        progress_interval=0.01,
    )
    works = KINDS[kind]
    jobs = sum(count * (4 if name == "teach" else 1) for name, _, _, count in works)
    worker, client = Worker(handlers, settings), JobClient(settings)

    async with (
        Redis.from_url(settings.redis_url, decode_responses=True) as redis,
        monitored_commands(redis) as monitored,
        counted_commands(redis) as counted,
    ):
        if arrival == "one by one":
            await worker.start()
        for name, queue, options, count in works:
            for _ in range(count):
                done = ended(worker)
                await client.enqueue(name, queue=queue, **options)
                if arrival == "one by one" and "delay" not in options:
                    await wait_until(lambda done=done: ended(worker) > done, timeout=A_WHILE)
        if arrival == "in bulk":
            await worker.start()
        await wait_until(lambda: ended(worker) == jobs, timeout=A_WHILE)
        await worker.stop()
        await client.close()

    meter = total(worker, client)
    assert meter.client_sent == pytest.approx(monitored.client_sent, rel=SENT_WITHIN)
    assert meter.billable == pytest.approx(monitored.billable, rel=BILLABLE_WITHIN)
    assert meter.billable == pytest.approx(counted.total, rel=BILLABLE_WITHIN)


def total(worker: Worker, client: JobClient) -> Meter:
    """What both together have sent, by their own count."""
    return client.meter
