"""What an idle worker costs, by the server's own statistics, and what it costs to be quick."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from tests.support.commandstats import counted_commands
from tests.support.punctuality import Punctuality
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker.embedded import EmbeddedServer
    from tests.support.proxy import TcpProxy
    from tests.support.server import ServerProcess

    StartServer = Callable[..., ServerProcess]

pytestmark = pytest.mark.asyncio
SOON = 10.0
HANDLERS = HandlerRegistry()


@HANDLERS.audio("speak")
async def speak(job: Job[Any]) -> float:
    """Tell when it started."""
    del job
    return time.time()


def sent_to(worker: Worker, purpose: str) -> int:
    """How many commands the worker has sent for one of the purposes of its statistics."""
    purposes = worker.stats()["commands"]["by_purpose"]
    return int(purposes.get(purpose, {"sent": 0})["sent"])


def waits(worker: Worker) -> int:
    """How often the worker has begun to wait."""
    return sent_to(worker, "listen")


async def settled(worker: Worker) -> None:
    """Return when the worker has reached its longest wait."""
    longest = worker.settings.idle_max
    await wait_until(lambda: worker.stats().get("idle", {}).get("wait") == longest, timeout=SOON)


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("concurrency", [1, 50])
@pytest.mark.parametrize("case", ["empty", "delayed", "paused", "paused with jobs"])
async def test_a_wait_costs_two_commands(
    start_server: StartServer,
    make_settings: Callable[..., Settings],
    queues: int,
    concurrency: int,
    case: str,
) -> None:
    """One BZPOPMIN and one EXISTS, whatever the queues, slots, delayed jobs and pauses."""
    server = start_server()
    names = tuple(f"q{number}" for number in range(queues))
    settings = make_settings(
        redis_url=server.url,
        queues=names,
        concurrency=concurrency,
        idle_min=0.1,
        idle_max=0.2,
    )
    async with (
        Redis.from_url(server.url, decode_responses=True) as redis,
        JobClient(settings) as client,
    ):
        if case == "delayed":
            await client.enqueue("speak", delay=3600)
        if case.startswith("paused"):
            await redis.hset("bull:q0:meta", "paused", 1)
        if case == "paused with jobs":
            await client.enqueue("speak")
        async with Worker(HANDLERS, settings) as worker:
            await settled(worker)
            before = waits(worker)
            # A pause is asked about after 1, 2, 4 and 8 waits: two of these are counted below.
            await wait_until(lambda: waits(worker) >= before + 3)
            async with counted_commands(redis) as counts:
                first = waits(worker)
                await wait_until(lambda: waits(worker) >= first + 8)
                blocks = waits(worker) - first

    swept = counts.calls.get("exists", 0)
    assert counts.calls["bzpopmin"] in (blocks, blocks + 1)
    assert abs(swept - blocks) <= 1
    assert counts.total <= 2 * blocks + 2, counts.calls


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("concurrency", [1, 10, 50])
async def test_lone_job_costs_five_commands_sent_and_25_billable(
    start_server: StartServer,
    make_settings: Callable[..., Settings],
    queues: int,
    concurrency: int,
) -> None:
    """By the server's statistics, the adding left out, whatever the concurrency."""
    server = start_server()
    settings = make_settings(
        redis_url=server.url,
        queues=tuple(f"q{number}" for number in range(queues)),
        concurrency=concurrency,
        idle_min=30,
        idle_max=60,
    )
    async with (
        Redis.from_url(server.url) as redis,
        JobClient(settings) as client,
        Worker(HANDLERS, settings) as worker,
    ):
        await wait_until(lambda: waits(worker) >= 1)
        await client.result(await client.enqueue("speak"), SOON)
        # A queue's first job has its limits asked for, which may be after the third wait began.
        await wait_until(lambda: waits(worker) >= 3 and sent_to(worker, "probe") >= 3)
        # Added by hand with few commands of a known number: HSET, LPUSH and ZADD.
        mapping: Any = {"name": "speak", "data": "{}", "opts": "{}", "timestamp": "1"}
        sent = worker.stats()["commands"]["sent"]
        async with counted_commands(redis) as counts:
            await redis.hset("bull:q0:lone", mapping=mapping)
            await redis.lpush("bull:q0:wait", "lone")
            await redis.zadd("bull:q0:marker", {"0": 0})
            await wait_until(lambda: worker.stats()["outcomes"].get("completed") == 2)
            await wait_until(lambda: worker.stats()["commands"]["sent"] >= sent + 5)
        sent = worker.stats()["commands"]["sent"] - sent

    assert sent == 5
    assert counts.total - 3 <= 25, counts.calls


async def test_burst_costs_one_command_a_job(
    start_server: StartServer, make_settings: Callable[..., Settings]
) -> None:
    """A finish fetches the next job: at most 1.05 commands sent a job."""
    server = start_server()
    settings = make_settings(redis_url=server.url, queues=("q0", "q1"), concurrency=8)
    async with JobClient(settings) as client:
        for _ in range(1000):
            await client.enqueue("speak")
        worker = Worker(HANDLERS, settings)
        await worker.drain()

    assert worker.stats()["outcomes"] == {"completed": 1000}
    assert worker.stats()["commands"]["sent"] <= 1050


async def test_lost_marker_is_found_within_one_wait(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """A job whose marker was popped by a process that died runs at the end of the wait."""
    settings = make_settings(idle_min=0.3, idle_max=0.3)
    async with JobClient(settings) as client, Worker(HANDLERS, settings) as worker:
        await settled(worker)
        await redis.hset(
            f"bull:{queue_name}:lost", mapping={"name": "speak", "data": "{}", "opts": "{}"}
        )
        await redis.lpush(f"bull:{queue_name}:wait", "lost")
        with Stopwatch() as since_added:
            await client.result("lost", SOON)

    assert since_added.seconds < 1.0


async def test_delayed_jobs_are_on_time_after_a_reconnection(
    make_settings: Callable[..., Settings],
    server: EmbeddedServer,
    start_proxy: Callable[[EmbeddedServer], TcpProxy],
) -> None:
    """A worker whose connections are reset after it learnt the due times learns them again."""
    settings, proxy = make_settings(idle_min=30, idle_max=30), start_proxy(server)
    with Punctuality() as times:
        async with (
            JobClient(settings) as client,
            Worker(times.handlers, settings.replace(redis_url=proxy.url)) as worker,
        ):
            await wait_until(lambda: waits(worker) >= 1)
            jobs = [await times.add(client, 0.6 + number / 10) for number in range(9)]
            proxy.cut()
            for job in jobs:
                await client.result(job, SOON)

    assert max(times.early) < 0.005
    late = sorted(times.late)
    assert late[len(late) // 2] < 0.05, late


async def test_budget_that_will_be_passed_is_said_once(
    make_settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker over its day's budget warns, once."""
    settings = make_settings(command_budget=20)
    async with JobClient(settings) as client, Worker(HANDLERS, settings):
        for _ in range(5):
            await client.result(await client.enqueue("speak"), SOON)
        await asyncio.sleep(0)

    assert capsys.readouterr().out.count("commands.over_budget") == 1


async def test_earlier_delayed_job_whose_marker_was_lost_is_found(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """With a far due time known, an earlier one that nobody announced is looked for."""
    settings = make_settings(idle_min=0.2, idle_max=0.2)
    async with JobClient(settings) as client, Worker(HANDLERS, settings) as worker:
        await client.enqueue("speak", delay=1.2)
        await wait_until(lambda: waits(worker) >= 3)
        await redis.hset(
            f"bull:{queue_name}:early",
            mapping={"name": "speak", "data": "{}", "opts": "{}", "delay": "400"},
        )
        score = (int(time.time() * 1000) + 100) * 0x1000
        with Stopwatch() as since_added:
            await redis.zadd(f"bull:{queue_name}:delayed", {"early": score})
            await client.result("early", SOON)

    assert since_added.seconds < 1.0
