"""Handlers in processes of their own: what goes in and out, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from structlog.testing import capture_logs

from convolab_worker import CallNext, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import JobFailed
from convolab_worker.testing import run_handler
from tests.support.process_handlers import few, handlers
from tests.support.processes import all_gone, is_alive
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
SOON = 10.0
Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]


@pytest_asyncio.fixture
async def at_work(running: Running) -> AsyncIterator[tuple[Worker, JobClient]]:
    """A worker with the handlers of tests.support.process_handlers."""
    async with running(handlers, concurrency=4) as (worker, client):
        yield worker, client


async def ran(client: JobClient, name: str, data: Any = None, **options: Any) -> Any:
    return await client.result(await client.enqueue(name, data, **options), SOON)


async def noted(notes: Path) -> list[int]:
    """The process of a handler that hangs, and those that it has started."""
    await wait_until(lambda: notes.exists() and len(notes.read_text().split()) == 3)
    return [int(pid) for pid in notes.read_text().split()]  # noqa: ASYNC240 - a short file


async def stacktrace(redis: Redis, queue: str, job_id: str) -> list[str]:
    """The tracebacks that are kept with the job."""
    kept: list[str] = json.loads(await redis.hget(f"bull:{queue}:{job_id}", "stacktrace") or "[]")
    return kept


# what goes in and out


async def test_data_and_results_are_those_of_any_handler(
    at_work: tuple[Worker, JobClient],
) -> None:
    """JSON of any size, text of any script, and one process for one job after another."""
    _, client = at_work
    data = {"text": "日本語 😀 é", "none": None, "list": [1, 2.5, True], "big": "x" * 5_000_000}

    assert await ran(client, "echo", data) == data
    assert len(await ran(client, "sized", {"size": 5_000_000})) == 5_000_000
    assert await ran(client, "wrapped") == "inner"
    assert len({await ran(client, "pid") for _ in range(5)} - {os.getpid()}) == 1


async def test_jobs_at_once_have_a_process_each(at_work: tuple[Worker, JobClient]) -> None:
    """And no more are started than jobs have needed at once."""
    _, client = at_work
    jobs = [await client.enqueue("pid") for _ in range(40)]

    pids = {await client.result(job, SOON) for job in jobs}

    assert 1 <= len(pids) <= 4
    assert all(is_alive(pid) for pid in pids)


async def test_progress_and_logs_are_written_by_the_worker(
    at_work: tuple[Worker, JobClient],
) -> None:
    """Through its own configuration of structlog; the last progress is written always."""
    _, client = at_work
    with capture_logs() as lines:
        job_id = await client.enqueue("report", job_id="card")
        await client.result(job_id, SOON)

    status = await client.status(job_id)
    told = {line["event"]: line for line in lines if line.get("job_id") == "card"}
    assert status.progress == {"done": 1000}
    drawn = [told["drawn"][key] for key in ("colour", "size", "log_level")]
    assert drawn == ["red", 3, "info"]
    assert "x" in told["drawn"]["where"]
    assert "in fails_at" in told["mended"]["exception"]


async def test_steps_are_recorded_by_the_worker(
    at_work: tuple[Worker, JobClient], redis: Redis, queue_name: str
) -> None:
    """They run in the process, once, and are kept over attempts; a refusal is raised there."""
    _, client = at_work
    job_id = await client.enqueue("steps", attempts=2, backoff=0.3)
    await wait_until(lambda: redis.zcard(f"bull:{queue_name}:delayed"))
    kept = await redis.hmget(f"bull:{queue_name}:{job_id}", ["step:plain", "step:async", "data"])
    result = await client.result(job_id, SOON)

    assert [json.loads(text or "") for text in kept] == [*result[:2], {"attempt": 1}]
    assert len({made.partition(" by ")[2] for made in result[:2]} - {str(os.getpid())}) == 1
    assert len(result[2]) == 32
    with pytest.raises(JobFailed, match="step 'large': its result has 1048578 bytes"):
        await ran(client, "too large")


async def test_a_log_row_is_kept_with_the_job() -> None:
    """Level, event and keys, as for any handler."""
    run = await run_handler(handlers, "report")

    assert run.progress[-1] == {"done": 1000}
    assert len(run.progress) < 100
    assert run.logs[0].startswith("[info] drawn colour='red'")
    assert run.logs[-1] == "[error] mended"


@pytest.mark.parametrize(
    ("way", "reason", "state"),
    [
        ("error", "no voice 😀", "delayed"),
        ("unrecoverable", "never", "failed"),
        ("unpicklable", "7: no such voice", "delayed"),
        ("exit", "SystemExit: 3", "delayed"),
        ("a set", "result: expected a list (a set has no order), got {1, 2} (set)", "failed"),
        ("awaitable", "the handler returned an awaitable", "failed"),
        ("hard exit", "ended under its job, with exit code 3", "delayed"),
        ("killed", "was killed by SIGKILL: the kernel does that when memory runs out", "delayed"),
        ("crash", "was killed by SIGSEGV", "delayed"),
    ],
)
async def test_what_ends_a_handler_fails_its_attempt(way: str, reason: str, state: str) -> None:
    """With the handler's own message and traceback, whether or not the exception can be pickled."""
    run = await run_handler(handlers, "fail", {"way": way}, attempts=2, backoff=60, raises=False)

    assert run.reason is not None
    assert reason in run.reason
    assert (run.outcome, run.retry_in) == (
        ("failed", None) if state == "failed" else ("retried", 60)
    )


async def test_an_errors_traceback_is_the_handlers(
    at_work: tuple[Worker, JobClient], redis: Redis, queue_name: str
) -> None:
    """Without a frame of this library."""
    _, client = at_work
    job_id = await client.enqueue("fail", {"way": "error"})
    with pytest.raises(JobFailed):
        await client.result(job_id, SOON)

    (stack,) = await stacktrace(redis, queue_name, job_id)

    assert "in fails_at" in stack
    assert stack.endswith("ValueError: no voice 😀\n")
    assert "convolab_worker/worker" not in stack


async def test_retry_later_is_retry_later() -> None:
    """With its delay, and no attempt used up."""
    run = await run_handler(handlers, "fail", {"way": "later"})

    assert (run.outcome, run.retry_in) == ("postponed", 60)


async def test_data_that_does_not_fit_fails_for_good() -> None:
    """As anywhere; it is read in the process."""
    run = await run_handler(handlers, "sized", {"size": "5"}, attempts=3, raises=False)

    assert (run.outcome, run.reason) == ("failed", 'data.size: expected int, got "5" (str)')


async def test_resources_are_refused_with_what_to_do() -> None:
    """A connection can't go into another process."""
    run = await run_handler(handlers, "resources", raises=False)

    assert run.reason is not None
    assert run.reason.startswith("job.resources.session: a handler with process=True has not")


async def test_middleware_is_around_a_process_too() -> None:
    """It sees the data, and what the handler returned, as JSON has it."""
    around, seen = HandlerRegistry(), []
    around.include(handlers)

    @around.middleware
    async def see(job: Job[Any], call_next: CallNext) -> Any:
        result = await call_next(job)
        seen.append((job.data, result))
        return {"wrapped": result}

    run = await run_handler(around, "echo", {"n": [1]})

    assert seen == [({"n": [1]}, {"n": [1]})]
    assert run.result == {"wrapped": {"n": [1]}}


# how they end


@pytest.mark.parametrize("how", ["", "stubborn", "lock"])
async def test_a_time_out_ends_the_process_and_what_it_started(
    at_work: tuple[Worker, JobClient],
    redis: Redis,
    queue_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """By an exception first, so that it can tidy up; what does not end is killed."""
    monkeypatch.setattr("convolab_worker.worker.execution.handler_call.PATIENCE_SECONDS", 0.3)
    _, client = at_work
    notes = tmp_path / "notes"
    job_id = await client.enqueue("hang", {"notes": str(notes), "how": how})
    pids = await noted(notes)

    with pytest.raises(JobFailed, match=r"hang ran longer than its time-out of 0\.4 s") as failed:
        await client.result(job_id, SOON)

    await all_gone(pids)
    assert failed.value.reason.endswith("its process was killed") is bool(how)
    assert notes.with_suffix(".tidy").exists() is not bool(how)
    if not how:
        (stack,) = await stacktrace(redis, queue_name, job_id)
        assert "in _hang" in stack
        assert "in interrupt" not in stack
        assert "JobTimeout: hang ran longer" in stack
    assert await ran(client, "echo", 1) == 1


@pytest.mark.parametrize("how", ["", "returns"])
async def test_a_cancelled_job_ends_its_process(
    at_work: tuple[Worker, JobClient], tmp_path: Path, how: str
) -> None:
    """A handler that returns all the same has its result written, and its process ends as well."""
    _, client = at_work
    notes = tmp_path / "notes"
    job_id = await client.enqueue("hang on", {"notes": str(notes), "how": how})
    pids = await noted(notes)

    await client.cancel(job_id)

    if how:
        assert await client.result(job_id, SOON) == "cancelled True"
    else:
        with pytest.raises(JobFailed, match="cancelled"):
            await client.result(job_id, SOON)
    await all_gone(pids)


async def test_a_stop_returns_the_job_and_leaves_no_process(
    running: Running, client: JobClient, tmp_path: Path
) -> None:
    """Neither the one that ran the handler, nor an idle one, nor what they started."""
    notes = tmp_path / "notes"
    async with running(handlers, shutdown_grace=0.05, concurrency=2) as (_, _client):
        job_id = await client.enqueue("hang on", {"notes": str(notes), "how": "stubborn"})
        pids = await noted(notes)
        idle = await ran(client, "pid")
        assert is_alive(idle)

    assert not any(is_alive(pid) for pid in [*pids, idle])
    status = await client.status(job_id)
    assert (status.state, status.attempts_made) == ("waiting", 0)


async def test_a_process_that_died_idle_costs_no_job_anything(
    at_work: tuple[Worker, JobClient],
) -> None:
    """Another one takes its place."""
    _, client = at_work
    first = await ran(client, "pid")
    os.kill(first, signal.SIGKILL)

    assert await ran(client, "pid") != first


async def test_a_process_that_is_killed_costs_one_attempt_and_never_the_worker(
    at_work: tuple[Worker, JobClient], tmp_path: Path
) -> None:
    """The other jobs go on, and what the dead one had started ends."""
    _, client = at_work
    one, two = tmp_path / "one", tmp_path / "two"
    killed = await client.enqueue("hang on", {"notes": str(one)})
    other = await client.enqueue("hang on", {"notes": str(two), "how": "returns"})
    pids, others = await noted(one), await noted(two)

    os.kill(pids[0], signal.SIGKILL)

    with pytest.raises(JobFailed, match=r"the process of .*hang_on:\d+ was killed by SIGKILL"):
        await client.result(killed, SOON)
    await all_gone(pids)
    assert all(is_alive(pid) for pid in others)
    await client.cancel(other)
    assert await client.result(other, SOON) == "cancelled True"


def dies_of_hangups() -> None:
    """Let SIGHUP end a program, also where these tests run under nohup, which it would inherit."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("how", "number"), [("", signal.SIGKILL), ("lock", signal.SIGKILL), ("", signal.SIGHUP)]
)
async def test_a_worker_that_is_killed_leaves_no_orphan(
    make_settings: Callable[..., Settings],
    client: JobClient,
    tmp_path: Path,
    how: str,
    number: signal.Signals,
) -> None:
    """The kernel ends its processes and theirs, even one that holds the interpreter lock."""
    settings, notes = make_settings(), tmp_path / "notes"
    command = [
        *(sys.executable, "-m", "convolab_worker", "run"),
        *("--app", "tests.support.process_handlers:handlers"),
        *("--redis-url", settings.redis_url, "--queue", settings.queues[0]),
    ]
    with subprocess.Popen(  # noqa: ASYNC220
        command,
        stderr=subprocess.DEVNULL,
        preexec_fn=dies_of_hangups,  # noqa: PLW1509
    ) as worker:
        await client.enqueue("hang on", {"notes": str(notes), "how": how})
        pids = await noted(notes)
        assert all(is_alive(pid) for pid in pids)

        worker.send_signal(number)

    await all_gone(pids)


async def test_what_a_handler_forks_can_be_ended(at_work: tuple[Worker, JobClient]) -> None:
    """Nothing of this process's signal handlers is left in it."""
    assert await ran(at_work[1], "forks") == -signal.SIGTERM


async def test_code_that_keeps_the_interpreter_lock_runs_once(
    running: Running, tmp_path: Path
) -> None:
    """The lock of the job is renewed meanwhile: here it lasts for half of that time."""
    notes = tmp_path / "notes"
    async with running(handlers, lock_duration=2.0) as (_, client):
        job = {"notes": str(notes), "seconds": "4"}
        assert await ran(client, "keeps the lock", job) == 1

    assert notes.read_text() == "started\n"


# renewal


async def test_a_process_is_renewed_after_so_many_jobs(running: Running) -> None:
    """Two each; nobody waits for the end of the old one."""
    async with running(few, concurrency=1) as (_, client):
        pids = [await ran(client, "few jobs") for _ in range(6)]
        await all_gone(pids[:4])

    assert pids[0::2] == pids[1::2]
    assert len(set(pids)) == 3


async def test_a_process_is_renewed_when_it_has_taken_so_much_memory(running: Running) -> None:
    """Between two jobs."""
    async with running(few, concurrency=1) as (_, client):
        pids = [await ran(client, "little memory", {"mb": mb}) for mb in (1, 120, 1)]

    assert pids[0] == pids[1] != pids[2]
