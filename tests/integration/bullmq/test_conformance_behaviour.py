"""What bullmq's scripts do on a real server, wherever the library relies on it.

Each test runs with BullMQ's scripts alone, and with those of ours before which the two stand that
have a shorter part.

The calls are built by ``protocol`` (``test_conformance.py`` holds them to bullmq's own), the jobs
are added by bullmq's Python, and no worker runs: each test makes the transitions itself.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import bullmq
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker.bullmq.protocol.calls import Call
from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.bullmq.protocol.records import ActiveJob
from convolab_worker.bullmq.protocol.scripts import Script, bullmqs_script, counted_script, script
from convolab_worker.bullmq.protocol.transitions import Transitions
from tests.support.answers import as_bullmqs

pytestmark = pytest.mark.asyncio

TOKEN = "a-worker:1"
LOCK_MS = 60_000
NOTHING = 0
FIELDS = {"failedReason": "no", "stacktrace": "[]"}


class Bench:
    """One queue, the calls of a worker on it, and what Redis holds of it."""

    def __init__(self, redis: Redis, url: str, name: str, find: Callable[[str], Script]) -> None:
        # redis-py's annotations say bytes, str or None of everything.
        self.redis: Any = redis
        self.find = find
        self.keys = QueueKeys("bull", name)
        self.calls = Transitions(self.keys, worker_name="lessons", lock_ms=LOCK_MS)
        self.queue = bullmq.Queue(name, {"connection": url})

    async def add(self, name: str = "work", **opts: Any) -> str:
        """Add a job with bullmq's Python and return its id."""
        job = await self.queue.add(name, {"some": "data"}, opts)
        return str(job.id)

    async def run(self, call: Call) -> Any:
        """Run a call as it is; the answer as Redis gives it, without a count of ours."""
        found = self.find(call.script)
        answer = await self.redis.eval(found.text, found.keys, *call.keys, *call.args)
        return as_bullmqs(answer[1] if self.find is counted_script else answer)

    async def fetch(self, token: str = TOKEN) -> Any:
        """The raw answer of moveToActive."""
        return await self.run(self.calls.fetch(token, now()))

    async def taken(self, token: str = TOKEN, **opts: Any) -> ActiveJob:
        """The next job, which must be there, as a worker holds it."""
        _, job_id, _, _ = await self.fetch(token)
        return self.held(job_id, token=token, **opts)

    def held(self, job_id: str, *, token: str = TOKEN, **opts: Any) -> ActiveJob:
        """A job as a worker holds it, whether it does or not."""
        return ActiveJob(
            queue=self.keys.queue, id=job_id, token=token, name="work", data=b"null", opts=opts
        )

    async def complete(self, job: ActiveJob, *, fetch_next: bool = False, value: str = "1") -> Any:
        """The raw answer of moveToFinished for a result."""
        call = self.calls.finish(
            job, target="completed", value=value, now_ms=now(), fetch_next=fetch_next
        )
        return await self.run(call)

    async def fail(self, job: ActiveJob, *, fetch_next: bool = False) -> Any:
        """The raw answer of moveToFinished for a failure."""
        call = self.calls.finish(
            job, target="failed", value="no", now_ms=now(), fetch_next=fetch_next, fields=FIELDS
        )
        return await self.run(call)

    async def delay(self, job: ActiveJob, delay_ms: int, **options: bool) -> Any:
        """The raw answer of moveToDelayed."""
        given = {"skip_attempt": False, "fetch_next": False, **options}
        call = self.calls.delay(job, delay_ms=delay_ms, now_ms=now(), fields=FIELDS, **given)
        return await self.run(call)

    async def sweep(self, *, max_stalled: int = 1) -> Any:
        """The raw answer of moveStalledJobsToWait, its own interval over."""
        await self.redis.delete(self.keys["stalled-check"])
        call = self.calls.recover_stalled(max_stalled=max_stalled, now_ms=now(), interval_ms=5000)
        return await self.run(call)

    async def field(self, job_id: str, name: str) -> str | None:
        """One field of a job's hash."""
        found: str | None = await self.redis.hget(self.keys.job(job_id), name)
        return found

    async def markers(self) -> dict[str, float]:
        """The members of the marker and their scores."""
        return dict(await self.redis.zrange(self.keys["marker"], 0, -1, withscores=True))

    async def events(self) -> list[str]:
        """The names of the queue's events, in order."""
        return [fields["event"] for _, fields in await self.redis.xrange(self.keys["events"])]


def now() -> int:
    """The time as BullMQ writes it."""
    return round(time.time() * 1000)


@pytest_asyncio.fixture(params=[counted_script, bullmqs_script], ids=["ours", "BullMQ's"])
async def bench(
    redis: Redis, server_url: str, queue_name: str, request: pytest.FixtureRequest
) -> AsyncIterator[Bench]:
    """A bench on a queue of the test's own."""
    bench = Bench(redis, server_url, queue_name, request.param)
    yield bench
    await bench.queue.close()


async def test_a_take_answers_with_the_jobs_hash_and_id(bench: Bench) -> None:
    """``moveToActive`` answers [flat hash, id, 0, 0], the job locked and counted as started."""
    job_id = await bench.add(attempts=3)

    flat, taken, limited, due = await bench.fetch()

    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert (taken, limited, due) == (job_id, 0, 0)
    assert {"name", "data", "opts", "timestamp", "processedOn", "pb", "ats"} <= fields.keys()
    assert (fields["name"], fields["ats"], fields["pb"]) == ("work", "1", "lessons")
    assert await bench.redis.get(bench.keys.lock(job_id)) == TOKEN
    assert 0 < await bench.redis.pttl(bench.keys.lock(job_id)) <= LOCK_MS


async def test_a_take_of_nothing_answers_four_zeros(bench: Bench) -> None:
    """``moveToActive`` on an empty queue answers [0, 0, 0, 0]."""
    assert await bench.fetch() == NOTHING


async def test_a_take_before_a_delayed_job_is_due_answers_when(bench: Bench) -> None:
    """The fourth number is the due time in milliseconds since the epoch."""
    job_id = await bench.add(delay=60_000)
    added = int(await bench.field(job_id, "timestamp") or 0)

    assert await bench.fetch() == [0, 0, 0, added + 60_000]


async def test_a_take_under_a_rate_limit_answers_how_long(bench: Bench) -> None:
    """The third number is the rest of the limit in milliseconds, and nothing is taken."""
    await bench.redis.hset(bench.keys["meta"], mapping={"max": 1, "duration": 60_000})
    await bench.add()
    await bench.add()
    await bench.fetch()

    job, job_id, limited, due = await bench.fetch()

    assert (job, job_id, due) == (0, 0, 0)
    assert 0 < limited <= 60_000


@pytest.mark.parametrize("field", [{"paused": "1"}, {"concurrency": "0"}], ids=["paused", "maxed"])
async def test_a_take_from_a_paused_or_maxed_queue_answers_four_zeros(
    bench: Bench, field: dict[str, str]
) -> None:
    """Neither is told apart from an empty queue, and no marker announces its jobs."""
    await bench.redis.hset(bench.keys["meta"], mapping=field)
    await bench.add()

    assert await bench.fetch() == NOTHING
    assert await bench.markers() == {}


async def test_an_added_job_is_announced_by_marker_0(bench: Bench) -> None:
    """One marker, however many jobs: a hint and not a count."""
    await bench.add()
    await bench.add()

    assert await bench.markers() == {"0": 0}


async def test_marker_0_is_added_again_on_every_take(bench: Bench) -> None:
    """After a lone job was taken, a stale marker is left."""
    await bench.add()
    await bench.redis.delete(bench.keys["marker"])

    await bench.fetch()

    assert await bench.markers() == {"0": 0}


async def test_marker_1_carries_the_due_time_and_is_gone_once_popped(bench: Bench) -> None:
    """A take that finds nothing does not announce the delayed job again."""
    job_id = await bench.add(delay=60_000)
    due = int(await bench.field(job_id, "timestamp") or 0) + 60_000

    popped = await bench.redis.bzpopmin([bench.keys["marker"]], timeout=1)
    await bench.fetch()

    assert popped == (bench.keys["marker"], "1", due)
    assert await bench.markers() == {}


async def test_a_due_job_is_taken_once_its_time_has_come(bench: Bench) -> None:
    """``moveToActive`` promotes what is due by the time that the caller gives."""
    job_id = await bench.add(delay=30)
    later = now() + 1000

    answer = await bench.run(bench.calls.fetch(TOKEN, later))

    assert answer[1] == job_id


async def test_a_finish_without_a_next_job_answers_0(bench: Bench) -> None:
    """``moveToFinished`` answers 0 when no next job is asked for, and writes result and event."""
    job_id = await bench.add()
    job = await bench.taken()

    answer = await bench.complete(job, value='{"a":1}')

    assert answer == 0
    assert await bench.field(job_id, "returnvalue") == '{"a":1}'
    assert await bench.field(job_id, "atm") == "1"
    assert (await bench.events())[-2:] == ["completed", "drained"]
    assert await bench.redis.exists(bench.keys.lock(job_id)) == 0


async def test_a_finish_takes_the_next_job_under_the_same_token(bench: Bench) -> None:
    """With fetch_next the answer is a take's, and the next job is locked by the same token."""
    await bench.add()
    second = await bench.add()
    job = await bench.taken()

    flat, taken, limited, due = await bench.complete(job, fetch_next=True)

    assert isinstance(flat, list)
    assert (taken, limited, due) == (second, 0, 0)
    assert await bench.redis.get(bench.keys.lock(second)) == TOKEN


async def test_a_finish_that_finds_nothing_answers_0(bench: Bench) -> None:
    """With fetch_next and an empty queue the answer is a number, not a list."""
    await bench.add()
    job = await bench.taken()

    assert await bench.complete(job, fetch_next=True) == 0


async def test_a_finish_answers_when_the_next_delayed_job_is_due(bench: Bench) -> None:
    """With fetch_next and only delayed jobs left the answer is [0, 0, 0, due]."""
    await bench.add()
    job = await bench.taken()
    delayed = await bench.add(delay=60_000)
    due = int(await bench.field(delayed, "timestamp") or 0) + 60_000

    assert await bench.complete(job, fetch_next=True) == [0, 0, 0, due]


async def test_a_finish_of_the_last_attempt_says_that_they_are_exhausted(bench: Bench) -> None:
    """A failure at the given number of attempts adds the event retries-exhausted."""
    await bench.add()
    job = await bench.taken(attempts=1)

    await bench.fail(job)

    assert (await bench.events())[-3:] == ["failed", "retries-exhausted", "drained"]


@pytest.mark.parametrize("transition", ["complete", "fail", "delay", "retry", "return_to_queue"])
async def test_a_transition_refuses_with_a_code_for_each_reason(
    bench: Bench, transition: str
) -> None:
    """-1 no job, -2 no lock, -6 another's lock; nothing is written."""
    await bench.add()
    job = await bench.taken()
    other = bench.held(job.id, token="another-worker:1")

    async def attempt(active_job: ActiveJob) -> Any:
        if transition == "complete":
            return await bench.complete(active_job)
        if transition == "fail":
            return await bench.fail(active_job)
        if transition == "delay":
            return await bench.delay(active_job, 10)
        if transition == "retry":
            return await bench.run(bench.calls.retry(active_job, now_ms=now(), fields=FIELDS))
        return await bench.run(bench.calls.return_to_queue(active_job))

    absent = await attempt(bench.held("no-such-job"))
    mismatch = await attempt(other)
    await bench.redis.delete(bench.keys.lock(job.id))
    lockless = await attempt(job)

    assert (absent, lockless, mismatch) == (-1, -2, -6)
    assert await bench.redis.lrange(bench.keys["active"], 0, -1) == [job.id]


@pytest.mark.parametrize("transition", ["complete", "delay", "retry"])
async def test_a_transition_of_a_job_that_is_not_active_answers_minus_3(
    bench: Bench, transition: str
) -> None:
    """The lock alone is not enough; and the lock is gone afterwards."""
    await bench.add()
    job = await bench.taken()
    await bench.redis.delete(bench.keys["active"])

    if transition == "complete":
        answer = await bench.complete(job)
    elif transition == "delay":
        answer = await bench.delay(job, 10)
    else:
        answer = await bench.run(bench.calls.retry(job, now_ms=now(), fields=FIELDS))

    assert answer == -3


async def test_a_delay_without_a_next_job_answers_0(bench: Bench) -> None:
    """``moveToDelayed`` counts the attempt, keeps the fields, and announces the due time."""
    job_id = await bench.add()
    job = await bench.taken()

    answer = await bench.delay(job, 60_000)

    assert answer == 0
    assert await bench.field(job_id, "atm") == "1"
    assert await bench.field(job_id, "delay") == "60000"
    assert await bench.field(job_id, "failedReason") == "no"
    assert (await bench.markers())["1"] > now()


async def test_a_delay_may_leave_the_attempts_alone(bench: Bench) -> None:
    """With skip_attempt the attempt is not counted."""
    job_id = await bench.add()
    job = await bench.taken()

    await bench.delay(job, 60_000, skip_attempt=True)

    assert await bench.field(job_id, "atm") is None


async def test_a_delay_takes_the_next_job_and_otherwise_answers_0(bench: Bench) -> None:
    """``moveToDelayed`` with fetch_next answers as a take does only when it took a job."""
    await bench.add()
    second = await bench.add()
    first = await bench.taken()

    taken = await bench.delay(first, 60_000, fetch_next=True)
    nothing = await bench.delay(bench.held(second), 60_000, fetch_next=True)

    assert taken[1] == second
    assert nothing == 0


async def test_a_retry_puts_the_job_last_and_counts_the_attempt(bench: Bench) -> None:
    """``retryJob`` answers 0; the job waits behind those that came before."""
    first = await bench.add()
    second = await bench.add()
    job = await bench.taken()

    answer = await bench.run(bench.calls.retry(job, now_ms=now(), fields=FIELDS))

    assert answer == 0
    assert await bench.redis.lrange(bench.keys["wait"], 0, -1) == [first, second]
    assert await bench.field(first, "atm") == "1"


async def test_a_return_puts_the_job_first_and_counts_nothing(bench: Bench) -> None:
    """``moveJobFromActiveToWait`` answers 0 without a rate limit; the job is next again."""
    first = await bench.add()
    second = await bench.add()
    job = await bench.taken()

    answer = await bench.run(bench.calls.return_to_queue(job))

    assert answer == 0
    assert await bench.redis.lrange(bench.keys["wait"], 0, -1) == [second, first]
    assert await bench.field(first, "atm") is None


async def test_a_returned_prioritized_job_is_first_of_its_priority_and_unannounced(
    bench: Bench,
) -> None:
    """A prioritized job goes back without a marker: whoever returns it must announce it."""
    first = await bench.add(priority=5)
    await bench.add(priority=5)
    job = await bench.taken()
    await bench.redis.delete(bench.keys["marker"])

    await bench.run(bench.calls.return_to_queue(job))

    assert (await bench.redis.zrange(bench.keys["prioritized"], 0, -1))[0] == first
    assert await bench.markers() == {}


async def test_a_parent_waits_only_while_a_child_is_pending(bench: Bench) -> None:
    """``moveToWaitingChildren`` answers 1 without a pending child, 0 with one, -1 without a job."""
    job_id = await bench.add()
    job = await bench.taken()

    without = await bench.run(bench.calls.await_children(job, now_ms=now()))
    await bench.redis.sadd(f"{bench.keys.job(job_id)}:dependencies", "bull:other:1")
    pending = await bench.run(bench.calls.await_children(job, now_ms=now()))
    absent = await bench.run(bench.calls.await_children(bench.held("none"), now_ms=now()))

    assert (without, pending, absent) == (1, 0, -1)
    assert await bench.redis.zrange(bench.keys["waiting-children"], 0, -1) == [job_id]


async def test_a_parent_with_pending_or_failed_children_is_not_completed(bench: Bench) -> None:
    """``moveToFinished`` answers -4 for a pending child, -9 for a failed one; the lock is kept."""
    job_id = await bench.add()
    job = await bench.taken()
    children = f"{bench.keys.job(job_id)}:dependencies"

    await bench.redis.sadd(children, "bull:other:1")
    pending = await bench.complete(job)
    await bench.redis.delete(children)
    await bench.redis.zadd(f"{bench.keys.job(job_id)}:unsuccessful", {"bull:other:1": 1})
    failed = await bench.complete(job)
    waiting = await bench.run(bench.calls.await_children(job, now_ms=now()))

    assert (pending, failed, waiting) == (-4, -9, -9)
    assert await bench.redis.get(bench.keys.lock(job_id)) == TOKEN


async def test_a_child_that_fails_its_parent_defers_the_failure_to_a_worker(bench: Bench) -> None:
    """The parent goes to the head of its queue with defa, for a worker to take and fail."""
    parent = await bench.add()
    job = await bench.taken()
    child = bullmq.Queue(bench.keys.queue, {"connection": bench.redis})
    await child.add(
        "work",
        {},
        {"parent": {"id": parent, "queue": bench.keys.base[:-1]}, "failParentOnFailure": True},
    )
    await bench.run(bench.calls.await_children(job, now_ms=now()))
    failing = await bench.taken(failParentOnFailure=True)

    await bench.fail(failing)
    flat, taken, _, _ = await bench.fetch()

    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert taken == parent
    assert fields["defa"] == f"child {bench.keys.job(failing.id)} failed"
    assert await bench.fail(bench.held(parent)) == 0
    assert await bench.field(parent, "defa") is None


async def test_a_deferred_failure_is_not_counted_by_a_rate_limit(bench: Bench) -> None:
    """A job that is taken only to be failed takes no start from the others."""
    await bench.redis.hset(bench.keys["meta"], mapping={"max": 1, "duration": 60_000})
    job_id = await bench.add()
    await bench.redis.hset(bench.keys.job(job_id), "defa", "a child failed")

    await bench.fetch()

    assert await bench.redis.exists(bench.keys["limiter"]) == 0


async def test_a_stalled_job_is_recovered_in_the_second_pass(bench: Bench) -> None:
    """The first pass marks every active job, the second returns those without a lock."""
    lost = await bench.add()
    await bench.add()
    kept = [await bench.taken(), await bench.taken("another-worker:1")][1]
    await bench.redis.delete(bench.keys.lock(lost))

    first = await bench.sweep()
    marked = await bench.redis.smembers(bench.keys["stalled"])
    second = await bench.sweep()

    assert (first, second) == ([], [lost])
    assert marked == {lost, kept.id}
    assert await bench.redis.lrange(bench.keys["active"], 0, -1) == [kept.id]
    assert await bench.redis.lrange(bench.keys["wait"], 0, -1) == [lost]
    assert await bench.field(lost, "stc") == "1"
    assert (await bench.events())[-1] == "stalled"


async def test_a_stalled_check_runs_once_an_interval(bench: Bench) -> None:
    """While the key stalled-check lives, a pass answers [] and marks nothing."""
    await bench.add()
    await bench.fetch()
    await bench.sweep()
    await bench.redis.delete(bench.keys["stalled"])

    call = bench.calls.recover_stalled(max_stalled=1, now_ms=now(), interval_ms=5000)

    assert await bench.run(call) == []
    assert await bench.redis.exists(bench.keys["stalled"]) == 0
    assert 0 < await bench.redis.pttl(bench.keys["stalled-check"]) <= 5000


async def test_a_job_that_stalled_too_often_waits_to_be_failed(bench: Bench) -> None:
    """Over the allowed count the job is returned with defa: a worker has to take and fail it."""
    job_id = await bench.add()
    await bench.fetch()
    await bench.redis.delete(bench.keys.lock(job_id))
    await bench.sweep(max_stalled=0)

    recovered = await bench.sweep(max_stalled=0)

    assert recovered == [job_id]
    assert await bench.field(job_id, "defa") == "job stalled more than allowable limit"
    assert await bench.redis.lrange(bench.keys["wait"], 0, -1) == [job_id]


async def test_a_renewal_of_locks_answers_with_those_that_are_lost(bench: Bench) -> None:
    """``extendLocks`` lists lost ids; what it renews is no longer marked as stalled."""
    for _ in range(3):
        await bench.add()
    ours, gone, theirs = [await bench.taken() for _ in range(3)]
    await bench.redis.delete(bench.keys.lock(gone.id))
    await bench.redis.set(bench.keys.lock(theirs.id), "another-worker:1")
    await bench.redis.pexpire(bench.keys.lock(ours.id), 100)
    await bench.sweep()

    held = [(job.id, TOKEN) for job in (ours, gone, theirs)]
    lost = await bench.run(bench.calls.extend_locks(held, LOCK_MS))

    assert lost == [gone.id, theirs.id]
    assert await bench.redis.pttl(bench.keys.lock(ours.id)) > LOCK_MS / 2
    assert await bench.redis.smembers(bench.keys["stalled"]) == {gone.id, theirs.id}


async def test_progress_is_kept_and_announced(bench: Bench) -> None:
    """``updateProgress`` answers 0, and -1 for a job that is gone."""
    job_id = await bench.add()

    known = await bench.run(bench.calls.report(bench.held(job_id), '{"done":3}', []))
    unknown = await bench.run(bench.calls.report(bench.held("none"), "1", []))

    assert (known, unknown) == (0, -1)
    assert await bench.field(job_id, "progress") == '{"done":3}'
    _, event = (await bench.redis.xrange(bench.keys["events"]))[-1]
    assert event == {"event": "progress", "jobId": job_id, "data": '{"done":3}'}


async def test_log_lines_are_counted_and_trimmed(bench: Bench) -> None:
    """``addLog`` answers the number of lines, at most those to keep; -1 for a job that is gone."""
    job = bench.keys.job(await bench.add())
    found = script("addLog")

    async def log(key: str, line: str, keep: str) -> Any:
        return await bench.redis.eval(found.text, found.keys, key, f"{key}:logs", "1", line, keep)

    answers = [await log(job, "a", ""), await log(job, "b", ""), await log(job, "c", "2")]

    assert answers == [1, 2, 2]
    assert await bench.redis.lrange(f"{job}:logs", 0, -1) == ["b", "c"]
    assert await log(f"{job}-none", "a", "") == -1


async def test_counts_come_in_the_order_of_the_states(bench: Bench) -> None:
    """``getCounts`` answers one number for each state that is named."""
    await bench.add()
    await bench.add(delay=60_000)
    await bench.add(priority=1)
    await bench.fetch()
    states = ["wait", "paused", "active", "delayed", "prioritized", "completed", "waiting-children"]
    found = script("getCounts")

    counts = await bench.redis.eval(found.text, found.keys, bench.keys.base, *states)

    assert counts == [0, 0, 1, 1, 1, 0, 0]


async def test_a_state_is_told_by_its_name(bench: Bench) -> None:
    """``getStateV2`` answers BullMQ's public names of states."""
    found = script("getStateV2")
    suffixes = [
        "completed",
        "failed",
        "delayed",
        "active",
        "wait",
        "paused",
        "waiting-children",
        "prioritized",
    ]

    async def state(job_id: str) -> Any:
        keys = bench.keys.named(*suffixes)
        return await bench.redis.eval(found.text, found.keys, *keys, job_id)

    taken = await bench.add()
    await bench.fetch()
    waiting, delayed = await bench.add(), await bench.add(delay=60_000)
    prioritized = await bench.add(priority=1)

    states = [await state(each) for each in (taken, waiting, delayed, prioritized, "none")]
    await bench.complete(bench.held(taken))

    assert states == ["active", "waiting", "delayed", "prioritized", "unknown"]
    assert await state(taken) == "completed"


async def test_an_end_is_told_with_its_result_or_its_reason(bench: Bench) -> None:
    """``isFinished`` answers 1 with the result, 2 with the reason, 0 before, -1 without a job."""
    found = script("isFinished")

    async def finished(job_id: str) -> Any:
        keys = [*bench.keys.named("completed", "failed"), bench.keys.job(job_id)]
        return await bench.redis.eval(found.text, found.keys, *keys, job_id, "1")

    done, broken, waiting = [await bench.add() for _ in range(3)]
    await bench.complete(await bench.taken(), value='"done"')
    await bench.fail(await bench.taken())

    assert await finished(done) == [1, '"done"']
    assert await finished(broken) == [2, "no"]
    assert await finished(waiting) == [0]
    assert (await finished("none"))[0] == -1


async def test_a_failed_job_is_put_back_and_keeps_its_attempts(bench: Bench) -> None:
    """``reprocessJob`` answers 1, -3 for a job in another state, -1 without a job."""
    found = script("reprocessJob")

    async def reprocess(job_id: str) -> Any:
        keys = [
            bench.keys.job(job_id),
            *bench.keys.named("events", "failed", "wait", "meta", "active", "marker"),
            *bench.keys.named("prioritized", "pc"),
        ]
        args = (job_id, "LPUSH", "failedReason", "failed", "0", "0")
        return await bench.redis.eval(found.text, found.keys, *keys, *args)

    job_id = await bench.add()
    await bench.fail(await bench.taken())

    answers = [await reprocess(job_id), await reprocess(job_id), await reprocess("none")]

    assert answers == [1, -3, -1]
    assert await bench.field(job_id, "failedReason") is None
    assert await bench.field(job_id, "atm") == "1"
    assert await bench.redis.lrange(bench.keys["wait"], 0, -1) == [job_id]
