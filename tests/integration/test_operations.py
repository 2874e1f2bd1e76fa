"""What operators do by JobClient and by the command line: jobs found, acted on; queues held."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import ConfigurationError, JobNotFound, WrongState
from tests.support.commands import Commands
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
Data = dict[str, Any]


@pytest_asyncio.fixture
async def commands(tmp_path: Path, server_url: str, queue_name: str) -> AsyncIterator[Commands]:
    """The command line, on the test's own queue."""
    commands = Commands(tmp_path, server_url, queue_name)
    yield commands
    await commands.close()


@pytest.fixture
def key(queue_name: str) -> str:
    """What the queue's keys begin with."""
    return f"bull:{queue_name}"


async def put_failed(redis: Redis, key: str, job_id: str, at: float, **fields: str) -> None:
    """A failed job, as a worker would have left it at that time."""
    score = str(round(at * 1000))
    written: Any = {
        "name": "plain", "data": "{}", "opts": "{}", "atm": "1", "failedReason": "no voice",
        "timestamp": score, "finishedOn": score, **fields,
    }  # fmt: skip
    await redis.hset(f"{key}:{job_id}", mapping=written)
    await redis.zadd(f"{key}:failed", {job_id: score})


async def test_a_job_is_listed_with_all_that_its_record_says(
    client: JobClient, make_settings: Callable[..., Settings], redis: Redis, key: str
) -> None:
    handlers = HandlerRegistry()

    @handlers.audio("speak")
    async def speak(job: Job[Data]) -> None:
        await job.progress({"percent": 50})
        job.log.info("trying")
        msg = "no voice"
        raise ValueError(msg)

    async with Worker(handlers, make_settings()):
        job_id = await client.enqueue("speak", {"text": "日本"}, priority=7, attempts=1)
        await wait_until(lambda: redis.zcard(f"{key}:failed"), what="the failure")

    (job,) = [job async for job in client.jobs("failed")]
    assert job == await client.status(job_id)
    assert (job.id, job.name, job.state, job.data) == (job_id, "speak", "failed", {"text": "日本"})
    assert (job.progress, job.failed_reason) == ({"percent": 50}, "no voice")
    assert (job.priority, job.attempts_made, job.max_attempts, job.starts) == (7, 1, 1, 1)
    assert job.opts["priority"] == 7
    assert "ValueError: no voice" in job.stacktrace[0]
    assert job.timestamp is not None
    assert job.finished_on is not None
    assert job.timestamp <= job.finished_on
    assert "[info] trying" in (await client.logs(job_id))[0]


async def test_jobs_of_several_queues_come_in_one_order_and_filters_fit(
    server_url: str, redis: Redis
) -> None:
    names = [f"test-{uuid.uuid4().hex[:12]}" for _ in range(2)]
    now = time.time()
    for number in range(6):
        hours, name = number * 3600, "draw" if number == 3 else "plain"
        await put_failed(redis, f"bull:{names[number % 2]}", f"j{number}", now - hours, name=name)
    await redis.hset(f"bull:{names[0]}:j4", "failedReason", "HTTP 503")

    async with JobClient(redis_url=server_url, queues=tuple(names)) as client:

        async def ids(**filters: Any) -> list[str]:
            return [job.id async for job in client.jobs("failed", **filters)]

        assert await ids() == ["j0", "j1", "j2", "j3", "j4", "j5"]
        assert await ids(oldest_first=True, limit=2) == ["j5", "j4"]
        assert await ids(queue=names[1]) == ["j1", "j3", "j5"]
        assert await ids(name="draw") == ["j3"]
        assert await ids(name=["draw", "plain"], limit=1) == ["j0"]
        assert await ids(older_than=3.5 * 3600) == ["j4", "j5"]
        assert await ids(newer_than=3.5 * 3600, older_than=1800) == ["j1", "j2", "j3"]
        assert await ids(reason="http") == ["j4"]
        assert await ids(reason="/^HTTP 5/") == ["j4"]
        with pytest.raises(ConfigurationError, match="expected one of active, waiting"):
            await ids_of_state(client, "done")
        with pytest.raises(ConfigurationError, match="regular expression"):
            await ids(reason="/(/")


async def ids_of_state(client: JobClient, state: str, **filters: Any) -> list[str]:
    return [job.id async for job in client.jobs(state, **filters)]


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("state", ["failed", "waiting"])
async def test_jobs_that_are_removed_while_they_are_listed_hide_no_others(
    client: JobClient, redis: Redis, key: str, *, state: str, oldest_first: bool
) -> None:
    """Every job is met once: in pages, with many of one time, while others come."""
    count = 450
    if state == "failed":
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(count):
                pipe.hset(f"{key}:j{number:03}", mapping={"name": "plain", "opts": "{}"})
                pipe.zadd(f"{key}:failed", {f"j{number:03}": 1_000 + number // 250})
            await pipe.execute()
    else:
        await client.enqueue_many([{"name": "plain", "job_id": f"j{n:03}"} for n in range(count)])

    met: list[str] = []
    async for job in client.jobs(state, oldest_first=oldest_first):
        met.append(job.id)
        assert await client.remove(job) == 1
        if len(met) == 150:
            await client.enqueue_many([{"name": "plain", "job_id": f"new{n}"} for n in range(150)])

    ordered = [f"j{number:03}" for number in range(count)]
    assert [job_id for job_id in met if job_id[0] == "j"] == ordered[:: 1 if oldest_first else -1]
    assert len(met) == len({*met})


async def test_one_job_is_acted_on_or_the_call_says_why_not(
    client: JobClient, redis: Redis, key: str
) -> None:
    await put_failed(redis, key, "bad", time.time())
    later = await client.enqueue("plain", delay=60)
    held = await client.enqueue("plain")
    await redis.set(f"{key}:{held}:lock", "somebody")

    with pytest.raises(WrongState, match=f"retry job '{later}' on .*: it is delayed"):
        await client.retry(later)
    with pytest.raises(WrongState, match="promote job 'bad' on .*: it is failed"):
        await client.promote("bad")
    with pytest.raises(WrongState, match="a worker has it"):
        await client.remove(held)
    for act in (client.retry, client.promote, client.remove):
        with pytest.raises(JobNotFound):
            await act("nowhere")

    assert (await client.promote(later), await client.retry("bad")) == (1, 1)
    assert await ids_of_state(client, "waiting") == ["bad", later, held]
    assert await client.remove(["bad", "nowhere", later, held]) == 2
    assert await ids_of_state(client, "waiting") == [held]
    assert await client.retry(client.jobs("failed")) == 0
    await redis.delete(f"{key}:{held}:lock", f"{key}:wait")
    assert (await client.status(held)).state == "unknown"
    assert await client.remove(held) == 1


async def test_a_paused_queue_gives_no_job_until_it_is_resumed(
    client: JobClient, make_settings: Callable[..., Settings], commands: Commands
) -> None:
    """By the command line, which says so, and by the client; a worker that listens hears of it."""
    handlers, queue = HandlerRegistry(), client.settings.queues[0]

    @handlers.audio("speak")
    async def speak(job: Job[Data]) -> str:
        return job.name

    async with Worker(handlers, make_settings(worker_name="pod-7f9@2.4.1")) as worker:
        assert (await commands.run("queue", "pause"))[:2] == (0, f"{queue} is paused\n")
        job_id = await client.enqueue("speak")
        (status,) = await client.queues()
        listed = await commands.run("status")
        assert (status.paused, status.counts["waiting"]) == (True, 1)
        assert status.workers == ["pod-7f9@2.4.1"]
        assert status.oldest_waiting is not None
        assert abs(status.oldest_waiting - time.time()) < 60
        assert listed[1].splitlines()[1].endswith("paused")
        assert worker.stats()["outcomes"].get("completed") is None

        await client.resume(queue)

        assert await client.result(job_id, timeout=20) == "speak"
    code, out, _ = await commands.run("queue", "resume", "--json")
    assert (code, json.loads(out)) == (0, {"queue": queue, "done": "resumed"})


async def test_what_a_scheduler_has_next_is_removed_with_the_scheduler_alone(
    client: JobClient,
) -> None:
    job_id = await client.schedule("yearly", "speak", cron="0 0 1 1 *")
    due = [job.id async for job in client.jobs() if job.id == job_id]

    with pytest.raises(WrongState, match="a job scheduler has it next"):
        await client.remove(job_id)
    with pytest.raises(WrongState, match="remove the scheduler"):
        await client.cancel(job_id)

    assert due == [job_id]
    assert await client.unschedule("yearly")
    assert [job.id async for job in client.jobs()] == []


async def test_jobs_that_bullmq_5_has_set_aside_are_listed_and_resumed(
    client: JobClient, redis: Redis, key: str
) -> None:
    """It moves the jobs of a paused queue to a list of their own."""
    await client.enqueue_many([{"name": "plain", "job_id": f"j{number}"} for number in range(3)])
    await redis.rename(f"{key}:wait", f"{key}:paused")
    await redis.hset(f"{key}:meta", "paused", "1")
    assert await ids_of_state(client, "waiting") == ["j2", "j1", "j0"]
    assert await client.remove("j1") == 1

    await client.resume()

    assert await redis.lrange(f"{key}:wait", 0, -1) == ["j2", "j0"]
    assert not (await client.queues())[0].paused


async def test_old_jobs_are_cleaned_away(
    client: JobClient, redis: Redis, key: str, commands: Commands
) -> None:
    now = time.time()
    for number in range(4):
        await put_failed(redis, key, f"j{number}", now - number * 3600)

    assert await client.clean(client.settings.queues[0], "failed", 3.5 * 3600) == []
    assert await client.clean(client.settings.queues[0], "failed", 1800, limit=1) == ["j3"]
    with pytest.raises(ConfigurationError, match="expected one of completed, failed"):
        await client.clean(client.settings.queues[0], "active")
    cleaned = await commands.run("queue", "clean", "--state", "failed", "--older-than", "90m")

    assert cleaned[:2] == (0, f"{client.settings.queues[0]}: 1 failed job removed\n")
    assert await ids_of_state(client, "failed") == ["j0", "j1"]


async def test_jobs_on_the_command_line(
    client: JobClient, redis: Redis, key: str, commands: Commands
) -> None:
    """List, show, promote, retry and remove; a job that is not there is exit code 1."""
    await put_failed(redis, key, "bad", time.time(), name="音声を作る", failedReason="\x1b[2J no")
    await client.enqueue("speak", {"n": 1}, job_id="later", delay=60)
    await client.enqueue("speak", {"n": 2}, job_id="ready")

    _, listed, _ = await commands.run("jobs", "list")
    _, as_json, _ = await commands.run("jobs", "list", "--json", "--state", "delayed,waiting")
    code, shown, _ = await commands.run("jobs", "show", "later", "--json")
    head, *rows = listed.splitlines()
    assert [row.split()[1] for row in rows] == ["ready", "later", "bad"]
    column = head.index("state")
    assert [row[column:].split()[0] for row in rows[:2]] == ["waiting", "delayed"]
    assert ["due" in row.split() for row in rows] == [False, True, False]
    assert rows[2][column - 5 :].split()[0] == "failed"  # five signs of two columns each
    assert "\x1b" not in listed
    assert [json.loads(line)["id"] for line in as_json.splitlines()] == ["later", "ready"]
    assert (code, json.loads(shown)["state"], json.loads(shown)["logs"]) == (0, "delayed", [])

    again = await commands.run("enqueue", "speak", "--job-id", "later", "--json")
    assert (json.loads(again[1])["existed"], json.loads(again[1])["state"]) == (True, "delayed")
    assert "nothing was added: job later was there already, and is delayed" in again[2]

    assert (await commands.run("jobs", "promote", "later"))[:2] == (0, "1 job promoted\n")
    assert (await commands.run("jobs", "retry", "--all"))[:2] == (0, "1 job retried\n")
    code, out, err = await commands.run("jobs", "remove", "later", "nowhere", "--json")
    assert (code, json.loads(out)["removed"]) == (1, 1)
    assert "1 not removed: no job 'nowhere' on " in err
    wrong = await commands.run("jobs", "promote", "ready")
    assert wrong[:2] == (1, "0 jobs promoted\n")
    assert "1 not promoted: ready is waiting" in wrong[2]
    assert (await commands.run("jobs", "show", "nowhere"))[0] == 1
    assert (await commands.run("jobs", "remove"))[0] == 2
    assert (await commands.run("jobs", "promote", "--state", "failed"))[0] == 2
    assert await ids_of_state(client, "waiting") == ["bad", "ready"]
    out = (await commands.run("jobs", "remove", "--state", "waiting", "--name", "speak"))[1]
    assert out == "1 job removed\n"


async def test_queues_are_found_by_their_keys(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    """Where nobody names any: all of the prefix's, those of other programs left out."""
    server = start_server()
    async with JobClient(redis_url=server.url, queues=("audio",)) as client:
        await client.enqueue("a")
    async with Redis.from_url(server.url) as redis:  # as Node allows it
        await redis.hset("bull:x[1] y:meta", "paused", "1")
        await redis.hset("bull:not:ours:meta", "paused", "1")
    async with JobClient(redis_url=server.url, prefix="other") as client:
        await client.enqueue("a")
    commands = Commands(tmp_path, server.url, "")

    code, out, _ = await commands.run("status", "--json")
    listed = await commands.run("queue", "list")
    named = await commands.run("queue", "list", "--json", "--queue", "audio")
    await commands.close()

    assert (code, list(json.loads(out))) == (0, ["audio", "x[1] y"])
    assert json.loads(out)["audio"]["waiting"] == 1
    assert json.loads(out)["audio"]["workers"] == []
    assert "no worker is connected" in listed[1]
    assert [json.loads(line)["name"] for line in named[1].splitlines()] == ["audio"]
