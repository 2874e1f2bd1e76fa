"""The worker's main job, on a real server: dispatch, outcomes, attempts, courses, drain."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import (
    ConfigurationError,
    JobFailed,
    JobNotFound,
    RedisUnavailable,
    RetryLater,
    UnrecoverableError,
)
from tests.support.punctuality import Punctuality
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from redis.asyncio import Redis

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio
SOON = 10.0


@dataclass
class Speech:
    """A payload."""

    text: str
    speed: float = 1.0


async def test_job_runs_by_queue_and_name(running: Running, queue_name: str) -> None:
    """A handler of one queue alone comes before one of any queue, for the same job name."""
    handlers = HandlerRegistry()
    other = f"{queue_name}-other"

    @handlers.audio("generate", queue=queue_name)
    async def audio(job: Job[Any]) -> str:
        return f"audio {job.kind}"

    @handlers.image("generate")
    async def image(job: Job[Any]) -> str:
        return f"image {job.kind}"

    async with running(handlers, queues=(queue_name, other)) as (_, client):
        first = await client.enqueue("generate", queue=queue_name)
        second = await client.enqueue("generate", queue=other)
        results = [await client.result(job, SOON) for job in (first, second)]

    assert results == ["audio audio", "image image"]


async def test_name_that_nobody_handles_fails_for_good(running: Running) -> None:
    """It fails at once, whatever attempts it has, and the reason lists the names handled there."""
    handlers = HandlerRegistry()

    @handlers.audio("generate-audio", "speak")
    async def audio(job: Job[Any]) -> None:
        del job

    async with running(handlers) as (_, client):
        job = await client.enqueue("sing", attempts=5)
        with pytest.raises(JobFailed, match="no handler for 'sing' .*generate-audio, speak"):
            await client.result(job, SOON)
        status = await client.status(job)

    assert (status.state, status.attempts_made) == ("failed", 1)


async def test_payload_is_validated_before_the_handler(running: Running) -> None:
    """A wrong shape names the field and what was expected, and is not tried again."""
    handlers = HandlerRegistry()
    seen: list[Speech] = []

    @handlers.audio("speak")
    async def speak(job: Job[Speech]) -> float:
        seen.append(job.data)
        return job.data.speed

    async with running(handlers) as (_, client):
        good = await client.enqueue("speak", {"text": "hola", "speed": 0.5})
        bad = await client.enqueue("speak", {"text": "hola", "speed": "fast"}, attempts=3)
        assert await client.result(good, SOON) == 0.5
        with pytest.raises(JobFailed, match=r"data\.speed: expected .*got \"fast\""):
            await client.result(bad, SOON)
        status = await client.status(bad)

    assert seen == [Speech("hola", 0.5)]
    assert status.attempts_made == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "result"),
        (b"bytes", "bytes"),
        ({"a": [1, float("nan")]}, r"result\.a\[1\]"),
        ({"id": 2**60}, r"result\.id"),
    ],
)
async def test_result_that_is_not_json_fails_once(
    running: Running, value: object, reason: str
) -> None:
    """Its work was done, so it fails for good at the first attempt, and the place is named."""
    handlers = HandlerRegistry()
    calls = 0

    @handlers.audio("speak")
    async def speak(job: Job[Any]) -> object:
        nonlocal calls
        del job
        calls += 1
        return value

    async with running(handlers) as (_, client):
        job = await client.enqueue("speak", attempts=3)
        with pytest.raises(JobFailed, match=reason):
            await client.result(job, SOON)

    assert calls == 1


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("own"), GeneratorExit("x")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("threaded", [False, True])
async def test_no_exception_ends_the_worker(
    running: Running, error: BaseException, *, threaded: bool
) -> None:
    """Whatever a handler raises fails its job with that reason, and the next job runs."""
    handlers = HandlerRegistry()

    async def in_loop(job: Job[Any]) -> None:
        del job
        raise error

    def in_thread(job: Job[Any]) -> None:
        del job
        raise error

    handlers.audio("bad")(in_thread if threaded else in_loop)

    @handlers.audio("good")
    async def good(job: Job[Any]) -> str:
        return job.name

    async with running(handlers, concurrency=1) as (_, client):
        bad_id = await client.enqueue("bad")
        good_id = await client.enqueue("good")
        with pytest.raises(JobFailed, match=type(error).__name__):
            await client.result(bad_id, SOON)
        assert await client.result(good_id, SOON) == "good"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"text": "hola"', "JSON"),
        ('{"text": NaN}', "NaN"),
        ("[" * 200_000, "JSON|deep|nest"),
        ('{"text": "' + "x" * 5_000_000 + '"}', None),
    ],
    ids=["not JSON", "NaN", "deep", "5 MB"],
)
async def test_bad_data_fails_its_job_alone(
    running: Running, redis: Redis, queue_name: str, raw: str, reason: str | None
) -> None:
    """Data written straight to Redis fails its job with its reason, and the next job runs."""
    handlers = HandlerRegistry()

    @handlers.audio("speak")
    async def speak(job: Job[Speech]) -> int:
        return len(job.data.text)

    client_settings = {"concurrency": 1}
    await redis.hset(
        f"bull:{queue_name}:raw-1", mapping={"name": "speak", "data": raw, "opts": "{}"}
    )
    await redis.lpush(f"bull:{queue_name}:wait", "raw-1")
    async with running(handlers, **client_settings) as (_, client):
        after = await client.enqueue("speak", {"text": "hola"})
        assert await client.result(after, SOON) == 4
        if reason is None:
            assert await client.result("raw-1", SOON) == 5_000_000
        else:
            with pytest.raises(JobFailed, match=reason):
                await client.result("raw-1", SOON)


async def test_job_without_a_hash_fails_with_its_reason(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """An id in the queue whose job was never written fails, and the next job runs."""
    handlers = HandlerRegistry()

    @handlers.audio("speak")
    async def speak(job: Job[Any]) -> str:
        return job.id

    odd = "ghost ✨ 喉"
    await redis.lpush(f"bull:{queue_name}:wait", odd)
    async with running(handlers, concurrency=1) as (_, client):
        after = await client.enqueue("speak")
        assert await client.result(after, SOON) == after
        with pytest.raises(JobFailed, match="hash has no name"):
            await client.result(odd, SOON)


async def test_attempts_and_backoff(running: Running) -> None:
    """A failing job is tried as often as its options say, after its backoff."""
    handlers = HandlerRegistry()
    started: list[float] = []

    @handlers.audio("flaky")
    async def flaky(job: Job[Any]) -> int:
        started.append(time.monotonic())
        if job.attempt < 3:
            msg = f"attempt {job.attempt} of {job.max_attempts}"
            raise ValueError(msg)
        return job.attempt

    async with running(handlers) as (_, client):
        job = await client.enqueue("flaky", attempts=3, backoff=0.2)
        assert await client.result(job, SOON) == 3

    pauses = [after - before for before, after in itertools.pairwise(started)]
    assert all(pause >= 0.19 for pause in pauses)


async def test_unrecoverable_error_ends_the_attempts(running: Running) -> None:
    """UnrecoverableError fails the job at once, with the message as its reason."""
    handlers = HandlerRegistry()

    @handlers.audio("doomed")
    async def doomed(job: Job[Any]) -> None:
        del job
        msg = "no such voice"
        raise UnrecoverableError(msg)

    async with running(handlers) as (_, client):
        job = await client.enqueue("doomed", attempts=9)
        with pytest.raises(JobFailed, match="no such voice"):
            await client.result(job, SOON)
        status = await client.status(job)

    assert status.attempts_made == 1


async def test_retry_later_uses_up_no_attempt(running: Running) -> None:
    """RetryLater runs the job again after its delay, as the same attempt."""
    handlers = HandlerRegistry()
    attempts: list[int] = []

    @handlers.audio("busy")
    async def busy(job: Job[Any]) -> int:
        attempts.append(job.attempt)
        if len(attempts) < 3:
            raise RetryLater(0.05)
        return len(attempts)

    async with running(handlers) as (_, client):
        job = await client.enqueue("busy")
        assert await client.result(job, SOON) == 3
        status = await client.status(job)

    assert attempts == [1, 1, 1]
    assert status.attempts_made == 1


async def test_unknown_backoff_fails_with_a_reason(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """A backoff of an unknown name fails its job, and strands nothing in active."""
    handlers = HandlerRegistry()

    @handlers.audio("flaky")
    async def flaky(job: Job[Any]) -> None:
        del job
        msg = "out of voices"
        raise ValueError(msg)

    async with running(handlers) as (_, client):
        job = await client.enqueue("flaky", attempts=3, backoff={"type": "mine", "delay": 1})
        with pytest.raises(JobFailed, match="out of voices.*unknown strategy 'mine'"):
            await client.result(job, SOON)

    assert await redis.llen(f"bull:{queue_name}:active") == 0


async def test_timeout_fails_the_attempt_and_frees_the_slot(running: Running) -> None:
    """A handler over its time-out is cancelled, and its job fails with JobTimeout's reason."""
    handlers = HandlerRegistry()
    cancelled = asyncio.Event()

    @handlers.audio("slow", timeout=0.1)
    async def slow(job: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            assert job.cancelled.is_set()
            cancelled.set()

    async with running(handlers, concurrency=1) as (_, client):
        job = await client.enqueue("slow")
        with pytest.raises(JobFailed, match="slow ran longer than its time-out of 0.1 s"):
            await client.result(job, SOON)

    assert cancelled.is_set()


async def test_sync_handler_runs_in_a_thread(running: Running) -> None:
    """A plain function runs beside the loop, can report progress, and sees `cancelled`."""
    handlers = HandlerRegistry()

    @handlers.image("draw")
    def draw(job: Job[Any]) -> str:
        job.progress(50)
        return threading.current_thread().name

    async with running(handlers) as (_, client):
        job = await client.enqueue("draw", job_id="card")
        assert await client.result(job, SOON) == "job card"
        status = await client.status(job)

    assert status.progress == 50


async def test_threads_are_kept_from_job_to_job_and_end_with_the_worker(running: Running) -> None:
    """What is local to a thread, such as a session, is made once for each slot that needs one."""
    handlers, made, local = HandlerRegistry(), [], threading.local()

    @handlers.image("draw")
    def draw(_job: Job[Any]) -> None:
        if not hasattr(local, "session"):
            local.session = object()
            made.append(threading.current_thread())

    async with running(handlers, concurrency=2) as (_, client):
        jobs = [await client.enqueue("draw") for _ in range(20)]
        for job in jobs:
            await client.result(job, SOON)

    assert 1 <= len(made) <= 2
    for thread in made:
        await asyncio.to_thread(thread.join, SOON)
        assert not thread.is_alive()


async def test_progress_is_coalesced_and_the_last_is_written(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """A hundred updates in one go cost two writes at most, and the last value stands."""
    handlers = HandlerRegistry()

    @handlers.audio("speak")
    async def speak(job: Job[Any]) -> None:
        for percent in range(1, 101):
            await job.progress(percent)
            await asyncio.sleep(0)

    async with running(handlers) as (_, client):
        job = await client.enqueue("speak")
        await client.result(job, SOON)
        status = await client.status(job)

    entries: Any = await redis.xrange(f"bull:{queue_name}:events")
    updates = [fields["data"] for _, fields in entries if fields["event"] == "progress"]
    assert status.progress == 100
    assert len(updates) <= 2
    assert updates[-1] == "100"


async def test_log_rows_are_kept_with_the_job(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """What a handler logs can be read with the job, as dashboards do."""
    handlers = HandlerRegistry()

    @handlers.audio("speak")
    async def speak(job: Job[Any]) -> None:
        job.log.info("synthesising", chars=5)
        job.log.warning("voice missing")

    async with running(handlers) as (_, client):
        job = await client.enqueue("speak")
        await client.result(job, SOON)

    rows = await redis.lrange(f"bull:{queue_name}:{job}:logs", 0, -1)
    assert rows == ["[info] synthesising chars=5", "[warning] voice missing"]


async def test_course_frees_its_slot_and_goes_on_with_results(
    running: Running, queue_name: str
) -> None:
    """With one slot in all, a course's parts on two queues run, and the course ends with them."""
    handlers = HandlerRegistry()
    parts = f"{queue_name}-parts"

    @handlers.course("course")
    async def course(job: Job[Any]) -> dict[str, Any]:
        done = await job.children_results()
        if "dialogue" not in done:
            await job.enqueue_children([Child("part", {"n": 1}, key="dialogue")])
        if "audio" not in done:
            await job.enqueue_children(
                [
                    Child("part", {"n": n}, queue=parts, key=key)
                    for n, key in ((2, "audio"), (3, "i"))
                ]
            )
        return done

    @handlers.dialogue("part")
    async def part(job: Job[Any]) -> int:
        return int(job.data["n"]) * 10

    async with running(handlers, queues=(queue_name, parts), concurrency=1) as (_, client):
        job = await client.enqueue("course")
        result = await client.result(job, SOON)

    assert result == {"dialogue": 10, "audio": 20, "i": 30}


async def test_failed_part_fails_the_course_with_its_reason(running: Running) -> None:
    """The course's reason has the part's; with on_failure="ignore" the course goes on."""
    handlers = HandlerRegistry()

    @handlers.course("course")
    async def course(job: Job[Any]) -> str:
        done = await job.children_results()
        if not done:
            bad = Child("bad", on_failure=job.data["on_failure"])
            await job.enqueue_children([Child("good"), bad])
        return "assembled"

    @handlers.audio("good")
    async def good(job: Job[Any]) -> str:
        return job.name

    @handlers.audio("bad")
    async def bad(job: Job[Any]) -> None:
        del job
        msg = "no voice for klingon"
        raise UnrecoverableError(msg)

    async with running(handlers) as (_, client):
        strict = await client.enqueue("course", {"on_failure": "fail"})
        lenient = await client.enqueue("course", {"on_failure": "ignore"})
        with pytest.raises(JobFailed, match="no voice for klingon"):
            await client.result(strict, SOON)
        assert await client.result(lenient, SOON) == "assembled"


async def test_delayed_job_runs_when_it_is_due(running: Running) -> None:
    """A delayed job starts within a breath of its due time, while the worker is idle."""
    with Punctuality() as times:
        async with running(times.handlers, idle_min=5, idle_max=60) as (_, client):
            jobs = [await times.add(client, delay) for delay in (0.3, 0.5, 0.7)]
            for job in jobs:
                await client.result(job, SOON)

    assert max(times.early) <= 0.005
    assert max(times.late) < 1.0


async def test_drain_runs_what_is_there_and_counts_it(
    make_settings: Callable[..., Settings],
) -> None:
    """Completed, failed and delayed jobs are told apart, and children are part of it."""
    handlers = HandlerRegistry()

    @handlers.audio("good")
    async def good(job: Job[Any]) -> str:
        return job.name

    @handlers.audio("bad")
    async def bad(job: Job[Any]) -> None:
        del job
        msg = "bad"
        raise UnrecoverableError(msg)

    @handlers.course("course")
    async def course(job: Job[Any]) -> None:
        if not await job.children_results():
            await job.enqueue_children([Child("good", key=str(n)) for n in range(3)])

    settings = make_settings()
    async with JobClient(settings) as client:
        for _ in range(20):
            await client.enqueue("good")
        for _ in range(5):
            await client.enqueue("bad")
        await client.enqueue("course")
        due = time.time() + 3600
        await client.enqueue("good", delay=3600)
        result = await Worker(handlers, settings).drain()

    assert (result.processed, result.failed, result.remaining) == (29, 5, 1)
    assert result.next_due_at is not None
    assert abs(result.next_due_at - due) < 5


async def test_drain_ends_within_its_budget(make_settings: Callable[..., Settings]) -> None:
    """What runs when the budget is over goes back to its queue, and is counted as remaining."""
    handlers = HandlerRegistry()

    @handlers.audio("endless")
    async def endless(job: Job[Any]) -> None:
        del job
        await asyncio.Event().wait()

    settings = make_settings(shutdown_grace=0.2)
    async with JobClient(settings) as client:
        for _ in range(3):
            await client.enqueue("endless")
        with Stopwatch() as watch:
            result = await Worker(handlers, settings, concurrency=2).drain(budget=1.0)
        counts = await client.counts()

    assert (result.processed, result.remaining) == (0, 3)
    assert watch.seconds < 2.0
    assert counts[settings.queues[0]]["active"] == 0


async def test_three_workers_share_a_queue(
    make_settings: Callable[..., Settings], redis: Redis, queue_name: str
) -> None:
    """Each of 300 jobs runs once, whichever of three workers has it."""
    handlers = HandlerRegistry()

    @handlers.audio("count")
    async def count(job: Job[Any]) -> None:
        await redis.hincrby(f"{queue_name}:runs", job.id, 1)

    settings = make_settings()
    workers = [Worker(handlers, settings) for _ in range(3)]
    async with JobClient(settings) as client, workers[0], workers[1], workers[2]:
        jobs = [await client.enqueue("count") for _ in range(300)]
        for job in jobs:
            await client.result(job, SOON)

    runs = await redis.hgetall(f"{queue_name}:runs")
    assert runs == dict.fromkeys(jobs, "1")


async def test_worker_lives_once(make_settings: Callable[..., Settings]) -> None:
    """A worker that has run says so when it is run again."""
    handlers = HandlerRegistry()

    @handlers.audio("x")
    async def x(job: Job[Any]) -> None:
        del job

    worker = Worker(handlers, make_settings())
    await worker.drain()

    with pytest.raises(ConfigurationError, match="has run already"):
        await worker.run()


async def test_stats_cost_no_command(running: Running, redis: Redis) -> None:
    """The worker tells what it does from memory, as plain JSON."""
    handlers = HandlerRegistry()

    @handlers.audio("x")
    async def x(job: Job[Any]) -> None:
        del job

    async with running(handlers) as (worker, client):
        await client.result(await client.enqueue("x"), SOON)
        await wait_until(lambda: worker.stats()["outcomes"].get("completed"))
        sent = worker.stats()["commands"]["sent"]
        stats = worker.stats()

    assert stats["commands"]["sent"] == sent
    assert json.loads(json.dumps(stats))["outcomes"] == {"completed": 1}
    assert await redis.ping()


@pytest.mark.parametrize("on_failure", ["ignore", "continue", "remove"])
async def test_failed_part_that_does_not_matter_is_none_and_is_not_waited_for(
    running: Running, on_failure: str
) -> None:
    """Asked for again, stage by stage, it neither holds the course up nor runs a second time."""
    handlers = HandlerRegistry()
    runs: list[str] = []

    @handlers.course("course")
    async def course(job: Job[Any]) -> Any:
        done = await job.children_results()
        if "bad" not in done:
            await job.enqueue_children([Child("bad", on_failure=job.data)])
        if "good" not in done:
            await job.enqueue_children([Child("good")])
        return [done, await job.children_failures()]

    @handlers.audio("good")
    async def good(job: Job[Any]) -> str:
        return job.name

    @handlers.audio("bad")
    async def bad(job: Job[Any]) -> None:
        runs.append(job.id)
        msg = "no voice"
        raise UnrecoverableError(msg)

    async with running(handlers) as (_, client):
        job = await client.enqueue("course", on_failure)
        result = await client.result(job, SOON)

    assert result == [{"bad": None, "good": "good"}, {"bad": "no voice"}]
    assert len(runs) == 1


async def test_handler_that_asks_for_ended_children_for_ever_fails(running: Running) -> None:
    """Without a look at the results it would go round for ever; it fails and is told why."""
    handlers = HandlerRegistry()

    @handlers.course("course")
    async def course(job: Job[Any]) -> None:
        await job.enqueue_children([Child("good")])

    @handlers.audio("good")
    async def good(job: Job[Any]) -> str:
        return job.name

    async with running(handlers) as (_, client):
        job = await client.enqueue("course")
        with pytest.raises(JobFailed, match=r"all of them have ended \(good\)"):
            await client.result(job, SOON)


async def events_are_read(redis: Redis) -> bool:
    """Whether a client waits for the events of a queue."""
    return any(client["cmd"] == "xread" for client in await redis.client_list())


async def test_waiters_are_told_when_the_client_is_closed(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    """Whoever waits for a result while the client is closed is not left waiting."""
    async with JobClient(make_settings()) as client:
        job = await client.enqueue("nobody")
        waiting = asyncio.create_task(client.result(job, SOON))
        await wait_until(lambda: events_are_read(redis))

    with pytest.raises(RedisUnavailable, match="client was closed"):
        await waiting


async def test_result_of_a_removed_job_is_not_waited_for(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """A job that is removed while its result is awaited is said to be gone."""
    handlers = HandlerRegistry()

    @handlers.audio("x")
    async def x(job: Job[Any]) -> None:
        del job

    async with running(handlers) as (_, client):
        job = await client.enqueue("x", delay=3600)
        waiting = asyncio.create_task(client.result(job, SOON))
        await wait_until(lambda: events_are_read(redis))
        await redis.delete(f"bull:{queue_name}:{job}")
        await redis.xadd(f"bull:{queue_name}:events", {"event": "removed", "jobId": job})
        with pytest.raises(JobNotFound, match="was removed"):
            await waiting


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "a:b"},
        {"queue": ""},
        {"priority": True},
        {"priority": 2**21},
        {"attempts": 0},
        {"attempts": float("nan")},
        {"delay": "5"},
        {"backoff": "fixed"},
        {"job_id": "17"},
        {"job_id": "\ud800"},
        {"deduplication": 5},
    ],
    ids=repr,
)
async def test_option_that_cannot_be_is_refused_before_anything_is_sent(
    make_settings: Callable[..., Settings], options: dict[str, Any]
) -> None:
    """The error names the option and what was expected."""
    async with JobClient(make_settings()) as client:
        sent = client.counter.client_sent
        with pytest.raises(ConfigurationError, match="expected"):
            await client.enqueue("x", **options)

    assert client.counter.client_sent == sent


async def test_failed_handler_is_logged_with_its_line(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log says where in the handler's code it failed."""
    handlers = HandlerRegistry()

    @handlers.audio("x")
    async def x(job: Job[Any]) -> Any:
        known: dict[str, Any] = {}
        return known[job.id]

    async with running(handlers) as (_, client):
        with pytest.raises(JobFailed):
            await client.result(await client.enqueue("x"), SOON)

    assert "test_worker.py:" in capsys.readouterr().out
