"""What is written of a step: once, by who has the lock, which it renews."""

from __future__ import annotations

import pytest

from convolab_worker.bullmq import job_lock
from convolab_worker.bullmq.protocol.client_calls import retry_job
from convolab_worker.bullmq.script_runner import now_ms
from convolab_worker.bullmq.worker_side import steps
from convolab_worker.errors import LockLost, RedisRefused
from tests.integration.bullmq.conftest import LOCK_SECONDS, BackendOfWorker
from tests.support.commandstats import counted_commands

pytestmark = pytest.mark.asyncio


async def test_the_first_result_stands(ours: BackendOfWorker) -> None:
    await ours.add()
    job = await ours.fetched()

    first = await steps.record(ours.backend, job, "voice", '"a"')
    second = await steps.record(ours.backend, job, "voice", '"b"')

    assert [first.result, second.result] == [b'"a"', b'"a"']
    assert (await ours.fields())["step:voice"] == '"a"'


async def test_the_write_renews_the_lock(ours: BackendOfWorker) -> None:
    await ours.add()
    job = await ours.fetched()
    await ours.redis.pexpire(ours.keys.lock("1"), 1000)

    recorded = await steps.record(ours.backend, job, "voice", "1")

    assert recorded.renewed
    assert await ours.redis.pttl(ours.keys.lock("1")) > (LOCK_SECONDS - 10) * 1000


@pytest.mark.parametrize("lock", [None, "b:1", "cancel:{}", "cancel:no json"])
async def test_nothing_is_written_without_the_lock(ours: BackendOfWorker, lock: str | None) -> None:
    await ours.add()
    job = await ours.fetched()
    await ours.redis.delete(ours.keys.lock("1"))
    if lock is not None:
        await ours.redis.set(ours.keys.lock("1"), lock)

    with pytest.raises(LockLost, match="step 'voice' was not recorded"):
        await steps.record(ours.backend, job, "voice", "1")

    assert "step:voice" not in await ours.fields()
    assert await ours.redis.get(ours.keys.lock("1")) == lock


async def test_a_request_to_cancel_waits_in_the_lock_and_the_step_is_recorded(
    ours: BackendOfWorker,
) -> None:
    """The job may run again: what was paid for is kept."""
    await ours.add()
    job = await ours.fetched()
    await job_lock.ask(ours.backend.connection, ours.keys, "1", None)
    request = await ours.redis.get(ours.keys.lock("1"))

    recorded = await steps.record(ours.backend, job, "voice", "1")

    assert not recorded.renewed
    assert (await ours.fields())["step:voice"] == "1"
    assert await ours.redis.get(ours.keys.lock("1")) == request


async def test_a_hash_that_another_program_wrote_over_is_mended_first(
    ours: BackendOfWorker,
) -> None:
    """With the steps that the worker knows of."""
    await ours.add()
    job = await ours.fetched()
    job.steps["text"] = b"0"
    await ours.redis.delete(ours.keys.job("1"))
    await ours.redis.set(ours.keys.job("1"), "not a job")

    await steps.record(ours.backend, job, "voice", "1")

    fields = await ours.fields()
    assert [fields["name"], fields["step:text"], fields["step:voice"]] == ["work", "0", "1"]


async def test_a_fetch_brings_the_steps_back(ours: BackendOfWorker) -> None:
    """Names and results may have any characters."""
    await ours.add()
    job = await ours.fetched()
    for name, result in (("voice:é 1", '"ü"'), ("step:step", "null")):
        await steps.record(ours.backend, job, name, result)
    await ours.backend.return_to_queue(job)

    again = await ours.fetched()

    assert again.steps == {"voice:é 1": '"ü"'.encode(), "step:step": b"null"}


async def test_completing_a_job_removes_its_steps_and_failing_it_keeps_them(
    ours: BackendOfWorker,
) -> None:
    for job_id, target in (("1", "completed"), ("2", "failed")):
        await ours.add(job_id)
        job = await ours.fetched()
        for number in range(1500):  # more than Lua's unpack takes at once in some versions
            await steps.record(ours.backend, job, f"n-{number}", "1")
            job.steps[f"n-{number}"] = b"1"
        call = ours.calls.finish(job, target=target, value="1", now_ms=now_ms(), fetch_next=False)
        await ours.backend.transition(job, call)

    assert not [name for name in await ours.fields("1") if name.startswith("step:")]
    assert len([name for name in await ours.fields("2") if name.startswith("step:")]) == 1500


async def test_an_end_that_is_refused_half_way_keeps_the_steps(ours: BackendOfWorker) -> None:
    """The job is put back and runs again: what was paid for is kept."""
    await ours.add()
    job = await ours.fetched()
    await steps.record(ours.backend, job, "voice", "1")
    job.steps["voice"] = b"1"
    await ours.redis.set(ours.keys["completed"], "no set")

    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        await ours.backend.transition(
            job,
            ours.calls.finish(
                job, target="completed", value="1", now_ms=now_ms(), fetch_next=False
            ),
        )

    assert (await ours.fields())["step:voice"] == "1"


async def test_a_job_that_is_removed_as_it_completes_leaves_no_key(
    ours: BackendOfWorker,
) -> None:
    await ours.add(removeOnComplete=True)
    job = await ours.fetched()
    await steps.record(ours.backend, job, "voice", "1")
    job.steps["voice"] = b"1"

    await ours.backend.transition(
        job,
        ours.calls.finish(job, target="completed", value="1", now_ms=now_ms(), fetch_next=False),
    )

    assert await ours.redis.exists(ours.keys.job("1")) == 0


@pytest.mark.parametrize("forget", [False, True])
async def test_a_retry_by_hand_may_forget_the_steps(
    ours: BackendOfWorker,
    forget: bool,  # noqa: FBT001
) -> None:
    await ours.add()
    job = await ours.fetched()
    await steps.record(ours.backend, job, "voice", "1")
    await ours.run(
        ours.calls.finish(job, target="failed", value="no", now_ms=now_ms(), fetch_next=False)
    )

    call = retry_job(ours.keys, "1", "failed", lifo=False, reset_attempts=True, forget_steps=forget)
    answers = [await ours.run(call), await ours.run(call)]

    assert answers == [1, -3]
    assert ("step:voice" in await ours.fields()) is not forget


async def test_a_step_is_as_many_commands_as_the_counter_says(ours: BackendOfWorker) -> None:
    await ours.add()
    job = await ours.fetched()
    await steps.record(ours.backend, job, "text", "1")  # which sends the script's text

    counter = ours.backend.counter
    before = counter.billable
    async with counted_commands(ours.redis) as counted:
        await steps.record(ours.backend, job, "voice", "1")

    assert counter.billable - before == counted.total == 5
