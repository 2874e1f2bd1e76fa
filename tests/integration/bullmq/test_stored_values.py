"""Whatever is stored in a queue's keys, the backend reads it as BullMQ's scripts do, or skips it.

Node's ``setGlobalConcurrency(Infinity)`` stores ``Infinity``; other programs store anything.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker.bullmq import job_lock
from convolab_worker.bullmq.jobs.child_jobs import ChildJob
from convolab_worker.bullmq.jobs.outcome import Returned
from convolab_worker.bullmq.protocol.records import ActiveJob, Marker, Restrictions
from convolab_worker.bullmq.schedulers import advance
from convolab_worker.bullmq.script_runner import now_ms
from convolab_worker.bullmq.worker_side import flows, reconcile
from convolab_worker.connection.upkeep.reconnect import Reconnection
from convolab_worker.errors import RedisRefused
from tests.integration.bullmq.conftest import BackendOfWorker

pytestmark = pytest.mark.asyncio
SOON = 1_700_000_000_000 * 0x1000


@pytest.mark.parametrize(
    ("stored", "most"),
    [
        ("1", 1),
        ("3", 3),
        ("2.5", 3),
        ("1e0", 1),
        (" 2 ", 2),
        ("0", 0),
        ("-1", 0),
        ("-0.5", 0),
        ("-Infinity", 0),
        ("Infinity", None),
        ("inf", None),
        ("nan", None),
        ("1e999", None),
        ("9007199254740993", None),
    ],
)
async def test_a_queues_concurrency_is_what_the_scripts_make_of_it(
    ours: BackendOfWorker, stored: str, most: int | None
) -> None:
    """As many jobs become active as the backend says, and all of them where it says any number."""
    await ours.redis.hset(ours.keys["meta"], "concurrency", stored)
    for number in range(5):
        await ours.add(f"job-{number}")

    restrictions = await ours.backend.restrictions_of(ours.queue)
    fetched = [await ours.backend.fetch(ours.queue, ours.backend.new_token()) for _ in range(5)]

    active = sum(found.job is not None for found in fetched)
    assert min(5 if restrictions.concurrency is None else restrictions.concurrency, 5) == active
    assert most is None or restrictions.concurrency == most


@pytest.mark.parametrize("stored", ["abc", "", "[1]", "1,5", "\ufffd"])
async def test_a_concurrency_that_is_no_number_stops_the_scripts_and_not_the_reader(
    ours: BackendOfWorker, stored: str
) -> None:
    """BullMQ's scripts end with an error, as for Node's workers; the backend reads no limit."""
    await ours.redis.hset(ours.keys["meta"], "concurrency", stored)

    assert await ours.backend.restrictions_of(ours.queue) == Restrictions(
        paused=False, concurrency=None
    )
    with pytest.raises(RedisRefused, match="attempt to compare"):
        await ours.backend.fetch(ours.queue, "w:1")


@pytest.mark.parametrize(
    ("score", "due_at"),
    [
        (str(SOON), 1_700_000_000.0),
        (str(SOON + 17), pytest.approx(1_700_000_000.0, abs=0.001)),
        ("-5", None),
        ("-inf", None),
        ("+inf", None),
        ("0", None),
        ("1e300", None),
    ],
)
async def test_when_a_delayed_job_is_due(
    ours: BackendOfWorker, score: str, due_at: float | None
) -> None:
    """What never comes is not a time; a fetch says the same as a look at the first score."""
    await ours.redis.zadd(ours.keys["delayed"], {"far": score})
    await ours.redis.hset(ours.keys["meta"], "paused", "1")  # or what is due would be promoted

    assert await ours.backend.next_due(ours.queue) == due_at
    await ours.redis.hdel(ours.keys["meta"], "paused")
    if due_at is None:
        found = await ours.backend.fetch(ours.queue, "w:1")
        assert (found.due_at, found.limited_for) == (None, 0.0)


async def test_a_score_below_0_does_not_hide_the_next_due_time(ours: BackendOfWorker) -> None:
    """BullMQ's scripts promote no such job: it would stand first for ever."""
    await ours.redis.zadd(ours.keys["delayed"], {"never": -1, "soon": SOON})

    assert await ours.backend.next_due(ours.queue) == 1_700_000_000.0
    assert (await ours.backend.count_remaining())[1] == 1_700_000_000.0


@pytest.mark.parametrize(
    ("member", "score", "due_at"),
    [
        ("0", "0", None),
        ("1", "1700000000000", 1_700_000_000.0),
        ("1", "-1", 0.0),
        ("1", "-inf", 0.0),
        ("1", "+inf", 0.0),
        ("1", "1e300", 0.0),
        ("1", "0", 0.0),
        ("2", "5", None),
        ("", "5", None),
        (b"\xff", "5", None),
    ],
)
async def test_a_marker_of_any_kind_is_a_reason_to_look(
    ours: BackendOfWorker, member: str | bytes, score: str, due_at: float | None
) -> None:
    """At once, unless it has a time that comes."""
    await ours.redis.zadd(ours.keys["marker"], {member: score})

    assert await ours.backend.listen([ours.queue], 5.0) == Marker(ours.queue, due_at)


@pytest.mark.parametrize("job_id", ["17", "käse", b"\xff"])
async def test_any_id_can_be_in_the_inbox(ours: BackendOfWorker, job_id: str | bytes) -> None:
    """It is told as it was stored, UTF-8 or not."""
    inbox = job_lock.inbox(ours.keys, "a" * 16)
    await ours.redis.zadd(inbox, {job_id: 0})

    marker = await ours.backend.listen([ours.queue], 5.0)

    assert marker is not None
    assert marker.cancelled == (job_id if isinstance(job_id, str) else "\udcff")


@pytest.mark.parametrize(
    "lock", ["theirs", "cancel:", "cancel:no json", "cancel:[]", "cancel:{}", b"cancel:\xff", "7"]
)
async def test_any_lock_can_be_read(ours: BackendOfWorker, lock: str | bytes) -> None:
    """It is somebody else's, whoever wrote it."""
    await ours.add()
    job = await ours.fetched()
    await ours.redis.set(ours.keys.lock("1"), lock)

    assert not await reconcile.holds(ours.backend, job)
    assert await reconcile.find_by_token(ours.backend, ours.queue, job.token) is None
    assert await job_lock.take_back(ours.backend.connection, ours.keys, job, 60.0) is None


@pytest.mark.parametrize("fail", ["5", "null", '{"a":1}', "true"])
async def test_a_request_without_a_reason_returns_the_job(ours: BackendOfWorker, fail: str) -> None:
    """A reason that is not text counts as none."""
    await ours.add()
    job = await ours.fetched()
    await ours.redis.set(ours.keys.lock("1"), f'cancel:{{"token":"{job.token}","fail":{fail}}}')

    taken = await job_lock.take_back(ours.backend.connection, ours.keys, job, 60.0)

    assert taken is not None
    assert taken.asked == Returned()


@pytest.mark.parametrize(
    "fields",
    [
        {"ats": "x", "timestamp": "1e999", "processedOn": "nan", "delay": "-"},
        {"opts": "[]", "data": "", "name": ""},
        {"opts": '{"attempts":1e999,"priority":"x","delay":[],"keepLogs":1e999,"removeOnFail":{}}'},
        {"opts": '{"repeat":{"every":"x"}}', "rjk": "daily"},
        {"stc": "many", "defa": b"\xff", "stacktrace": "{"},
    ],
)
async def test_any_hash_can_be_fetched_and_failed(
    ours: BackendOfWorker, fields: dict[str, Any]
) -> None:
    """Its problem, if it has one, is for the worker to tell."""
    await ours.add()
    ats = fields.pop("ats", None)
    await ours.redis.hset(ours.keys.job("1"), mapping=fields)
    job = await ours.fetched()
    if ats is not None:
        await ours.redis.hset(ours.keys.job("1"), "ats", ats)
        found = await reconcile.find_by_token(ours.backend, ours.queue, job.token)
        assert found is not None
        assert found.starts == 0
    await ours.run(ours.calls.report(job, "1", ["a row"]))

    call = ours.calls.finish(job, target="failed", value="no", now_ms=1, fetch_next=False)
    await ours.backend.transition(job, call)

    assert await ours.redis.zscore(ours.keys["failed"], "1") is not None


REPEATS: list[Any] = [
    {"every": 1000, "count": 1e999},
    {"every": 1000, "limit": "x"},
    {"pattern": 5},
    {"pattern": "* * * * *", "tz": "/"},
    {"pattern": "* * * * *", "tz": 5},
    {"pattern": "* * * * *", "startDate": 1e300},
    {"pattern": "0 0 31 2 *"},
    {"every": 1000, "endDate": {}},
    {"every": 1000, "offset": "x"},
]


@pytest.mark.parametrize("repeat", REPEATS, ids=str)
async def test_a_repetition_that_can_not_be_read_ends(ours: BackendOfWorker, repeat: Any) -> None:
    """The job itself runs."""
    reconnection = Reconnection(ours.backend.connection, where="here")
    job = repeated(ours, repeat)

    async with asyncio.timeout(10):
        await advance(ours.backend, reconnection, job)

    assert await ours.redis.zcard(ours.keys["delayed"]) == 0


async def test_a_repetition_that_redis_never_takes_ends(
    ours: BackendOfWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script stops at the scheduler's stored data each time, whatever the server's state."""
    monkeypatch.setattr(
        "convolab_worker.connection.upkeep.reconnect.refusal_delay", lambda *_, **__: 0.0
    )
    reconnection = Reconnection(ours.backend.connection, where="here")
    await ours.redis.zadd(ours.keys["repeat"], {"daily": "inf"})  # which Lua can't write as JSON
    job = repeated(ours, {"every": 1000})
    job.id = "repeat:daily:inf"

    with capture_logs() as logs:
        async with asyncio.timeout(10):
            await advance(ours.backend, reconnection, job)

    assert [told["event"] for told in logs if told["log_level"] == "error"] == [
        "redis.refused",
        "scheduler.not_advanced",
    ]


@pytest.mark.parametrize(
    ("repeat", "event", "told"),
    [
        ({"pattern": "@midnight"}, "scheduler.not_advanced", "no month and of no day"),
        ({"pattern": "0 9 * * *", "tz": "Mars"}, "scheduler.not_advanced", "not a time zone"),
        ({"pattern": "0 0 31 4,6 *"}, "scheduler.not_advanced", "never due"),
        ({"pattern": 5}, "scheduler.not_advanced", "is not text"),
        ({"pattern": "* * * * *", "every": 1000}, "scheduler.not_advanced", "either"),
        ({}, "scheduler.not_advanced", "no pattern and no every"),
        ("daily", "scheduler.not_advanced", "no options of its schedule"),
        ({"every": 1000, "limit": 1, "count": 1}, "scheduler.ended", "its limit"),
        ({"pattern": "* * * * *", "endDate": 1_700_000_000_000}, "scheduler.ended", "its end"),
    ],
    ids=str,
)
async def test_no_schedule_ends_in_silence(
    ours: BackendOfWorker, repeat: Any, event: str, told: str
) -> None:
    """One that can't go on is an error; one that ends as it was asked to is told."""
    reconnection = Reconnection(ours.backend.connection, where="here")

    with capture_logs() as logs:
        await advance(ours.backend, reconnection, repeated(ours, repeat))

    assert [line["event"] for line in logs] == [event]
    assert told in str(logs[0])
    assert (logs[0]["scheduler"], logs[0]["queue"]) == ("daily", ours.queue)


@pytest.mark.parametrize("key", ["work:id::UTC:* * * * *", "work::::5000", "n:i:1800000000000::7"])
async def test_a_repeatable_job_that_bullmq_6_does_not_repeat_is_told(
    ours: BackendOfWorker, key: str
) -> None:
    """It was set before BullMQ 5.16: its next iteration is nobody's."""
    reconnection = Reconnection(ours.backend.connection, where="here")
    await ours.redis.zadd(ours.keys["repeat"], {key: now_ms()})
    job = repeated(ours, {"every": 5000})
    job.scheduler_id = key

    with capture_logs() as logs:
        await advance(ours.backend, reconnection, job)

    assert [(line["event"], line["scheduler"]) for line in logs] == [
        ("scheduler.not_advanced", key)
    ]
    assert "job scheduler" in logs[0]["error"]
    assert await ours.redis.zcard(ours.keys["delayed"]) == 0


def repeated(ours: BackendOfWorker, repeat: Any) -> ActiveJob:
    """A job of a scheduler with those options."""
    return ActiveJob(
        queue=ours.queue, id="1", token="w:1", name="n", data=b"{}", opts={"repeat": repeat},
        scheduler_id="daily",
    )  # fmt: skip


async def test_results_of_children_that_are_no_json_do_not_stop_the_next_asking(
    ours: BackendOfWorker,
) -> None:
    """Which of them have ended is told by their keys."""
    await ours.add()
    job = await ours.fetched()
    job.starts = 2
    ended = ours.keys.job(ours.child_id(job, "a"))
    await ours.redis.hset(f"{ours.keys.job('1')}:processed", ended, "no json")

    left = await flows.left_to_add(ours.backend, job, [ChildJob("a"), ChildJob("b")])

    assert [child.result_key for child in left] == ["b"]
