"""The command line against a real server: commands, exit codes, streams and signals."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import JobClient
from tests.support.commands import TIMEOUT, Commands
from tests.support.waiting import wait_until

JOBS = """
import asyncio, os, time
from redis.asyncio import Redis
from convolab_worker import HandlerRegistry
from convolab_worker.errors import UnrecoverableError

handlers = HandlerRegistry()

def connect():
    return Redis.from_url(os.environ["TEST_REDIS_URL"], socket_timeout=None)

@handlers.audio("echo")
async def echo(job):
    await job.progress(50)
    await job.progress({"step": "last"})
    return {"got": job.data}

@handlers.audio("loop")
async def loop(job):
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]

@handlers.audio("refuse")
async def refuse(job):
    raise UnrecoverableError("not today")

@handlers.audio("until-released")
async def until_released(job):
    async with connect() as redis:
        await redis.rpush(f"{job.queue}:started", job.id)
        await redis.blpop(f"{job.queue}:release", timeout=0)
    return "released"

@handlers.audio("blocking")
async def blocking(job):
    async with connect() as redis:
        await redis.rpush(f"{job.queue}:started", job.id)
    time.sleep(600)
"""


@pytest_asyncio.fixture
async def commands(tmp_path: Path, server_url: str, queue_name: str) -> AsyncIterator[Commands]:
    """Commands in a directory with ``jobs.py``."""
    (tmp_path / "jobs.py").write_text(JOBS, encoding="utf-8")
    commands = Commands(tmp_path, server_url, queue_name)
    yield commands
    await commands.close()


async def started(redis: Redis, queue: str) -> None:
    """Wait until a handler says that it has started."""
    await wait_until(
        lambda: redis.llen(f"{queue}:started"), timeout=TIMEOUT, what="the start of the handler"
    )


@pytest.mark.asyncio
async def test_drain_prints_its_result_and_ends_with_0(
    commands: Commands, client: JobClient
) -> None:
    """What is there is processed, and standard output is one JSON line."""
    job_id = await client.enqueue("echo", {"a": 1})

    code, out, errors = await commands.run("drain", "--app", "jobs:handlers")

    assert code == 0, errors
    assert json.loads(out) == {"processed": 1, "failed": 0, "remaining": 0, "next_due_at": None}
    assert out.count("\n") == 1
    assert (await client.status(job_id)).state == "completed"


@pytest.mark.asyncio
@pytest.mark.parametrize("command", [["drain"], ["run", "--burst"]])
async def test_a_job_that_fails_for_good_makes_drain_end_with_1(
    command: list[str], commands: Commands, client: JobClient
) -> None:
    """Drain, and run --burst, tell a failed job by their exit code; the result is printed."""
    await client.enqueue("refuse", {})
    await client.enqueue("echo", {})

    code, out, _ = await commands.run(*command, "--app", "jobs:handlers")

    assert code == 1
    assert json.loads(out)["failed"] == 1


@pytest.mark.asyncio
async def test_drain_tells_when_the_next_delayed_job_is_due(
    commands: Commands, client: JobClient
) -> None:
    """A job that is not due is left, counted and told of; the exit code is 0."""
    await client.enqueue("echo", {}, delay=3600)

    code, out, _ = await commands.run("drain", "--app", "jobs:handlers")

    result = json.loads(out)
    assert code == 0
    assert (result["processed"], result["remaining"]) == (0, 1)
    assert result["next_due_at"] is not None


@pytest.mark.asyncio
async def test_drain_runs_in_uvloop_where_it_is_installed(
    commands: Commands, client: JobClient
) -> None:
    """The extra is used when it is there, and not missed when it is not."""
    job_id = await client.enqueue("loop")
    code, _, errors = await commands.run("drain", "--app", "jobs:handlers")

    expected = "asyncio" if find_spec("uvloop") is None else "uvloop"
    assert code == 0, errors
    assert (await client.status(job_id)).result == expected


@pytest.mark.asyncio
async def test_drain_keeps_to_its_budget(commands: Commands, client: JobClient) -> None:
    """When the budget is over, a job that still runs goes back to its queue."""
    job_id = await client.enqueue("until-released", {})

    code, out, errors = await commands.run("drain", "--app", "jobs:handlers", "--budget", "1s")

    assert code == 0, errors
    assert json.loads(out)["remaining"] == 1
    assert (await client.status(job_id)).state == "waiting"


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_jobs_finish_and_ends_with_0(
    number: signal.Signals,
    commands: Commands,
    client: JobClient,
    redis: Redis,
    queue_name: str,
) -> None:
    """The first signal stops the worker cleanly: its job is completed, standard output empty."""
    worker = await commands.start("run", "--app", "jobs:handlers", "--shutdown-grace", "15s")
    job_id = await client.enqueue("until-released", {})
    await started(redis, queue_name)

    worker.send(number)
    await worker.until("worker.signal")
    await redis.rpush(f"{queue_name}:release", "go")
    code, out, errors = await worker.ended()

    assert (code, out) == (0, ""), errors
    assert (await client.status(job_id)).state == "completed"
    assert "Traceback" not in errors


@pytest.mark.asyncio
async def test_an_idle_worker_stops_at_once(commands: Commands) -> None:
    """A blocked read does not hold up the end."""
    worker = await commands.start("run", "--app", "jobs:handlers", "--idle-max", "1h")
    await worker.until("worker.")

    worker.send(signal.SIGTERM)
    code, out, errors = await worker.ended(timeout=5.0)

    assert (code, out) == (0, ""), errors


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_sends_running_jobs_back_at_once(
    number: signal.Signals,
    commands: Commands,
    client: JobClient,
    redis: Redis,
    queue_name: str,
) -> None:
    """With a long grace period, the second signal ends the worker now, without a traceback."""
    worker = await commands.start("run", "--app", "jobs:handlers", "--shutdown-grace", "10m")
    job_id = await client.enqueue("until-released", {})
    await started(redis, queue_name)

    worker.send(number)
    await worker.until("worker.signal")
    worker.send(number)
    code, _, errors = await worker.ended(timeout=10.0)

    status = await client.status(job_id)
    assert code == 0, errors
    assert (status.state, status.attempts_made) == ("waiting", 0)
    assert "Traceback" not in errors


@pytest.mark.asyncio
async def test_a_third_signal_ends_even_a_blocked_worker(
    commands: Commands, client: JobClient, redis: Redis, queue_name: str
) -> None:
    """A handler that blocks the event loop can't keep the process from ending."""
    worker = await commands.start("run", "--app", "jobs:handlers")
    await client.enqueue("blocking", {})
    await started(redis, queue_name)

    ending = asyncio.create_task(worker.ended())
    while not ending.done():
        worker.send(signal.SIGTERM)
        await asyncio.wait([ending], timeout=0.2)

    code, _, errors = await ending
    assert code in {128 + signal.SIGTERM, -signal.SIGTERM}, errors
    assert "Traceback" not in errors


@pytest.mark.asyncio
async def test_a_drain_that_is_told_to_stop_still_prints_its_result(
    commands: Commands, client: JobClient, redis: Redis, queue_name: str
) -> None:
    """A signal ends a drain early, with what was done so far on standard output."""
    await client.enqueue("until-released", {})
    drain = await commands.start("drain", "--app", "jobs:handlers", "--shutdown-grace", "0")
    await started(redis, queue_name)

    drain.send(signal.SIGTERM)
    code, out, errors = await drain.ended()

    assert code == 0, errors
    assert json.loads(out)["remaining"] == 1
    assert "Traceback" not in errors


@pytest.mark.asyncio
async def test_run_embedded_brings_its_own_server(commands: Commands) -> None:
    """The address is told on standard error, jobs run on it, and it ends with the worker."""
    worker = await commands.start("run", "--app", "jobs:handlers", "--embedded")
    line = await worker.until("REDIS_URL")
    assert line.startswith("export REDIS_URL=redis://127.0.0.1:")  # to be pasted
    url = line.strip().partition("=")[2]

    code, out, errors = await commands.run("enqueue", "echo", "--wait", "--redis-url", url)
    worker.send(signal.SIGTERM)
    ended, _, _ = await worker.ended()
    after, _, refusal = await commands.run("status", "--redis-url", url)

    assert (code, json.loads(out)) == (0, {"got": {}}), errors
    assert ended == 0
    assert after == 1, refusal


@pytest.mark.asyncio
async def test_enqueue_prints_the_id_of_a_job_with_the_options_of_its_flags(
    commands: Commands, redis: Redis, queue_name: str
) -> None:
    """Data, delay, priority and attempts are in the job, in BullMQ's own form."""
    flags = ["--delay", "5m", "--priority", "3", "--attempts", "4", "--job-id", "mine"]

    code, out, errors = await commands.run("enqueue", "echo", '{"text": "日本"}', *flags)

    job = await redis.hgetall(f"bull:{queue_name}:mine")
    options = json.loads(job["opts"])
    assert (code, out) == (0, "mine\n"), errors
    assert json.loads(job["data"]) == {"text": "日本"}
    assert (options["attempts"], job["delay"], job["priority"]) == (4, "300000", "3")


@pytest.mark.asyncio
async def test_enqueue_to_a_queue_of_its_own(
    commands: Commands, redis: Redis, queue_name: str
) -> None:
    """--queue says where the job goes; without JSON its data is an empty object."""
    code, out, _ = await commands.run("enqueue", "echo", "--queue", f"{queue_name}-b")

    assert code == 0
    assert await redis.hget(f"bull:{queue_name}-b:{out.strip()}", "data") == "{}"


@pytest.mark.asyncio
async def test_enqueue_with_wait_shows_progress_and_prints_the_result(commands: Commands) -> None:
    """Progress is on standard error; standard output has the result as JSON, alone."""
    waiting = await commands.start("enqueue", "echo", '{"a": [1]}', "--wait")
    await waiting.until("is on")
    await commands.start("run", "--app", "jobs:handlers")

    code, out, errors = await waiting.ended()

    assert code == 0, errors
    assert json.loads(out) == {"got": {"a": [1]}}
    assert re.search(r'^job \S+: (50 %|\{"step": "last"\})$', errors, re.MULTILINE), errors


@pytest.mark.asyncio
async def test_enqueue_with_wait_ends_with_1_when_the_job_fails(commands: Commands) -> None:
    """The reason is on standard error, and standard output stays empty."""
    await commands.start("run", "--app", "jobs:handlers")

    code, out, errors = await commands.run("enqueue", "refuse", "--wait")

    assert (code, out) == (1, ""), errors
    assert "not today" in errors
    assert "Traceback" not in errors


@pytest.mark.asyncio
async def test_enqueue_with_wait_gives_up_at_its_timeout(commands: Commands) -> None:
    """Where nobody works, the wait ends as --timeout says, with code 1."""
    code, out, errors = await commands.run("enqueue", "echo", "--wait", "--timeout", "500ms")

    assert (code, out) == (1, "")
    assert "has not finished after 0.5 s; it is still on " in errors
    assert "Traceback" not in errors


@pytest.mark.asyncio
async def test_ctrl_c_ends_a_wait_quietly(commands: Commands) -> None:
    """Ctrl-C during a wait gives code 130 and no traceback."""
    waiting = await commands.start("enqueue", "echo", "--wait")
    await waiting.until("is on")

    waiting.send(signal.SIGINT)
    code, out, errors = await waiting.ended()

    assert (code, out) == (130, "")
    assert "Traceback" not in errors


@pytest.mark.asyncio
async def test_status_counts_jobs_by_queue_and_state(
    commands: Commands, client: JobClient, queue_name: str
) -> None:
    """The table has a line for each queue; --json prints the same numbers."""
    await client.enqueue("echo", {})
    await client.enqueue("echo", {}, delay=3600)
    await client.enqueue("echo", {}, queue=f"{queue_name}-b")
    queues = ["--queue", queue_name, "--queue", f"{queue_name}-b"]

    code, table, errors = await commands.run("status", *queues)
    _, as_json, _ = await commands.run("status", *queues, "--json")

    counts = json.loads(as_json)
    assert code == 0, errors
    assert (counts[queue_name]["waiting"], counts[queue_name]["delayed"]) == (1, 1)
    head, first, second = table.splitlines()
    shown = dict(zip(re.split(r"  +", head.strip()), re.split(r"  +", first.strip()), strict=False))
    states = ("waiting", "delayed", "active", "failed")
    assert shown["queue"] == queue_name
    assert [shown[state] for state in states] == [str(counts[queue_name][each]) for each in states]
    assert re.fullmatch(r"\d+s", shown["oldest"])
    assert second.split()[0] == f"{queue_name}-b"


@pytest.mark.asyncio
async def test_status_of_one_job(commands: Commands, client: JobClient, queue_name: str) -> None:
    """What is known of a job is printed as lines, or as JSON."""
    job_id = await client.enqueue("refuse", {})
    await commands.run("drain", "--app", "jobs:handlers")

    code, lines, errors = await commands.run("status", job_id)
    _, as_json, _ = await commands.run("status", job_id, "--json")

    job = json.loads(as_json)
    assert code == 0, errors
    assert (job["id"], job["queue"], job["state"]) == (job_id, queue_name, "failed")
    assert job["failed_reason"] == "not today"
    assert "\nreason\n  not today\n  at " in lines


@pytest.mark.asyncio
async def test_the_status_of_a_job_that_does_not_exist_is_an_error(commands: Commands) -> None:
    """A missing job is told in one line, with code 1."""
    code, out, errors = await commands.run("status", "nobody")

    assert (code, out) == (1, "")
    assert errors.startswith("convolab-worker: error: ")
    assert "nobody" in errors
    assert errors.count("\n") == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "arguments",
    [["status"], ["enqueue", "echo"], ["drain", "--app", "jobs:handlers"]],
    ids=lambda arguments: arguments[0],
)
async def test_a_server_that_is_not_there_is_told_without_a_traceback(
    arguments: list[str], commands: Commands
) -> None:
    """Commands that need Redis now end with code 1, and name the address without its password."""
    url = "redis://user:hunter2@127.0.0.1:1"

    code, out, errors = await commands.run(*arguments, "--redis-url", url)

    assert (code, out) == (1, ""), errors
    assert "127.0.0.1:1" in errors
    assert "hunter2" not in errors
    assert "Traceback" not in errors


@pytest.mark.asyncio
async def test_broken_handlers_end_with_2_and_their_own_traceback(
    commands: Commands, tmp_path: Path
) -> None:
    """An error in the application's module is shown, and nothing was begun."""
    (tmp_path / "broken.py").write_text("raise RuntimeError('no')\n", encoding="utf-8")

    code, out, errors = await commands.run("drain", "--app", "broken:handlers")

    assert (code, out) == (2, "")
    assert errors.startswith("convolab-worker: error: importing broken failed:\n")
    assert errors.endswith("RuntimeError: no\n")


@pytest.mark.asyncio
@pytest.mark.parametrize("command", ["run", "drain"])
async def test_a_lifespan_that_fails_ends_the_command_with_its_reason(
    commands: Commands, client: JobClient, tmp_path: Path, command: str
) -> None:
    """Exit code 1 and one line that names the place; the job is not touched."""
    failing = """
@handlers.lifespan
async def pool():
    raise OSError("no such host: tts.internal")
    yield
"""
    (tmp_path / "failing.py").write_text(JOBS + failing, encoding="utf-8")
    job_id = await client.enqueue("echo")

    code, out, errors = await commands.run(command, "--app", "failing:handlers")

    last = errors.splitlines()[-1]
    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"convolab-worker: error: the lifespan failing\.pool:\d+ failed to start: "
        r"OSError: no such host: tts\.internal",
        last,
    )
    assert (await client.status(job_id)).state == "waiting"
