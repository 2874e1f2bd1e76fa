"""What became of a call whose reply was lost, for each way to move a job on."""

from __future__ import annotations

from typing import Any

import pytest

from convolab_worker.bullmq import producer
from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.bullmq.script_runner import now_ms
from convolab_worker.bullmq.worker_side.reconcile import Fate, fate_of, find_by_token
from convolab_worker.connection.commands.usage import Purpose
from tests.integration.bullmq.conftest import BackendOfWorker
from tests.support.commandstats import counted_commands

pytestmark = pytest.mark.asyncio
FIELDS = {"failedReason": "no", "stacktrace": "[]"}


def complete(ours: BackendOfWorker, job: ActiveJob, *, fetch_next: bool = False) -> Call:
    """The call that completes the job."""
    call: Call = ours.calls.finish(
        job, target="completed", value="1", now_ms=now_ms(), fetch_next=fetch_next
    )
    return call


def fail(ours: BackendOfWorker, job: ActiveJob) -> Call:
    """The call that fails the job for good."""
    call: Call = ours.calls.finish(
        job, target="failed", value="no", now_ms=now_ms(), fetch_next=False, fields=FIELDS
    )
    return call


def retry_later(ours: BackendOfWorker, job: ActiveJob) -> Call:
    """The call that delays the job's next attempt."""
    call: Call = ours.calls.delay(
        job, delay_ms=1, now_ms=now_ms(), skip_attempt=False, fetch_next=False, fields=FIELDS
    )
    return call


def postpone(ours: BackendOfWorker, job: ActiveJob, *, fetch_next: bool = False) -> Call:
    """The call that delays the job without using up an attempt."""
    call: Call = ours.calls.delay(
        job, delay_ms=0, now_ms=now_ms(), skip_attempt=True, fetch_next=fetch_next
    )
    return call


def retry_at_once(ours: BackendOfWorker, job: ActiveJob) -> Call:
    """The call that gives the job its next attempt."""
    call: Call = ours.calls.retry(job, now_ms=now_ms(), fields=FIELDS)
    return call


def return_to_queue(ours: BackendOfWorker, job: ActiveJob) -> Call:
    """The call that returns the job."""
    call: Call = ours.calls.return_to_queue(job)
    return call


def await_children(ours: BackendOfWorker, job: ActiveJob) -> Call:
    """The call that parks a parent."""
    call: Call = ours.calls.await_children(job, now_ms=now_ms())
    return call


def complete_with_steps(ours: BackendOfWorker, job: ActiveJob) -> Call:
    """The call that completes a job which keeps results of steps."""
    job.steps["voice"] = b"1"
    return complete(ours, job)


ALL = [
    complete, complete_with_steps, fail, retry_later, postpone, retry_at_once, return_to_queue,
    await_children,
]  # fmt: skip
GOES_ON = [retry_later, postpone, retry_at_once, return_to_queue, await_children]


async def fetched(ours: BackendOfWorker, make: Any = None) -> ActiveJob:
    """A job that this worker has, with a child where it is to wait for one."""
    await ours.add("1", attempts=5)
    job = await ours.fetched()
    if make is await_children:
        await add_child(ours, job)
    return job


async def add_child(ours: BackendOfWorker, parent: ActiveJob) -> None:
    """Add a child of the job to its own queue."""
    queue = ours.keys.base.removesuffix(":")
    child = NewJob(id="1.child", name="part", data="{}", parent=parent.id, parent_queue=queue)
    await producer.add(ours.backend.connection, ours.keys, child)


@pytest.mark.parametrize("make", ALL)
async def test_a_call_that_was_executed_is_written(ours: BackendOfWorker, make: Any) -> None:
    """The reply alone is missing."""
    job = await fetched(ours, make)
    call = make(ours, job)

    await ours.run(call)

    assert await fate_of(ours.backend, job, call) is Fate.WRITTEN


@pytest.mark.parametrize("make", ALL)
async def test_a_call_that_was_not_executed_is_not_written(
    ours: BackendOfWorker, make: Any
) -> None:
    """The job is as it was, and still locked."""
    job = await fetched(ours, make)

    assert await fate_of(ours.backend, job, make(ours, job)) is Fate.NOT_WRITTEN


@pytest.mark.parametrize("make", ALL)
async def test_a_call_is_not_written_while_nobody_has_the_lock(
    ours: BackendOfWorker, make: Any
) -> None:
    """The lock ran out while Redis was away: it can be reclaimed."""
    job = await fetched(ours, make)
    await ours.redis.delete(ours.keys.lock("1"))

    assert await fate_of(ours.backend, job, make(ours, job)) is Fate.NOT_WRITTEN


@pytest.mark.parametrize("make", ALL)
async def test_a_request_to_cancel_in_the_lock_leaves_it_ours(
    ours: BackendOfWorker, make: Any
) -> None:
    """The next try meets the request."""
    job = await fetched(ours, make)
    request = f'cancel:{{"token":"{job.token}","fail":""}}'
    await ours.redis.set(ours.keys.lock("1"), request)

    assert await fate_of(ours.backend, job, make(ours, job)) is Fate.NOT_WRITTEN


@pytest.mark.parametrize("make", GOES_ON)
async def test_a_call_is_written_though_another_worker_has_the_job_since(
    ours: BackendOfWorker, theirs: BackendOfWorker, make: Any
) -> None:
    """Whether it was promoted, retried, returned or its children are done: it runs there."""
    job = await fetched(ours, make)
    call = make(ours, job)
    await ours.run(call)
    if make is await_children:
        child = await theirs.fetched()
        await theirs.run(complete(theirs, child))

    again = await eventually_fetched(theirs)

    assert again.id == job.id
    assert await fate_of(ours.backend, job, call) is Fate.WRITTEN


async def eventually_fetched(worker: BackendOfWorker) -> ActiveJob:
    """The next job, once it is due."""
    while True:
        found = await worker.backend.fetch(worker.queue, worker.backend.new_token())
        if found.job is not None:
            return found.job


@pytest.mark.parametrize("make", GOES_ON)
async def test_a_call_is_written_though_another_worker_has_ended_the_job_since(
    ours: BackendOfWorker, theirs: BackendOfWorker, make: Any
) -> None:
    """Its fields are another run's by now."""
    job = await fetched(ours, make)
    call = make(ours, job)
    await ours.run(call)
    if make is await_children:
        await theirs.run(complete(theirs, await theirs.fetched()))

    await theirs.run(complete(theirs, await eventually_fetched(theirs)))

    assert await fate_of(ours.backend, job, call) is Fate.WRITTEN


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("then", ["waits", "runs", "has ended"])
async def test_a_job_that_was_recovered_as_stalled_is_taken(
    ours: BackendOfWorker, theirs: BackendOfWorker, make: Any, then: str
) -> None:
    """The lock ran out, and another worker put the job back into its queue."""
    job = await fetched(ours, make)
    await ours.recover_without_lock(job)
    if then != "waits":
        again = await theirs.fetched()
        if then == "has ended":
            await ours.redis.delete(ours.keys.job("1") + ":dependencies")
            await theirs.run(complete(theirs, again))

    assert await fate_of(ours.backend, job, make(ours, job)) is Fate.TAKEN


@pytest.mark.parametrize("make", [complete, fail])
async def test_a_job_that_was_removed_when_it_ended_is_written(
    ours: BackendOfWorker, make: Any
) -> None:
    """Nothing of it is left to look at."""
    await ours.add(removeOnComplete=True, removeOnFail=True)
    job = await ours.fetched()
    call = make(ours, job)

    await ours.run(call)

    assert await ours.fields() == {}
    assert await fate_of(ours.backend, job, call) is Fate.WRITTEN


async def test_an_id_that_was_added_again_is_another_job(ours: BackendOfWorker) -> None:
    """It is told from the job that was written by the time of its adding."""
    await ours.add(removeOnComplete=True)
    job = await ours.fetched()
    call = complete(ours, job)
    await ours.run(call)
    await ours.add()
    await ours.redis.hset(ours.keys.job("1"), "timestamp", job.timestamp + 1)

    assert await fate_of(ours.backend, job, call) is Fate.WRITTEN
    assert await fate_of(ours.backend, job, retry_at_once(ours, job)) is Fate.TAKEN


@pytest.mark.parametrize("make", GOES_ON)
async def test_a_removed_job_that_was_to_go_on_is_taken(ours: BackendOfWorker, make: Any) -> None:
    """Whoever removed it, it does not go on."""
    job = await fetched(ours, make)
    for suffix in ("", ":lock", ":dependencies"):
        await ours.redis.delete(ours.keys.job("1") + suffix)
    await ours.redis.lrem(ours.keys["active"], 0, "1")

    assert await fate_of(ours.backend, job, make(ours, job)) is Fate.TAKEN


async def test_a_postponed_job_that_the_same_call_fetched_again_is_written(
    ours: BackendOfWorker,
) -> None:
    """It is locked under the old token: the next fetch, to be run again."""
    job = await fetched(ours)
    call = postpone(ours, job, fetch_next=True)

    await ours.run(call)

    assert await ours.redis.get(ours.keys.lock("1")) == job.token
    assert await fate_of(ours.backend, job, call) is Fate.WRITTEN
    again = await find_by_token(ours.backend, ours.queue, job.token)
    assert again is not None
    assert again.starts == job.starts + 1


async def test_a_failed_job_that_an_operator_retried_since_is_written(
    ours: BackendOfWorker,
) -> None:
    """It waits again, and has no end any more."""
    job = await fetched(ours)
    call = fail(ours, job)
    await ours.run(call)
    keys = ours.keys
    await ours.redis.zrem(keys["failed"], "1")
    await ours.redis.hdel(keys.job("1"), "finishedOn", "failedReason")
    await ours.redis.lpush(keys["wait"], "1")

    assert await fate_of(ours.backend, job, call) is Fate.WRITTEN


@pytest.mark.parametrize("make", ALL)
async def test_a_half_done_call_is_undone_and_may_be_tried_again(
    ours: BackendOfWorker, make: Any
) -> None:
    """The script stopped when the job was in no list; nobody else would ever find it."""
    job = await fetched(ours, make)
    await ours.redis.delete(ours.keys.lock("1"))
    await ours.redis.lrem(ours.keys["active"], 0, "1")
    call = make(ours, job)

    assert await fate_of(ours.backend, job, call) is Fate.NOT_WRITTEN

    assert await ours.redis.lrange(ours.keys["active"], 0, -1) == ["1"]
    assert await ours.redis.get(ours.keys.lock("1")) == job.token
    assert await ours.run(call) in (0, None)


async def test_a_hash_that_another_program_wrote_over_is_mended(ours: BackendOfWorker) -> None:
    """The job gets its hash back before the next try."""
    job = await fetched(ours)
    await ours.redis.delete(ours.keys.job("1"))
    await ours.redis.set(ours.keys.job("1"), "theirs")
    call = complete(ours, job)

    assert await fate_of(ours.backend, job, call) is Fate.NOT_WRITTEN

    assert await ours.run(call) == 0
    assert (await ours.fields())["returnvalue"] == "1"


@pytest.mark.parametrize("field", ["finishedOn", "ats", "stc", "timestamp"])
@pytest.mark.parametrize("value", ["abc", "", "1e999", "nan", "-1", "9" * 400])
async def test_no_stored_value_makes_the_question_fail(
    ours: BackendOfWorker, field: str, value: str
) -> None:
    """Other programs write what they like."""
    job = await fetched(ours)
    await ours.redis.hset(ours.keys.job("1"), field, value)
    await ours.redis.set(ours.keys.lock("1"), "cancel:{}")

    assert await fate_of(ours.backend, job, complete(ours, job)) in Fate


async def test_the_question_costs_three_commands(ours: BackendOfWorker) -> None:
    """One of them is a script, known from here on."""
    job = await fetched(ours)
    call = complete(ours, job)
    await fate_of(ours.backend, job, call)
    before = ours.backend.counter.sent[Purpose.COMPLETE]

    async with counted_commands(ours.redis) as counted:
        await fate_of(ours.backend, job, call)

    assert ours.backend.counter.sent[Purpose.COMPLETE] - before == 3
    assert counted.total <= 10
