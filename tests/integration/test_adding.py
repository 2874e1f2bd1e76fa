"""Adding many jobs at once: in order, each once, whatever becomes of a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from convolab_worker import JobClient, Settings
from convolab_worker.bullmq import producer
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.client.adding import enqueue
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import ConfigurationError, InvalidResult, RedisUnavailable
from tests.support.proxy import TcpProxy

pytestmark = pytest.mark.asyncio
MANY = 1201  # more than two pipelines


def numbered(count: int) -> list[dict[str, Any]]:
    """Jobs with ids of their own."""
    return [{"name": "n", "data": {"number": at}, "job_id": f"job-{at}"} for at in range(count)]


async def waiting(redis: Redis, queue: str) -> list[str]:
    """The ids of the jobs that wait, the first to be taken first."""
    any_redis: Any = redis
    ids: list[str] = await any_redis.lrange(f"bull:{queue}:wait", 0, -1)
    return ids[::-1]


async def test_many_jobs_wait_in_their_order(
    client: JobClient, redis: Redis, queue_name: str
) -> None:
    """The ids that are returned are those of the jobs, in the order in which they were given."""
    ids = await client.enqueue_many({"name": "n", "data": {"number": at}} for at in range(MANY))

    assert len(set(ids)) == MANY
    assert await waiting(redis, queue_name) == ids
    assert (await client.status(ids[-1])).data == {"number": MANY - 1}


async def test_many_jobs_leave_in_few_round_trips(client: JobClient) -> None:
    """One command a job, and nothing beside it."""
    before = client.counter.client_sent
    await client.enqueue_many(numbered(MANY))

    assert client.counter.client_sent - before <= MANY + 2  # connecting, and the script's text


async def test_each_job_has_its_own_options(client: JobClient, make_settings: Any) -> None:
    """Every keyword of ``enqueue`` is one of a job's."""
    other = f"{client.settings.queues[0]}-other"
    ids = await client.enqueue_many(
        [
            {"name": "plain"},
            {"name": "delayed", "delay": 60},
            {"name": "first", "priority": 1},
            {"name": "elsewhere", "queue": other},
            {"name": "once", "deduplication": "same"},
            {"name": "again", "deduplication": "same"},
        ]
    )

    async with JobClient(make_settings(queues=(*client.settings.queues, other))) as both:
        states = [((await both.status(i)).name, (await both.status(i)).state) for i in ids]
        queue = (await both.status(ids[3])).queue
    assert states == [
        ("plain", "waiting"),
        ("delayed", "delayed"),
        ("first", "prioritized"),
        ("elsewhere", "waiting"),
        ("once", "waiting"),
        ("once", "waiting"),
    ]
    assert queue == other


async def test_adding_again_adds_nothing(client: JobClient, redis: Redis, queue_name: str) -> None:
    """Jobs with ids of their own may be added again after an error."""
    await client.enqueue_many(numbered(3))
    ids = await client.enqueue_many(numbered(5))

    assert await waiting(redis, queue_name) == ids == [f"job-{at}" for at in range(5)]
    assert [job_id.existed for job_id in ids] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("options", "state"),
    [({}, "waiting"), ({"delay": 60}, "delayed"), ({"priority": 1}, "prioritized")],
)
async def test_the_id_of_a_job_that_was_there_says_so(
    client: JobClient, options: dict[str, Any], state: str
) -> None:
    """And in which state it is; what is new, or has an id that no job had, says the opposite."""
    first = await client.enqueue("n", job_id="known", **options)
    again = await client.enqueue("n", job_id="known", **options)
    other = await client.enqueue("n")

    assert (first, again) == ("known", "known")
    assert [(each.existed, each.state) for each in (first, again, other)] == [
        (False, None), (True, state), (False, None),
    ]  # fmt: skip
    kept = await client.enqueue("n", deduplication="one")
    dropped = await client.enqueue("n", deduplication="one")
    assert (dropped, dropped.existed, dropped.state) == (kept, True, "waiting")


async def test_a_client_opens_while_redis_is_away(make_settings: Callable[..., Settings]) -> None:
    """An API starts without it; a call says what is wrong."""
    async with JobClient(make_settings(redis_url="redis://127.0.0.1:1")) as client:
        with pytest.raises(
            RedisUnavailable, match="can't be reached, nothing listens there: start"
        ):
            await client.enqueue("n")


async def test_a_lost_reply_adds_no_job_twice(
    make_settings: Callable[..., Settings],
    redis: Redis,
    server_url: str,
    queue_name: str,
) -> None:
    """The pipeline whose reply was lost is sent again; the jobs' ids make that harmless."""
    with TcpProxy(int(server_url.rpartition(":")[2].partition("/")[0])) as proxy:
        settings = make_settings(redis_url=proxy.url, command_timeout=1.0)
        async with JobClient(settings) as client:
            await client.enqueue_many([{"name": "n"}])  # the script is known from here on
            swallow = proxy.swallow_replies(matching=b"job-", cut=True)
            jobs = [{**job, "data": {"text": "x" * 100}} for job in numbered(600)]
            ids = await asyncio.wait_for(client.enqueue_many(jobs), 20)

    assert swallow.done.is_set()
    assert (await waiting(redis, queue_name))[1:] == ids == [f"job-{at}" for at in range(600)]
    assert not any(job_id.existed for job_id in ids)  # what was there was added by this very call


async def test_a_server_that_is_away_says_so(make_settings: Callable[..., Settings]) -> None:
    """The error is the same as that of one job."""
    client = JobClient(make_settings(redis_url="redis://127.0.0.1:1"))

    with pytest.raises(RedisUnavailable, match="can't be reached"):
        await client.enqueue_many(numbered(2))


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"name": "n", "prio": 1}, ConfigurationError, "job 1: unknown 'prio': expected"),
        ({"data": {}}, ConfigurationError, "job 1: no 'name': expected a mapping"),
        ({"name": "n", "delay": -1}, ConfigurationError, "job 1: .*delay=-1"),
        ({"name": "n", "job_id": "17"}, ConfigurationError, "job 1: job_id='17'"),
        ({"name": "n", "queue": "a:b"}, ConfigurationError, "job 1: .*a:b"),
        ({"name": "n", "data": {"s": {1}}}, InvalidResult, "job 1: data.s: expected a list"),
        (17, ConfigurationError, "job 1: 'int' object is not iterable"),
    ],
    ids=["unknown", "no-name", "delay", "id", "queue", "data", "no-mapping"],
)
async def test_a_job_that_cant_be_is_named_and_none_is_added(
    client: JobClient, wrong: Any, error: type[Exception], text: str
) -> None:
    """All jobs are checked before the first is sent."""
    sent = client.counter.sent[Purpose.ENQUEUE]
    with pytest.raises(error, match=text):
        await client.enqueue_many([{"name": "n"}, wrong])

    assert client.counter.sent[Purpose.ENQUEUE] == sent


async def test_no_jobs_are_no_commands(client: JobClient) -> None:
    """An empty list is fine."""
    assert await client.enqueue_many([]) == []
    assert client.counter.sent[Purpose.ENQUEUE] == 0


async def test_large_jobs_go_in_small_pipelines(client: JobClient) -> None:
    """So that neither end has to hold hundreds of megabytes at once."""
    jobs: list[dict[str, Any]] = [
        {"name": "n", "data": "x" * 3_000_000, "job_id": f"job-{at}"} for at in range(3)
    ]
    ids = await client.enqueue_many(jobs)

    assert ids == ["job-0", "job-1", "job-2"]
    new = await enqueue.additions(
        jobs,
        lambda name, data, options: enqueue.addition(
            name, data, options, lambda _: QueueKeys("bull", "q")
        ),
    )
    batches = producer.pipelines(new, lambda new: len(new.job.data))
    assert [len(batch) for batch in batches] == [1, 1, 1]
