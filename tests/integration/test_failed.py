"""``failed`` and ``status --watch``: what operators do with jobs that ended badly."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.client.job_status import Seen
from convolab_worker.client.operating.filters import Wanted, reason_pattern
from tests.support.commands import Commands
from tests.support.waiting import wait_until

Data = dict[str, Any]


class Desk:
    """The command line, a client and Redis, on a queue of the test's own."""

    def __init__(self, commands: Commands, client: JobClient, redis: Redis, queue: str) -> None:
        """Keep them."""
        self.commands = commands
        self.client = client
        self.redis = redis
        self.queue = queue
        self.key = f"bull:{queue}"

    async def run(self, *arguments: str) -> str:
        """What ``failed`` prints; it is to end well."""
        code, out, err = await self.commands.run("failed", *arguments)
        assert code == 0, err
        return out

    async def ids(self, *arguments: str) -> list[str]:
        """The ids that ``failed list`` prints."""
        out = await self.run("list", "--json", *arguments)
        return [json.loads(line)["id"] for line in out.splitlines()]

    async def put(self, job_id: str, *, hours_ago: float = 0, **fields: str) -> None:
        """A failed job of some age, as a worker would have left it."""
        written: Any = {
            "name": "plain", "data": "{}", "opts": "{}", "atm": "2", "failedReason": "no voice",
            "finishedOn": "1", "processedOn": "1", **fields,
        }  # fmt: skip
        await self.redis.hset(f"{self.key}:{job_id}", mapping=written)
        at = (time.time() - hours_ago * 3600) * 1000
        await self.redis.zadd(f"{self.key}:failed", {job_id: at})

    async def waiting(self) -> list[str]:
        """The ids that wait, the next one first."""
        ids = await self.redis.lrange(f"{self.key}:wait", 0, -1)
        return [str(job_id) for job_id in reversed(ids)]


@pytest_asyncio.fixture
async def desk(
    tmp_path: Path, server_url: str, queue_name: str, make_settings: Callable[..., Settings]
) -> AsyncIterator[Desk]:
    """An operator's desk."""
    commands = Commands(tmp_path, server_url, queue_name)
    async with (
        JobClient(make_settings()) as client,
        Redis.from_url(server_url, decode_responses=True) as redis,
    ):
        yield Desk(commands, client, redis, queue_name)
    await commands.close()


@pytest.mark.asyncio
async def test_a_job_that_failed_is_listed_shown_retried_and_then_succeeds(
    desk: Desk, make_settings: Callable[..., Settings]
) -> None:
    """The whole way from a failure to its mending."""
    handlers, mended = HandlerRegistry(), asyncio.Event()

    @handlers.audio("plain")
    async def work(job: Job[Data]) -> str:
        job.log.info("trying")
        if not mended.is_set():
            msg = "no voice for <de>"
            raise ValueError(msg)
        return "spoken"

    async with Worker(handlers, make_settings()):
        job_id = await desk.client.enqueue("plain", {"text": "x"})
        await wait_until(lambda: desk.redis.zcard(f"{desk.key}:failed"), what="the failure")

        listed = await desk.run("list")
        assert job_id in listed
        assert "no voice for <de>" in listed
        shown = await desk.run("show", job_id)
        assert "Traceback" in shown
        assert "[info] trying" in shown

        mended.set()
        assert await desk.run("retry", job_id) == "1 job retried\n"
        assert await desk.client.result(job_id, timeout=20) == "spoken"
    assert await desk.ids() == []


@pytest.mark.asyncio
async def test_filters_mean_the_jobs_that_fit_all_of_them(desk: Desk) -> None:
    """By name, by age on either side, by a reason's text or pattern."""
    await desk.put("new", hours_ago=0.1)
    await desk.put("old", hours_ago=30, failedReason="HTTP 503: try later")
    await desk.put("image", hours_ago=2, name="draw", failedReason="http 429")

    assert await desk.ids() == ["new", "image", "old"]
    assert await desk.ids("--name", "plain") == ["new", "old"]
    assert await desk.ids("--older-than", "1h") == ["image", "old"]
    assert await desk.ids("--older-than", "1h", "--newer-than", "24h") == ["image"]
    assert await desk.ids("--reason", "HTTP") == ["image", "old"]
    assert await desk.ids("--reason", r"/HTTP 5\d\d/") == ["old"]
    assert await desk.ids("--name", "draw", "--reason", "voice") == []
    assert await desk.ids("--limit", "1") == ["new"]


@pytest.mark.asyncio
async def test_thousands_are_retried_in_the_order_in_which_they_failed(desk: Desk) -> None:
    """The oldest failure is the next to run; nothing else of the job changes."""
    async with desk.redis.pipeline(transaction=False) as pipe:
        for number in range(2_300):
            fields: Any = {"name": "plain", "data": "{}", "opts": "{}", "atm": "3", "ats": "3"}
            pipe.hset(f"{desk.key}:j{number}", mapping=fields)
            pipe.zadd(f"{desk.key}:failed", {f"j{number}": 1_000 + number})
        await pipe.execute()

    assert await desk.run("retry", "--all", "--dry-run") == "2300 jobs would be retried\n"
    assert await desk.redis.zcard(f"{desk.key}:failed") == 2_300
    assert await desk.run("retry", "--all", "--reset-attempts") == "2300 jobs retried\n"

    assert await desk.waiting() == [f"j{number}" for number in range(2_300)]
    assert await desk.redis.hgetall(f"{desk.key}:j7") == {
        "name": "plain", "data": "{}", "opts": "{}",
    }  # fmt: skip


@pytest.mark.asyncio
async def test_ctrl_c_says_how_many_were_done_and_the_rest_is_there_for_the_next_run(
    desk: Desk,
) -> None:
    """A batch that was sent is counted, whole; running it again does what is left."""
    many = 8_000
    async with desk.redis.pipeline(transaction=False) as pipe:
        for number in range(many):
            pipe.hset(f"{desk.key}:j{number}", mapping={"name": "plain", "opts": "{}"})
            pipe.zadd(f"{desk.key}:failed", {f"j{number}": number})
        await pipe.execute()
    retrying = await desk.commands.start("failed", "retry", "--all")
    await wait_until(lambda: desk.redis.llen(f"{desk.key}:wait"), timeout=20, what="the first")

    retrying.send(signal.SIGINT)
    code, _, err = await retrying.ended()

    waiting = await desk.waiting()
    assert code == 130
    assert f"stopped: {len(waiting)} jobs were retried" in err
    assert len(waiting) + await desk.redis.zcard(f"{desk.key}:failed") == many
    assert await desk.run("retry", "--all") == f"{many - len(waiting)} jobs retried\n"
    assert await desk.waiting() == [f"j{number}" for number in range(many)]


@pytest.mark.asyncio
async def test_removing_leaves_nothing_of_a_job_and_the_others_alone(desk: Desk) -> None:
    """Its hash, its logs, its place; those that do not fit stay."""
    await desk.put("gone", name="draw")
    await desk.put("kept")
    await desk.redis.rpush(f"{desk.key}:gone:logs", "a row")

    assert await desk.run("remove", "--name", "draw") == "1 job removed\n"

    assert await desk.ids() == ["kept"]
    assert [key async for key in desk.redis.scan_iter(f"{desk.key}:gone*")] == []


@pytest.mark.asyncio
async def test_a_job_that_is_retried_while_others_are_removed_is_kept(desk: Desk) -> None:
    """It was failed when it was looked at, and waits when its turn to be removed comes."""
    await desk.put("gone")
    await desk.put("retried")
    meant = [job async for job in desk.client.jobs("failed")]

    await desk.run("retry", "retried")
    removed = await desk.client.remove(meant)

    assert removed == 1
    assert await desk.waiting() == ["retried"]
    assert await desk.redis.hget(f"{desk.key}:retried", "name") == "plain"


@pytest.mark.asyncio
async def test_what_can_not_be_done_is_said_and_the_rest_is_done(desk: Desk) -> None:
    """An id that is not there, and a job that somebody has locked."""
    await desk.put("here")
    await desk.put("held")
    await desk.redis.set(f"{desk.key}:held:lock", "somebody")

    code, out, err = await desk.commands.run("failed", "remove", "here", "held", "nowhere")

    assert (code, out) == (1, "1 job removed\n")
    assert "1 not removed: a worker has it" in err
    assert "1 not removed: no job 'nowhere' on " in err


@pytest.mark.asyncio
async def test_no_failed_job_is_not_taken_for_a_filter_that_none_fits(desk: Desk) -> None:
    """Whoever gave no filter learns that there is no job."""
    await desk.commands.run("queue", "pause", "--new")

    everything = await desk.commands.run("failed", "list")
    of_a_name = await desk.commands.run("failed", "list", "--name", "speak")

    assert everything == (0, "there is no failed job\n", "")
    assert of_a_name == (0, "no failed job fits\n", "")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("retry",), "expected ids, a filter such as --name, or --all"),
        (("remove",), "expected ids, a filter such as --name, or --all"),
        (("list", "--reason", "/(/"), "expected a regular expression"),
        (("list", "--older-than", "soon"), "expected a duration"),
        (("list", "--limit", "0"), "expected"),
        ((), "expected one of list, show, retry, remove"),
    ],
)
async def test_wrong_usage_is_refused_before_anything_is_done(
    desk: Desk, arguments: tuple[str, ...], complaint: str
) -> None:
    """Above all, everything is never meant by saying nothing."""
    await desk.put("kept")

    code, _, err = await desk.commands.run("failed", *arguments)

    assert code == 2
    assert complaint in err
    assert await desk.ids() == ["kept"]


@pytest.mark.asyncio
async def test_a_job_that_has_not_failed_is_not_shown_as_failed(desk: Desk) -> None:
    """Its state is said instead."""
    job_id = await desk.client.enqueue("plain")

    code, _, err = await desk.commands.run("failed", "show", job_id)

    assert code == 1
    assert "is waiting, not failed" in err


@pytest.mark.asyncio
async def test_status_is_watched_until_it_is_told_to_end(desk: Desk) -> None:
    """A line of counts each time, newer jobs among them; what it costs is said first."""
    watching = await desk.commands.start("status", "--watch", "100ms", "--json")
    assert "for up to 14 Redis commands each time" in await watching.until("Redis commands")
    assert watching.stdout is not None
    before = json.loads(await asyncio.wait_for(watching.stdout.readline(), 20))
    await desk.client.enqueue("plain")

    async with asyncio.timeout(20):
        while json.loads(await watching.stdout.readline())[desk.queue]["waiting"] != 1:
            continue
    watching.send(signal.SIGINT)
    code, _, _ = await watching.ended()

    assert before[desk.queue]["waiting"] == 0
    assert code == 130


def test_a_reason_is_text_in_any_case_or_a_pattern_between_slashes() -> None:
    """What has a meaning in patterns has none in text."""
    assert reason_pattern("a.b").search("xA.Bx")
    assert not reason_pattern("a.b").search("axb")
    assert reason_pattern("/a.b/").search("axb")
    assert not reason_pattern("/a.b/").search("AXB")
    with pytest.raises(ValueError, match="regular expression"):
        reason_pattern("/(/")


def test_nothing_set_means_everything_and_ages_are_bounds_of_time() -> None:
    """Ages count back from now; a bound that is not set is infinite."""
    failure = Seen("q", "1", "failed", "plain", "no voice", 50.0, lifo=False)

    assert Wanted().is_everything
    assert Wanted().between(100.0) == ("-inf", "+inf")
    assert Wanted(older_than=10, newer_than=60).between(100.0) == ("40000", "90000")
    assert Wanted(names=["plain"], reason=re.compile("voice")).fits(failure, 100.0)
    assert Wanted(older_than=50, newer_than=50).fits(failure, 100.0)
    assert not Wanted(names=["draw"]).fits(failure, 100.0)
    assert not Wanted(older_than=51).fits(failure, 100.0)
    assert not Wanted(newer_than=49).fits(failure, 100.0)
