"""``migrate``: jobs move whole, in order and once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.client.operating.moving import Mover
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter
from convolab_worker.connection.connection import Connection
from tests.support.commands import Commands
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
Data = dict[str, Any]


class House:
    """Two old queues and a new one, by names that no other test has."""

    def __init__(self, commands: Commands, client: JobClient, redis: Redis, name: str) -> None:
        """Name the queues."""
        self.commands = commands
        self.client = client
        self.redis = redis
        self.one, self.two, self.new = f"{name}-one", f"{name}-two", f"{name}-new"

    async def migrate(self, *flags: str) -> tuple[int, str, str]:
        """Run the command on both old queues."""
        both = f"{self.one},{self.two}"
        return await self.commands.run("migrate", "--from", both, "--to", self.new, *flags)

    async def keys(self, queue: str) -> dict[str, str]:
        """Every key of a queue, with the digest of its value."""
        found = sorted([key async for key in self.redis.scan_iter(f"bull:{queue}:*", count=1000)])
        digest: Any = self.redis.execute_command
        return {key: await digest("DEBUG", "DIGEST-VALUE", key) for key in found}

    async def waiting(self, queue: str) -> list[str]:
        """The ids that wait, the next one first."""
        ids = await self.redis.lrange(f"bull:{queue}:wait", 0, -1)
        return [str(job_id) for job_id in reversed(ids)]


@pytest_asyncio.fixture
async def house(tmp_path: Path, server_url: str, queue_name: str) -> AsyncIterator[House]:
    """Backend on the shared server."""
    commands = Commands(tmp_path, server_url, queue_name)
    async with (
        JobClient(Settings(redis_url=server_url)) as client,
        Redis.from_url(server_url, decode_responses=True) as redis,
    ):
        yield House(commands, client, redis, queue_name)
    await commands.close()


async def _fill(house: House) -> None:
    add = house.client.enqueue
    for number in range(3):
        await add("plain", {"n": number}, queue=house.one, job_id=f"w{number}", attempts=4)
        await add(
            "urgent", {"n": number}, queue=house.one, job_id=f"p{number}", priority=9 - number
        )
        await add("later", {"n": number}, queue=house.two, job_id=f"d{number}", delay=900 - number)


async def test_without_yes_it_only_tells(house: House) -> None:
    """The table says what would move, and no byte of either queue changes."""
    await _fill(house)
    before = [await house.keys(queue) for queue in (house.one, house.two, house.new)]

    code, out, err = await house.migrate("--json")

    told = json.loads(out)
    assert code == 0
    assert f"the workers of {house.new} need handlers for: later, plain, urgent." in err
    assert "fails these jobs for good" in err
    assert told["moved"] == 0
    assert not told["executed"]
    assert {(row["queue"], row["state"], row["name"], row["jobs"]) for row in told["jobs"]} == {
        (house.one, "waiting", "plain", 3),
        (house.one, "prioritized", "urgent", 3),
        (house.two, "delayed", "later", 3),
    }
    assert [await house.keys(queue) for queue in (house.one, house.two, house.new)] == before


async def test_order_due_times_options_and_logs_are_kept(house: House) -> None:
    """What is behind what stays so, and every field of the hashes is the same."""
    await house.client.enqueue("earlier", queue=house.new, job_id="here-first")
    await _fill(house)
    await house.redis.rpush(f"bull:{house.one}:w1:logs", "a row")
    due = await house.redis.zrange(f"bull:{house.two}:delayed", 0, -1, withscores=True)
    hashes = {key: await house.redis.hgetall(f"bull:{house.one}:{key}") for key in ("w1", "p1")}

    code, _, _ = await house.migrate("--yes")

    assert code == 0
    assert await house.waiting(house.new) == ["here-first", "w0", "w1", "w2"]
    new = f"bull:{house.new}"
    assert await house.redis.zrange(f"{new}:prioritized", 0, -1) == ["p2", "p1", "p0"]
    assert await house.redis.zrange(f"{new}:delayed", 0, -1, withscores=True) == due
    for key, fields in hashes.items():
        assert await house.redis.hgetall(f"{new}:{key}") == fields
    assert await house.redis.lrange(f"{new}:w1:logs", 0, -1) == ["a row"]
    for queue in (house.one, house.two):
        left = {key.rpartition(":")[2] for key in await house.keys(queue)}
        assert left <= {"meta", "events", "marker", "pc", "id"}


async def test_failed_jobs_can_be_looked_at_in_the_new_queue(
    house: House, make_settings: Callable[..., Settings]
) -> None:
    """Their reason, their time and their place among the failed are kept."""
    handlers = HandlerRegistry()

    @handlers.audio("plain")
    async def fail(_job: Job[Data]) -> None:
        msg = "no voice"
        raise ValueError(msg)

    await house.client.enqueue("plain", queue=house.one, job_id="f1")
    await Worker(handlers, make_settings(queues=(house.one,))).drain(budget=20)
    before = await house.client.status("f1", house.one)

    await house.migrate("--yes", "--state", "failed")

    after = await house.client.status("f1", house.new)
    assert (after.state, after.failed_reason) == ("failed", "no voice")
    assert after.finished_on == before.finished_on


async def test_ids_that_are_taken_are_changed_and_nodes_counter_is_lifted(house: House) -> None:
    """Node numbers its jobs: two queues have the same numbers, and the new one goes on above."""
    for queue in (house.one, house.two):
        for number in (7, 8):
            await _add_as_node(house.redis, queue, number)
    await house.redis.set(f"bull:{house.new}:id", 3)

    _, out, _ = await house.migrate("--yes", "--json")

    assert json.loads(out)["renamed"] == 2
    assert set(await house.waiting(house.new)) == {"7", "8", f"{house.two}-7", f"{house.two}-8"}
    data = await house.redis.hget(f"bull:{house.new}:{house.two}-7", "data")
    assert json.loads(data or "") == [house.two, 7]
    assert await house.redis.get(f"bull:{house.new}:id") == "8"


async def _add_as_node(redis: Redis, queue: str, number: int) -> None:
    """A job with a number for its id, which this library's client does not give."""
    fields: Any = {"name": "plain", "data": json.dumps([queue, number]), "opts": "{}"}
    await redis.hset(f"bull:{queue}:{number}", mapping=fields)
    await redis.lpush(f"bull:{queue}:wait", str(number))
    await redis.set(f"bull:{queue}:id", number)


async def test_a_number_that_is_no_count_leaves_nodes_counter_alone(house: House) -> None:
    """INCR can't go on from it: then nobody could add to the new queue any more."""
    await _add_as_node(house.redis, house.one, 20_261_124_093_012_345_678)
    await house.redis.set(f"bull:{house.new}:id", 3)

    code, _, err = await house.migrate("--yes")

    assert code == 0, err
    assert await house.waiting(house.new) == ["20261124093012345678"]
    assert await house.redis.get(f"bull:{house.new}:id") == "3"


async def test_what_can_not_be_moved_stays_and_says_why(house: House) -> None:
    """Jobs of a family, of a scheduler, of a worker, and such as are not jobs."""
    for job_id in ("child", "parent", "tick", "held", "free"):
        await house.client.enqueue("plain", queue=house.one, job_id=job_id)
    base = f"bull:{house.one}"
    await house.redis.hset(f"{base}:child", "parentKey", "bull:x:1")
    await house.redis.sadd(f"{base}:parent:dependencies", "bull:x:1")
    await house.redis.hset(f"{base}:tick", "rjk", "every-day")
    await house.redis.set(f"{base}:held:lock", "somebody")
    await house.redis.lpush(f"{base}:wait", "no-hash")
    await house.redis.lpush(f"{base}:active", "running")

    _, out, _ = await house.migrate("--yes", "--json")

    outcomes = {(row["name"], row["state"], row["outcome"]) for row in json.loads(out)["jobs"]}
    assert outcomes == {
        ("plain", "waiting", "moved"),
        ("plain", "waiting", "it has a parent"),
        ("plain", "waiting", "it has children"),
        ("plain", "waiting", "it comes from a job scheduler"),
        ("plain", "waiting", "a worker has it"),
        ("", "waiting", "its hash is gone or has no name"),
        ("", "active", "a worker has it"),
    }
    assert await house.waiting(house.new) == ["free"]
    assert await house.waiting(house.one) == ["child", "parent", "tick", "held", "no-hash"]


async def test_deduplication_goes_along(house: House) -> None:
    """A job that keeps others out does so in the new queue, and no longer in the old one."""
    add, window = house.client.enqueue, "episode-1"
    first = await add("plain", queue=house.one, deduplication=window)

    await house.migrate("--yes")

    assert await add("plain", queue=house.new, deduplication=window) == first
    assert await add("plain", queue=house.one, deduplication=window) != first


async def test_a_waiting_worker_takes_them_at_once(
    house: House, make_settings: Callable[..., Settings]
) -> None:
    """The markers that workers wait for are set, for delayed jobs too."""
    handlers, ran = HandlerRegistry(), asyncio.Queue[str]()

    @handlers.audio("plain", "later", "urgent")
    async def run(job: Job[Data]) -> None:
        ran.put_nowait(job.id)

    settings = make_settings(queues=(house.new,), idle_min=300.0, idle_max=300.0)
    async with Worker(handlers, settings) as worker:
        await wait_until(lambda: worker.stats()["idle"]["until"], what="the worker's wait")
        await house.client.enqueue("later", queue=house.two, job_id="soon", delay=4.0)
        await house.client.enqueue("plain", queue=house.one, job_id="now")
        await house.migrate("--yes")

        async with asyncio.timeout(20):
            assert [await ran.get(), await ran.get()] == ["now", "soon"]


async def test_killed_again_and_again_it_loses_nothing_and_doubles_nothing(house: House) -> None:
    """Each job is in exactly one place after every kill, and all are moved in the end."""
    seed = random.randrange(1_000_000)
    chance, jobs, kills = random.Random(seed), 4_000, 0
    for start in range(0, jobs, 500):
        async with house.redis.pipeline(transaction=False) as pipe:
            for number in range(start, start + 500):
                fields: Any = {"name": "plain", "data": str(number), "opts": "{}"}
                pipe.hset(f"bull:{house.one}:{number + 1}", mapping=fields)
                pipe.lpush(f"bull:{house.one}:wait", number + 1)
            await pipe.execute()

    new: list[str] = []
    while len(new) < jobs:
        assert kills < 100, seed
        command = await house.commands.start(
            "migrate", "--from", house.one, "--to", house.new, "--yes"
        )
        ending = asyncio.create_task(command.ended())
        more = partial(_has_moved, house, len(new), or_ended=ending)
        await wait_until(more, what="the first job of this run")
        await asyncio.wait({ending}, timeout=chance.uniform(0.0, 0.1))
        if not ending.done():
            command.send(signal.SIGKILL)
            kills += 1
        await ending
        old, new = await house.waiting(house.one), await house.waiting(house.new)
        assert len(old) + len(new) == jobs, seed
        assert not set(old) & set(new), seed
        for queue, ids in ((house.one, old), (house.new, new)):
            names = [f"bull:{queue}:{job_id}" for job_id in ids]
            assert not names or await house.redis.exists(*names) == len(ids), seed

    assert new == [str(number) for number in range(1, jobs + 1)]
    assert kills > 0, seed


async def _has_moved(house: House, before: int, or_ended: asyncio.Task[Any]) -> bool:
    count: int = await house.redis.llen(f"bull:{house.new}:wait")
    return count > before or or_ended.done()


async def test_workers_at_both_ends_run_each_job_once(
    house: House, make_settings: Callable[..., Settings]
) -> None:
    """Jobs are taken from the old queue and from the new one while they are moved."""
    handlers, ran = HandlerRegistry(), list[int]()

    @handlers.audio("plain")
    async def run(job: Job[int]) -> None:
        ran.append(job.data)
        await asyncio.sleep(0)

    jobs = 1_500
    for number in range(jobs):
        await house.client.enqueue("plain", number, queue=house.one)
    async with (
        Worker(handlers, make_settings(queues=(house.one,), concurrency=2)),
        Worker(handlers, make_settings(queues=(house.new,), concurrency=2)),
    ):
        code, _, _ = await house.migrate("--yes")
        await wait_until(lambda: len(ran) >= jobs, timeout=60, what="all jobs")

    assert code == 0
    assert sorted(ran) == list(range(jobs))


async def test_a_full_server_moves_a_job_whole_or_not_at_all(
    start_server: Callable[..., ServerProcess],
) -> None:
    """The first write is one that is refused: nothing has changed then."""
    server = start_server()
    async with (
        Redis.from_url(server.url, decode_responses=True) as redis,
        JobClient(redis_url=server.url) as client,
    ):
        job_id = await client.enqueue("plain", queue="old")
        await redis.config_set("maxmemory", "1mb")
        connection = Connection(Address.parse(server.url), timeout=5.0, counter=CommandCounter())
        await connection.open()
        mover = Mover(connection, prefix="bull", sources=["old"], destination="new", execute=True)

        with pytest.raises(Exception, match="OOM"):
            _ = [result async for result in mover.results()]

        await redis.config_set("maxmemory", "0")
        assert (await client.status(job_id, "old")).state == "waiting"
        assert [key async for key in redis.scan_iter("bull:new:*")] == []
        assert [result.outcome async for result in mover.results()] == ["moved"]
        assert (await client.status(job_id, "new")).state == "waiting"
        await connection.close()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--to", "new"), "expected --from"),
        (("--from", "a", "--to", "a"), "not among those of --from"),
        (("--from", "a", "--to", "b:c"), "without colons"),
        (("--from", "a", "--to", "b", "--state", "done"), "expected one of wait"),
        (("--from", "a"), "--to"),
    ],
)
async def test_wrong_flags_are_refused_by_name(
    house: House, flags: tuple[str, ...], complaint: str
) -> None:
    """Exit code 2, and a line that says what was expected."""
    code, _, err = await house.commands.run("migrate", *flags, CONVOLAB_QUEUES="")

    assert code == 2
    assert complaint in err


async def test_names_without_a_handler_are_warned_of(house: House, tmp_path: Path) -> None:
    """With --app, a look says which jobs would fail in the new queue."""
    (tmp_path / "jobs.py").write_text(
        "from convolab_worker import HandlerRegistry\n"
        "handlers = HandlerRegistry()\n"
        "handlers.audio('plain')(lambda job: None)\n"
    )
    await _fill(house)

    code, _, err = await house.migrate("--app", "jobs:handlers")

    assert code == 0
    assert "'urgent'" in err
    assert "'later'" in err
    assert "'plain'" not in err


async def test_names_that_mean_another_handler_are_warned_of(house: House, tmp_path: Path) -> None:
    """A name can mean different things on different queues: the new one has one meaning."""
    (tmp_path / "jobs.py").write_text(
        "from convolab_worker import HandlerRegistry\n"
        "handlers = HandlerRegistry()\n"
        "@handlers.audio('plain', 'urgent', 'later')\n"
        "def everywhere(job): pass\n"
        f"@handlers.image('urgent', queue={house.one!r})\n"
        "def there(job): pass\n"
    )
    await _fill(house)

    code, _, err = await house.migrate("--app", "jobs:handlers")

    assert code == 0
    (warning,) = [line for line in err.splitlines() if "means" in line]
    assert warning.startswith("'urgent' means jobs.there:")
    assert f"on {house.one}, and jobs.everywhere:" in warning
