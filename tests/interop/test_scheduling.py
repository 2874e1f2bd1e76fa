"""Schedules of JobClient and of Node's queue, compared key by key; and each with the other's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import Exponential, JobClient, Settings, Worker
from convolab_worker.errors import ConvolabWorkerError
from tests.interop.app import Behaviour
from tests.interop.pair import DATA, Pair
from tests.interop.session import NodeSession
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

SOON = 10.0
MONTH = 30 * 86_400  # so long that no test meets the moment at which its offset begins anew
LATER = datetime(2099, 1, 1, tzinfo=UTC)
LATER_MS = round(LATER.timestamp() * 1000)

SAME: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"every": MONTH}, {"every": MONTH * 1000}, {}),
    ({"every": MONTH, "limit": 3}, {"every": MONTH * 1000, "limit": 3}, {}),
    (
        {"every": MONTH, "start": LATER, "until": LATER.timestamp() + 5 * MONTH},
        {
            "every": MONTH * 1000,
            "startDate": LATER_MS,
            "endDate": LATER_MS + 5 * MONTH * 1000,
        },
        {},
    ),
    ({"cron": "0 6 1 1 *"}, {"pattern": "0 6 1 1 *"}, {}),
    (
        {"cron": "0 0 6 1 1 *", "tz": "America/New_York", "limit": 9},
        {"pattern": "0 0 6 1 1 *", "tz": "America/New_York", "limit": 9},
        {},
    ),
    (
        {"cron": "0 9 * * 1", "tz": "Europe/Berlin", "start": LATER},
        {"pattern": "0 9 * * 1", "tz": "Europe/Berlin", "startDate": LATER_MS},
        {},
    ),
    (
        {"cron": "0 9 * * 1", "immediately": True},
        {"pattern": "0 9 * * 1", "immediately": True},
        {},
    ),
    (
        {
            "every": MONTH, "attempts": 3, "backoff": Exponential(2), "priority": 4,
            "keep_completed": "1h", "keep_failed": 7, "keep_logs": 5, "stack_trace_limit": 2,
        },
        {"every": MONTH * 1000},
        {
            "attempts": 3, "backoff": {"type": "exponential", "delay": 2000, "jitter": 0.5},
            "priority": 4, "removeOnComplete": {"age": 3600}, "removeOnFail": 7, "keepLogs": 5,
            "stackTraceLimit": 2,
        },
    ),
]  # fmt: skip


@pytest_asyncio.fixture
async def pair(session: NodeSession, server_url: str, redis: Redis) -> AsyncIterator[Pair]:
    """Node's queue and ours."""
    async with Pair(session, server_url, redis) as pair:
        yield pair


def without_times(text: str | None) -> str:
    """An id of a scheduler's job without its moment."""
    return re.sub(r"\d{13}", "<time>", text or "")


@pytest.mark.parametrize(("ours", "repeat", "opts"), SAME, ids=str)
async def test_a_schedule_is_key_by_key_what_nodes_queue_writes(
    pair: Pair, ours: dict[str, Any], repeat: dict[str, Any], opts: dict[str, Any]
) -> None:
    """The schedule, its next job and the events; written again, and with other data, too."""
    template = {"name": "work", "data": DATA, "opts": opts}

    for data in (DATA, DATA, {"text": "new"}):
        template["data"] = data
        node = await pair.ask("upsert", scheduler="nightly", repeat=repeat, template=template)
        mine = await pair.client.schedule("nightly", "work", data, **ours)

        assert without_times(mine) == without_times(node)
        assert await pair.gaps() == []


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"every": MONTH}, {"every": MONTH * 2}),
        ({"every": MONTH}, {"cron": "0 6 1 1 *", "tz": "Asia/Tokyo"}),
        ({"cron": "0 6 1 1 *", "limit": 3}, {"cron": "0 7 1 1 *"}),
        ({"cron": "0 6 1 1 *"}, {"every": MONTH, "limit": 2}),
    ],
    ids=str,
)
async def test_either_changes_what_the_other_has_written(
    pair: Pair, first: dict[str, Any], then: dict[str, Any]
) -> None:
    """What is left is what Node alone would have left."""
    node, ours = pair.prefixes
    for prefix in (node, ours):
        await pair.upsert_by_node(prefix, first)

    await pair.upsert_by_node(node, then)
    await pair.client.schedule("nightly", "work", DATA, **then)
    assert await pair.gaps() == []

    await pair.upsert_by_node(node, first)
    await pair.upsert_by_node(ours, first)
    assert await pair.gaps() == []


async def test_node_lists_what_the_client_has_written_and_the_client_what_node_has(
    pair: Pair,
) -> None:
    """By id, with all that was said of it."""
    _, ours = pair.prefixes
    await pair.client.schedule(
        "ours", "work", DATA, cron="0 6 1 1 *", tz="Asia/Tokyo", limit=3, until=LATER, attempts=2
    )
    template = {"name": "work", "opts": {"failParentOnFailure": True}}
    await pair.ask(
        "upsert",
        prefix=ours,
        scheduler="node's",
        repeat={"every": 60_000, "startDate": LATER_MS},
        template=template,
    )

    by_node = {each["key"]: each for each in await pair.ask("schedulers", prefix=ours)}
    by_us = {each.id: each for each in await pair.client.schedules()}

    assert {key: value for key, value in by_node["ours"].items() if key != "next"} == {
        "key": "ours",
        "name": "work",
        "iterationCount": 1,
        "offset": 0,  # of a pattern that Node has written, too
        "limit": 3,
        "endDate": LATER_MS,
        "tz": "Asia/Tokyo",
        "pattern": "0 6 1 1 *",
        "template": {"data": DATA, "opts": {"attempts": 2}},
    }
    assert [by_us[key].next_at * 1000 for key in by_node] == [
        each["next"] for each in by_node.values()
    ]
    theirs = by_us["node's"]
    assert (theirs.every, theirs.start, theirs.next_at) == (60.0, *[LATER_MS / 1000] * 2)
    assert (theirs.name, theirs.data, theirs.count) == ("work", None, 1)
    assert theirs.options == {"failParentOnFailure": True}


async def test_either_removes_what_the_other_has_written(pair: Pair) -> None:
    """With the next job; what was not there is said not to be."""
    node, ours = pair.prefixes
    await pair.client.schedule("one", "work", cron="0 6 1 1 *")
    await pair.upsert_by_node(ours, {"cron": "0 6 1 1 *"})
    await pair.upsert_by_node(node, {"cron": "0 6 1 1 *"}, scheduler="one")
    await pair.upsert_by_node(node, {"cron": "0 6 1 1 *"})

    removed = await pair.ask("unschedule", prefix=ours, scheduler="one")
    assert (removed, await pair.client.unschedule("nightly")) == (True, True)
    for scheduler in ("one", "nightly"):
        await pair.ask("unschedule", scheduler=scheduler)

    assert await pair.gaps() == []
    assert await pair.client.unschedule("nightly") is False
    assert await pair.client.schedules() == []


async def test_a_moment_whose_job_has_ended_is_refused_as_by_node(pair: Pair) -> None:
    """Nothing is written then: the job of that id would never run."""
    node, ours = pair.prefixes
    await pair.client.schedule("nightly", "work", cron="0 6 1 1 *")
    (job_id,) = await pair.redis.zrange(f"{ours}:work:delayed", 0, -1)
    await pair.client.unschedule("nightly")
    for prefix in (node, ours):
        await pair.redis.hset(f"{prefix}:work:{job_id}", "name", "work")

    with pytest.raises(ConvolabWorkerError, match="a job of its next moment is there already"):
        await pair.client.schedule("nightly", "work", cron="0 6 1 1 *")
    with pytest.raises(Exception, match="job ID already exists"):
        await pair.upsert_by_node(node, {"cron": "0 6 1 1 *"})

    assert await pair.client.schedules() == []


@pytest.mark.parametrize("whose", ["node", "ours"])
async def test_either_worker_runs_what_the_client_has_scheduled(
    session: NodeSession, pair: Pair, server_url: str, whose: str
) -> None:
    """One job after the other, to the last."""
    _, prefix = pair.prefixes
    settings = Settings(redis_url=server_url, queues=("work",), prefix=prefix, idle_min=0.1)
    handlers = Behaviour(server_url=server_url, prefix=prefix).registry()

    await pair.client.schedule("tick", "work", DATA, every=0.1, limit=3)
    if whose == "node":
        await session.ask("work", scenario="an open queue", prefix=prefix)
        await all_completed(pair.client, 3)
        await session.ask("rest", prefix=prefix)
    else:
        async with Worker(handlers, settings):
            await all_completed(pair.client, 3)

    assert (await pair.client.counts())["work"]["delayed"] == 0


async def all_completed(client: JobClient, count: int) -> None:
    """Wait until so many jobs of a schedule, which are added one by one, have completed."""

    async def are_completed() -> bool:
        return (await client.counts())["work"]["completed"] == count

    await wait_until(are_completed, timeout=SOON)
