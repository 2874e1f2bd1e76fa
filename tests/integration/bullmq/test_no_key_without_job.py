"""No write of the backend makes a key of a job that is gone: an id could then never be used again.

A job's hash is removed under the worker (FLUSHDB, obliterate, an operator), which then writes all
that it writes about a job.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from convolab_worker.bullmq import job_lock, producer
from convolab_worker.bullmq.jobs.child_jobs import ChildJob
from convolab_worker.bullmq.protocol import calls
from convolab_worker.bullmq.protocol.client_calls import NewJob
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.bullmq.script_runner import now_ms
from convolab_worker.bullmq.worker_side import flows, reconcile, steps
from convolab_worker.bullmq.worker_side.reconcile import Fate
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import ConvolabWorkerError, LockLost
from tests.integration.bullmq.conftest import BackendOfWorker

pytestmark = pytest.mark.asyncio
Write = Callable[[BackendOfWorker, ActiveJob], Awaitable[object]]
# Keys of the queue itself, which stay when its last job is gone.
OF_THE_QUEUE = {"meta", "events", "marker", "id", "pc", "stalled-check", "stalled"}


async def park(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Park the job, and unpark it."""
    ours.backend.exempt_from_stall_count(job, 1)
    ours.backend.exempt_from_stall_count(job, -1)
    await ours.backend.connection.call(Purpose.PROBE, "PING")


async def unpark(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Unpark a job that was parked before it was removed."""
    ours.backend.exempt_from_stall_count(job, -1)
    await ours.backend.connection.call(Purpose.PROBE, "PING")


async def report_progress(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Write progress."""
    await ours.run(ours.calls.report(job, "50", []))


async def log(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Write log rows."""
    await ours.run(ours.calls.report(job, None, ["a row", "another"]))


async def report_both(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Write both at once."""
    await ours.run(ours.calls.report(job, "50", ["a row"]))


async def restore(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Undo a script that failed half-way, as it would have with a bad number of attempts."""
    for error in ("", "ERR hash value is not an integer"):
        assert not await reconcile.restore(ours.backend, job, 60.0, error)


async def reclaim(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Reclaim the lock."""
    assert not await reconcile.reclaim(ours.backend.connection, ours.keys, job, 60.0)


async def set_aside(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Look for another program's key in the hash's place."""
    assert not await reconcile.set_aside(ours.backend, ours.queue, job.id, job)
    assert not await reconcile.set_aside(ours.backend, ours.queue, job.id)


async def set_aside_late(ours: BackendOfWorker, job: ActiveJob) -> None:
    """The key is gone when the script comes, though another program's was there before."""
    await ours.run(calls.set_aside(ours.keys, job.id, f"{ours.keys.base}kept", {"ats": 1}))


async def ask_for_fate(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Ask what became of a lost call."""
    call = ours.calls.retry(job, now_ms=now_ms(), fields={"failedReason": "no"})
    assert await reconcile.fate_of(ours.backend, job, call) is Fate.TAKEN


async def take_back(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Take the lock back from a request."""
    assert await job_lock.take_back(ours.backend.connection, ours.keys, job, 60.0) is None


async def ask_to_cancel(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Ask the worker to cancel the job."""
    assert await job_lock.ask(ours.backend.connection, ours.keys, job.id, "why") == job_lock.IDLE


async def return_to_queue(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Return the job."""
    with pytest.raises(LockLost):
        await ours.backend.return_to_queue(job)


async def end_it(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Write each outcome that moves a job on."""
    at: dict[str, Any] = {"now_ms": now_ms(), "fields": {"failedReason": "no"}}
    for call in (
        ours.calls.finish(job, target="failed", value="no", fetch_next=True, **at),
        ours.calls.delay(job, delay_ms=5, skip_attempt=False, fetch_next=True, **at),
        ours.calls.retry(job, **at),
    ):
        with pytest.raises(LockLost):
            await ours.backend.transition(job, call)


async def await_children(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Park the job until its children are done."""
    with pytest.raises(LockLost):
        await ours.backend.await_children(job)


async def enqueue_children(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Add a child."""
    with pytest.raises(ConvolabWorkerError, match="parent 1 .* is not there"):
        await ours.add_children(job, [ChildJob("part")])


async def drop_children(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Remove the children."""
    await flows.drop(ours.backend, job)


async def renew(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Renew the lock."""
    assert await ours.run(ours.calls.extend_locks([(job.id, job.token)], 60_000)) == [b"1"]


async def record_step(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Record a step."""
    with pytest.raises(LockLost):
        await steps.record(ours.backend, job, "voice", "1")


async def record_step_locked(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Record a step of a job whose lock is left."""
    await ours.redis.set(ours.keys.lock(job.id), job.token)
    await record_step(ours, job)
    await ours.redis.delete(ours.keys.lock(job.id))


async def update_data(ours: BackendOfWorker, job: ActiveJob) -> None:
    """Write the job's data."""
    assert await ours.run(calls.update_data(ours.keys, job, "{}")) == -1


WRITES: list[Write] = [
    park, unpark, report_progress, log, report_both, restore, reclaim, set_aside, set_aside_late,
    ask_for_fate, take_back, ask_to_cancel, return_to_queue, end_it, await_children,
    enqueue_children, drop_children, renew, record_step, record_step_locked, update_data,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("is_parked", [False, True], ids=["running", "parked"])
async def test_a_write_about_a_removed_job_makes_no_key(
    ours: BackendOfWorker, write: Write, *, is_parked: bool
) -> None:
    """All keys of the job are gone, as after obliterate: what is written leaves it so."""
    await ours.add()
    job = await ours.fetched()
    if is_parked:
        ours.backend.exempt_from_stall_count(job, 1)
        await ours.backend.connection.call(Purpose.PROBE, "PING")
    await ours.redis.delete(ours.keys.job("1"), ours.keys.lock("1"), ours.keys["active"])

    await write(ours, job)

    assert await ours.all_keys() - OF_THE_QUEUE == set()
    assert await ours.add() == "1"
    assert (await ours.backend.probe([ours.queue]))[ours.queue].ready


@pytest.mark.parametrize("write", [restore, reclaim, park, log, report_both, ask_for_fate])
async def test_a_job_whose_hash_alone_is_gone_gets_none_back(
    ours: BackendOfWorker, write: Write
) -> None:
    """Its place in active and its lock are left: no other key joins them."""
    await ours.add()
    job = await ours.fetched()
    await ours.redis.delete(ours.keys.job("1"))

    await write(ours, job)

    assert await ours.all_keys() - OF_THE_QUEUE == {"active", "1:lock"}


async def test_a_parent_that_is_gone_is_not_told_of_its_childs_failure(
    ours: BackendOfWorker,
) -> None:
    """The child failed while its parent was there; nobody was told, and then it was removed."""
    await ours.add()
    job = await ours.fetched()
    job.starts = 2
    child = NewJob(id=ours.child_id(job, "part"), name="part", data="{}")
    await producer.add(ours.backend.connection, ours.keys, child)
    failed = await ours.fetched()
    call = ours.calls.finish(failed, target="failed", value="no", now_ms=1, fetch_next=False)
    await ours.run(call)
    await ours.redis.delete(ours.keys.job("1"))

    await ours.add_children(job, [ChildJob("part")])

    assert await ours.redis.exists(f"{ours.keys.job('1')}:failed") == 0


async def test_a_parent_that_is_there_is_told_of_its_childs_failure(
    ours: BackendOfWorker,
) -> None:
    """Whatever bytes the reason has."""
    await ours.add()
    job = await ours.fetched()
    child = ours.keys.job(ours.child_id(job, "part"))

    await ours.run(calls.add_failed_child(ours.keys, job, child, b"no \xff"))

    assert await flows.failures(ours.backend, job) == {"part": "no �"}


# what the same writes do to a job that is there


@pytest.mark.parametrize("stalls", [None, "-1", "0", "1", "2"])
async def test_parking_lowers_the_stalled_counter_and_unparking_restores_it(
    ours: BackendOfWorker, stalls: str | None
) -> None:
    """Whatever it was before."""
    await ours.add()
    job = await ours.fetched()
    if stalls is not None:
        await ours.redis.hset(ours.keys.job("1"), "stc", stalls)

    ours.backend.exempt_from_stall_count(job, 1)
    await ours.backend.connection.call(Purpose.PROBE, "PING")
    parked = (await ours.fields())["stc"]
    await unpark(ours, job)

    assert parked == str(int(stalls or 0) - 1)
    assert (await ours.fields())["stc"] == (stalls or "0")


async def test_log_rows_are_added_in_order_and_trimmed_to_what_the_job_keeps(
    ours: BackendOfWorker,
) -> None:
    """The progress that goes with them is kept and announced, as BullMQ's script does."""
    await ours.add(keepLogs=3)
    job = await ours.fetched()

    answers = [
        await ours.run(ours.calls.report(job, None, ["a", "b"])),
        await ours.run(ours.calls.report(job, '{"done":3}', ["c", "d"])),
    ]

    assert answers == [2, 4]
    assert await ours.redis.lrange(f"{ours.keys.job('1')}:logs", 0, -1) == ["b", "c", "d"]
    assert (await ours.fields())["progress"] == '{"done":3}'
    _, event = (await ours.redis.xrange(ours.keys["events"]))[-1]
    assert event == {"event": "progress", "jobId": "1", "data": '{"done":3}'}


@pytest.mark.parametrize("is_locked", [True, False], ids=["locked", "unlocked"])
@pytest.mark.parametrize("is_active", [True, False], ids=["active", "in no list"])
async def test_a_job_out_of_place_is_restored(
    ours: BackendOfWorker, *, is_locked: bool, is_active: bool
) -> None:
    """It gets back its place, and its lock unless somebody has it."""
    await ours.add()
    job = await ours.fetched()
    if not is_locked:
        await ours.redis.delete(ours.keys.lock("1"))
    if not is_active:
        await ours.redis.lrem(ours.keys["active"], 0, "1")
    await ours.redis.hset(ours.keys.job("1"), "atm", "many")

    assert await reconcile.restore(ours.backend, job, 60.0, "hash value is not an integer")

    assert await ours.redis.lrange(ours.keys["active"], 0, -1) == ["1"]
    assert await ours.redis.get(ours.keys.lock("1")) == job.token
    assert (await ours.fields())["atm"] == "0"


@pytest.mark.parametrize("part", ["completed", "failed", "delayed", "wait"])
async def test_a_key_of_another_type_holds_no_job(ours: BackendOfWorker, part: str) -> None:
    """The key that made a script fail does not leave the job in no list."""
    await ours.add()
    job = await ours.fetched()
    await ours.redis.delete(ours.keys.lock("1"))
    await ours.redis.lrem(ours.keys["active"], 0, "1")
    await ours.redis.set(ours.keys[part], "another program's")

    assert await reconcile.restore(ours.backend, job, 60.0, "WRONGTYPE")

    assert await ours.redis.lrange(ours.keys["active"], 0, -1) == ["1"]
    assert await ours.redis.get(ours.keys.lock("1")) == job.token


async def test_a_job_that_waits_is_not_restored(ours: BackendOfWorker) -> None:
    """Its return was written before the script failed."""
    await ours.add()
    job = await ours.fetched()
    await ours.backend.return_to_queue(job)

    assert not await reconcile.restore(ours.backend, job, 60.0, "")

    assert await ours.redis.exists(ours.keys.lock("1"), ours.keys["active"]) == 0


async def test_a_lock_that_ran_out_is_reclaimed(ours: BackendOfWorker) -> None:
    """As often as somebody asks."""
    await ours.add()
    job = await ours.fetched()
    await ours.redis.delete(ours.keys.lock("1"))

    for _ in ("reclaimed", "held already"):
        assert await reconcile.reclaim(ours.backend.connection, ours.keys, job, 60.0)

        assert await ours.redis.get(ours.keys.lock("1")) == job.token


@pytest.mark.parametrize("hash_is", ["whole", "another program's"])
async def test_a_job_that_another_worker_has_fetched_is_not_reclaimed(
    ours: BackendOfWorker, theirs: BackendOfWorker, hash_is: str
) -> None:
    """Whether its lock is there or has run out in its turn, and whatever is left of its hash."""
    await ours.add()
    job = await ours.fetched()
    await ours.recover_without_lock(job)
    again = await theirs.fetched()
    if hash_is != "whole":
        await ours.redis.delete(ours.keys.job("1"))
        await ours.redis.set(ours.keys.job("1"), "theirs")

    assert not await reconcile.reclaim(ours.backend.connection, ours.keys, job, 60.0)
    assert await ours.redis.get(ours.keys.lock("1")) == again.token
    await ours.redis.delete(ours.keys.lock("1"))
    assert not await reconcile.reclaim(ours.backend.connection, ours.keys, job, 60.0)
    assert await ours.redis.exists(ours.keys.lock("1")) == 0


async def test_a_hash_that_is_mended_already_is_left_alone(ours: BackendOfWorker) -> None:
    """Of two workers that see the key at once, the second must not rename the new hash."""
    await ours.add()
    job = await ours.fetched()
    await ours.redis.delete(ours.keys.job("1"))
    await ours.redis.set(ours.keys.job("1"), "theirs")
    kept = [f"{ours.keys.job('1')}:kept-{n}" for n in range(2)]

    answers = [
        await ours.run(calls.set_aside(ours.keys, job.id, name, {"ats": n}))
        for n, name in enumerate(kept)
    ]

    assert answers == [b"string", None]
    assert await ours.fields() == {"ats": "0"}
    assert await ours.redis.exists(*kept) == 1


async def test_setting_aside_is_told_once(ours: BackendOfWorker) -> None:
    """An operator finds what another program has written under another name."""
    await ours.add()
    job = await ours.fetched()
    await ours.redis.delete(ours.keys.job("1"))
    await ours.redis.rpush(ours.keys.job("1"), "theirs")

    with capture_logs() as logs:
        done = [await reconcile.set_aside(ours.backend, ours.queue, job.id, job) for _ in range(2)]

    assert done == [True, False]
    (told,) = logs
    assert await ours.redis.lrange(told["kept_as"], 0, -1) == ["theirs"]
    assert (await ours.fields())["name"] == "work"
