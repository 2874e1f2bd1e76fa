"""``doctor`` on real servers: well ones, misconfigured ones, and none at all."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, JobClient, Settings, Worker
from convolab_worker.server.server import WakeServer
from tests.support.commands import Commands
from tests.support.server import ServerProcess
from tests.support.service import AUDIENCE, identity_token, metadata, says, service

pytestmark = pytest.mark.asyncio
Verdicts = dict[str, tuple[str, str]]


class Patient:
    """A server of the test's own, and the command on it."""

    def __init__(self, server: ServerProcess, directory: Path) -> None:
        """Start nothing."""
        self.server = server
        self.commands = Commands(directory, server.url, "jobs")
        self.redis = Redis.from_url(server.url, decode_responses=True)

    async def examine(self, *flags: str, **environ: str) -> tuple[int, Verdicts]:
        """The exit code, and what was found by check."""
        code, out, err = await self.commands.run("doctor", "--json", *flags, **environ)
        assert out, err
        findings: list[dict[str, Any]] = json.loads(out)
        return code, {each["check"]: (each["verdict"], each["found"]) for each in findings}


@pytest_asyncio.fixture
async def patient(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> AsyncIterator[Patient]:
    """A healthy server: durable, with nothing in it."""
    patient = Patient(start_server(durable=True), tmp_path)
    yield patient
    await patient.redis.aclose()
    await patient.commands.close()


async def test_a_healthy_server_is_found_well_and_left_as_it_was(patient: Patient) -> None:
    """Every check is ok, strictly too, and no key is left."""
    code, found = await patient.examine("--strict")

    assert code == 0
    assert {verdict for verdict, _ in found.values()} == {"ok"}
    assert {"server", "eviction", "permissions", "scripts", "blocking read", "clock"} <= set(found)
    assert await patient.redis.dbsize() == 0


async def test_misconfigurations_are_found_one_by_one(patient: Patient) -> None:
    """Each is named with what was found, and the exit code is 1."""
    await patient.redis.config_set("maxmemory-policy", "allkeys-lru")
    await patient.redis.config_set("maxmemory", "100mb")
    await patient.redis.config_set("timeout", "60")
    await patient.redis.config_set("appendonly", "no")
    await patient.redis.hset("bull:jobs:meta", "version", "bullmq:5.81.5")
    await patient.redis.lpush("bull:jobs:paused", "1", "2")

    code, found = await patient.examine("--lock-duration", "5s", "--idle-max", "30m")

    assert code == 1
    assert found["eviction"] == ("failure", "allkeys-lru")
    assert found["idle time-out"] == ("warning", "60 s")
    assert found["persistence"][0] == "warning"
    assert found["lock"][0] == "warning"
    assert found["queue jobs"] == ("warning", "BullMQ 5.81.5")
    assert found["queue jobs, paused"][1].startswith("2 jobs")


async def test_variables_that_are_unknown_are_a_failure_and_odd_ones_a_warning(
    patient: Patient,
) -> None:
    """Every other command goes on with them."""
    misspelt = await patient.examine(CONVOLAB_CONCURENCY="3")
    odd = await patient.examine(LOG_FORMAT="logfmt", CONVOLAB_WORKER_SERVICE_HOST="10.3.1.4")
    code, _, errors = await patient.commands.run("status", CONVOLAB_CONCURENCY="3")

    assert misspelt[0] == 1
    assert misspelt[1]["variables"][0] == "failure"
    assert "did you mean CONVOLAB_CONCURRENCY?" in misspelt[1]["variables"][1]
    assert odd[0] == 0
    assert odd[1]["variables"] == ("warning", "LOG_FORMAT='logfmt': not understood, so auto")
    assert code == 0
    assert "settings.passed_over" in errors


async def test_a_warning_is_a_failure_only_where_that_is_asked_for(patient: Patient) -> None:
    """--strict is for CI."""
    await patient.redis.config_set("appendonly", "no")

    assert (await patient.examine())[0] == 0
    assert (await patient.examine("--strict"))[0] == 1


async def test_missing_permissions_are_named_as_the_rules_that_grant_them(
    patient: Patient,
) -> None:
    """A command, a subcommand and the keys; and what can't be asked is not known."""
    rules = ("on", ">pw", "~bull:*", "+@all", "-lpos", "-client|kill", "-info")
    await patient.redis.execute_command("ACL", "SETUSER", "worker", *rules)  # type: ignore[no-untyped-call]
    url = patient.server.url.replace("redis://", "redis://worker:pw@")

    code, found = await patient.examine("--redis-url", url)
    _, elsewhere = await patient.examine("--redis-url", url, "--prefix", "jobs")

    assert code == 1
    assert found["permissions"] == ("failure", "worker lacks +lpos +client|kill")
    assert found["server"][0] == found["memory"][0] == "unknown"
    assert "~jobs:*" in elsewhere["permissions"][1]


async def test_schedules_that_stand_still_and_queues_that_give_no_job_are_found(
    patient: Patient,
) -> None:
    """A pattern that can't be read, an iteration that nobody added, an end that has come."""
    now, redis = time.time() * 1000, patient.redis
    for name, due, fields in (
        ("good", now + 60_000, {"pattern": "0 9 * * *", "tz": "Europe/Berlin"}),
        ("bad", now + 60_000, {"pattern": "@midnight"}),
        ("lost", now - 60_000, {"every": "1000", "ic": "3"}),
        ("over", now - 60_000, {"pattern": "* * * * *", "limit": "2", "ic": "2"}),
    ):
        await redis.zadd("bull:jobs:repeat", {name: round(due)})
        for field, value in fields.items():
            await redis.hset(f"bull:jobs:repeat:{name}", field, value)
    await redis.hset("bull:jobs:meta", mapping={"paused": "1"})

    code, found = await patient.examine()
    verdict, told = found["queue jobs, schedules"]
    paused = found["queue jobs, paused"]
    await redis.delete("bull:jobs:meta")
    await redis.hset("bull:jobs:meta", mapping={"concurrency": "0"})
    await redis.zrem("bull:jobs:repeat", "bad", "lost", "over")
    well, others = await patient.examine()

    assert (code, verdict, paused) == (1, "failure", ("warning", "it is paused, and 0 jobs wait"))
    assert "bad: the pattern '@midnight' can't be followed" in told
    assert "lost: nothing of it was added since" in told
    assert "still listed: over" in told
    assert "good" not in told
    assert (well, others["queue jobs, schedules"]) == (0, ("ok", "1 go on"))
    assert others["queue jobs, paused"][1] == "its global concurrency is 0, and 0 jobs wait"


async def test_a_history_that_grows_without_bound_is_warned_of_with_its_size(
    patient: Patient, tmp_path: Path
) -> None:
    """Unless the jobs, their handlers or the worker bound it; the event stream is sized, too."""
    (tmp_path / "bounded.py").write_text(
        "from convolab_worker import HandlerRegistry\n"
        "handlers = HandlerRegistry()\n"
        "handlers.audio('render', keep_completed='1h', keep_failed=5)(lambda job: None)\n"
    )
    await history_of(patient.redis, 1000, "completed")
    await history_of(patient.redis, 10, "failed")

    code, found = await patient.examine("--strict")
    _, by_handler = await patient.examine("--app", "bounded:handlers")
    await patient.redis.execute_command("ACL", "SETUSER", "default", "-memory")  # type: ignore[no-untyped-call]
    _, by_worker = await patient.examine(CONVOLAB_KEEP_COMPLETED="1000", CONVOLAB_KEEP_FAILED="1h")

    verdict, told = found["queue jobs, history"]
    assert (code, verdict) == (1, "warning")
    completed, failed = told.split("; ")
    assert completed.startswith("1,000 completed (")
    assert completed.endswith(" MiB) kept for ever")
    assert 19 < float(completed.split("(")[1].split()[0]) < 30  # 1000 results of 20 KiB
    assert failed.startswith("10 failed (0.")
    assert found["queue jobs, events"][0] == "warning"
    assert by_handler["queue jobs, history"][0] == by_worker["queue jobs, history"][0] == "ok"
    assert by_worker["queue jobs, history"][1].count("kept within bounds") == 2
    assert "a size that the server does not tell" in by_worker["queue jobs, history"][1]
    assert "queue jobs, events" not in by_worker


async def history_of(redis: Redis, jobs: int, state: str) -> None:
    """Leave jobs called ``render`` with results of 20 KiB behind, as if they had ended."""
    result = "x" * 20 * 2**10
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(jobs):
            job_id = f"{state}-{number}"
            fields: dict[Any, Any] = {
                "name": "render",
                "data": "{}",
                "opts": '{"attempts":0}',
                "returnvalue": result,
            }
            pipeline.hset(f"bull:jobs:{job_id}", mapping=fields)
            pipeline.zadd(f"bull:jobs:{state}", {job_id: number})
            event: dict[Any, Any] = {"event": state, "jobId": job_id, "returnvalue": result}
            pipeline.xadd("bull:jobs:events", event)
        await pipeline.execute()


@pytest.mark.parametrize("wrong", ["password", "port"])
async def test_a_server_that_lets_nobody_in_is_one_failure(patient: Patient, wrong: str) -> None:
    """With what is wrong and what to compare, and no traceback."""
    await patient.redis.config_set("requirepass", "secret")
    url = patient.server.url.replace("redis://", "redis://:guess@")
    if wrong == "port":
        url = "redis://127.0.0.1:1"

    code, found = await patient.examine("--redis-url", url)

    assert code == 1
    assert list(found) == ["connection"]
    assert found["connection"][0] == "failure"
    assert "guess" not in str(found)


async def test_names_that_nobody_handles_are_found_with_the_application(
    patient: Patient, tmp_path: Path
) -> None:
    """Waiting, prioritized and delayed jobs are looked at."""
    (tmp_path / "jobs.py").write_text(
        "from convolab_worker import HandlerRegistry\n"
        "handlers = HandlerRegistry()\n"
        "handlers.audio('known')(lambda job: None)\n"
    )
    async with JobClient(redis_url=patient.server.url, queues=("jobs",)) as client:
        await client.enqueue("known")
        assert (await patient.examine("--app", "jobs:handlers"))[0] == 0
        await client.enqueue("mistyped", delay=500)

    code, found = await patient.examine("--app", "jobs:handlers")

    assert code == 1
    assert found["queue jobs, handlers"] == ("failure", "no handler for: mistyped")


async def test_jobs_that_handlers_would_refuse_are_found_while_they_wait(
    patient: Patient, tmp_path: Path
) -> None:
    """A few of each name are read; the reason is what such a job would fail with."""
    (tmp_path / "typed.py").write_text(
        "from typing import TypedDict\n"
        "from convolab_worker import HandlerRegistry, Job\n"
        "handlers = HandlerRegistry()\n"
        "class Request(TypedDict):\n"
        "    text: str\n"
        "@handlers.audio('speak', 'say')\n"
        "def speak(job: Job[Request]) -> None: ...\n"
    )
    async with JobClient(redis_url=patient.server.url, queues=("jobs",)) as client:
        await client.enqueue_many([{"name": "speak", "data": {"text": "a"}}] * 50)
        fine = (await patient.examine("--app", "typed:handlers"))[1]
        await client.enqueue("speak", {"txt": "a"}, job_id="newest")
        await client.enqueue("say", {"text": 3}, job_id="later", delay=500)

    code, found = await patient.examine("--app", "typed:handlers")

    assert fine["queue jobs, data"][0] == "ok"
    assert code == 0
    verdict, told = found["queue jobs, data"]
    assert verdict == "warning"
    assert told.split("; ") == [
        "speak newest: data.text: required field is missing",
        "say later: data.text: expected str, got 3 (int)",
    ]
    assert await patient.redis.llen("bull:jobs:wait") == 51


async def test_the_wake_server_is_reached_and_its_token_tried_without_waking_it(
    patient: Patient,
) -> None:
    """The right token is ok, a wrong one and nobody listening are failures; none is refused."""
    handlers = HandlerRegistry()
    handlers.audio("work")(lambda _job: None)
    settings = Settings(redis_url=patient.server.url, queues=("jobs",), port=0, wake_token="right")
    worker = Worker(handlers, settings)
    async with WakeServer(worker) as server, worker:
        url = f"http://127.0.0.1:{server.port}"
        right = await patient.examine(CONVOLAB_WAKE_URL=url, CONVOLAB_WAKE_TOKEN="right")
        wrong = await patient.examine(CONVOLAB_WAKE_URL=url, CONVOLAB_WAKE_TOKEN="wrong")
        drains = worker.stats()["drains"]
    gone = await patient.examine(CONVOLAB_WAKE_URL=url, CONVOLAB_WAKE_TOKEN="right")

    assert right[0] == 0
    assert right[1]["wake"] == ("ok", "reached, answers 200")
    assert right[1]["wake, strangers"] == ("ok", "refused")
    assert wrong[1]["wake"] == ("failure", "the token is refused (401)")
    assert gone[1]["wake"][0] == "failure"
    assert "wake, strangers" not in gone[1]
    assert drains == 0


async def test_the_wake_server_gets_both_tokens_as_a_wake_has_them(patient: Patient) -> None:
    """The service's own, and Google's where Cloud Run looks first; strangers have none."""
    token = identity_token(3600.0)
    async with service(metadata(token)) as google, service(says(), says(status=401)) as there:
        host = google.url.removeprefix("http://").removesuffix("/wake")
        _, found = await patient.examine(
            CONVOLAB_WAKE_URL=there.url,
            CONVOLAB_WAKE_TOKEN="right",
            CONVOLAB_WAKE_AUDIENCE=AUDIENCE,
            GCE_METADATA_HOST=host,
            GCE_METADATA_IP=host,
        )

    known, stranger = there.requests
    assert found["wake"] == ("ok", "reached, answers 200")
    assert known.headers["Authorization"] == "Bearer right"
    assert known.headers["X-Serverless-Authorization"] == f"Bearer {token}"
    assert "Authorization" not in stranger.headers


async def test_a_wake_server_that_is_open_to_everybody_is_warned_of(patient: Patient) -> None:
    """Without a token, whoever reaches it may wake it, and see what runs."""
    handlers = HandlerRegistry()
    handlers.audio("work")(lambda _job: None)
    worker = Worker(handlers, Settings(redis_url=patient.server.url, queues=("jobs",), port=0))
    async with WakeServer(worker) as server, worker:
        url = f"http://127.0.0.1:{server.port}"
        code, found = await patient.examine(CONVOLAB_WAKE_URL=url)

    assert code == 0
    assert found["wake, strangers"] == ("warning", "anybody who reaches it may wake it")


async def test_queues_that_nobody_names_are_found_with_their_pauses_and_failures(
    patient: Patient, tmp_path: Path
) -> None:
    """Handlers are compared with their own queues alone; one that a worker serves is reached."""
    (tmp_path / "mine.py").write_text(
        "from convolab_worker import HandlerRegistry\n"
        "handlers = HandlerRegistry()\n"
        "for queue in ('mail', 'unused'):\n"
        "    handlers.audio('send', queue=queue)(lambda job: None)\n"
    )
    now = time.time() * 1000
    async with JobClient(redis_url=patient.server.url) as client:
        await client.enqueue("make", queue="video")
        await client.enqueue("send", queue="mail")
        await client.enqueue("odd", queue="mail")
        await client.pause("mail")
    await patient.redis.zadd("bull:mail:failed", {"old": now - 2 * 24 * 3600 * 1000, "new": now})
    unused = HandlerRegistry()
    unused.audio("send")(lambda _job: None)
    settings = Settings(redis_url=patient.server.url, queues=("unused",))

    async with Worker(unused, settings):
        code, found = await patient.examine("--app", "mine:handlers", CONVOLAB_QUEUES="")
        told = await patient.commands.run("doctor", "--queue", "video", CONVOLAB_QUEUES="")

    assert found["queue mail, paused"] == ("warning", "it is paused, and 2 jobs wait")
    assert found["queue mail, failed"][1] == "1 job failed for good in the last 24 hours"
    assert found["queue video, workers"][1] == "1 job waits, and no worker is connected"
    assert (code, found["queue mail, handlers"]) == (1, ("failure", "no handler for: odd"))
    assert "queue video, handlers" not in found
    assert "queue convolab" not in found
    assert "handlers" not in found
    assert "start a worker with handlers for: make." in told[1]
    assert "queue mail, paused" not in told[1]


async def test_it_reads_as_lines_with_what_to_do(patient: Patient) -> None:
    """A verdict a line; below what is not well, why and what to do."""
    await patient.redis.config_set("maxmemory-policy", "volatile-ttl")
    await patient.redis.config_set("maxmemory", "100mb")

    code, out, _ = await patient.commands.run("doctor")

    lines = out.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("failure  eviction"))
    assert code == 1
    assert lines[at + 1].strip().startswith("why: ")
    assert lines[at + 2].strip().startswith("do:  CONFIG SET maxmemory-policy noeviction")
