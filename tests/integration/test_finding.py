"""What the command line finds by itself: queues that nobody has named, and one job's all."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.client.console.client import ConsoleClient
from tests.support.commands import Commands
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
Data = dict[str, Any]


class Prefix:
    """A prefix of the test's own with some queues, and the command line without a queue's name."""

    def __init__(self, commands: Commands, client: JobClient, name: str) -> None:
        self.client = client
        self.name = name
        self._commands = commands

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error of a command."""
        return await self._commands.run(*arguments, CONVOLAB_QUEUES="", CONVOLAB_PREFIX=self.name)

    async def printed(self, *arguments: str) -> str:
        """Return what a command prints that is to end well and has nothing to remark."""
        code, out, err = await self.run(*arguments)
        assert (code, err) == (0, "")
        return out


@pytest_asyncio.fixture
async def prefix(tmp_path: Path, server_url: str) -> AsyncIterator[Prefix]:
    name = f"p{uuid.uuid4().hex[:12]}"
    commands = Commands(tmp_path, server_url, "")
    async with JobClient(Settings(redis_url=server_url, prefix=name)) as client:
        yield Prefix(commands, client, name)
    await commands.close()


async def test_queues_that_nobody_names_are_looked_in(prefix: Prefix) -> None:
    for queue in ("audio", "音声"):
        await prefix.client.enqueue("speak", {"to": queue}, queue=queue)

    listed = await prefix.printed("jobs", "list", "--json")
    table = await prefix.printed("status")

    assert {json.loads(line)["queue"] for line in listed.splitlines()} == {"audio", "音声"}
    assert "no worker is connected" in table
    audio, japanese = table.splitlines()[1:]
    assert audio.index("no worker") == japanese.index("no worker") + 2  # two wide signs
    assert await prefix.printed("schedule", "list", "--json") == ""
    for command in (["jobs", "list"], ["queue", "list"], ["status"], ["failed", "show", "1"]):
        code, out, err = await prefix.run(*command, "--queue", "audoi")
        assert (code, out) == (1, "")
        assert "error: there is no queue audoi; did you mean audio?\n" in err


async def test_a_job_for_a_queue_that_nobody_uses_is_added_and_the_queue_told_to_be_new(
    prefix: Prefix,
) -> None:
    """It may be a typo, or a queue that is meant to be new: a script goes on."""
    await prefix.client.enqueue("speak", queue="audio")
    new = "queue audoi is new; did you mean audio?\n"

    first = await prefix.run("enqueue", "speak", "--queue", "audoi", "--job-id", "a")
    again = await prefix.run("enqueue", "speak", "--queue", "audoi", "--job-id", "b")
    known = await prefix.run("enqueue", "speak", "--queue", "audio", "--job-id", "c")
    cron = ("speak", "--cron", "0 7 * * *")
    schedule = await prefix.run("schedule", "set", "nightly", *cron, "--queue", "audioo")

    assert (first, again, known) == ((0, "a\n", new), (0, "b\n", ""), (0, "c\n", ""))
    code, _, told = schedule
    assert (code, told.splitlines()[1:]) == (0, ["queue audioo is new; did you mean audio?"])


async def test_a_user_who_may_not_look_for_queues_adds_to_a_new_one(
    prefix: Prefix, redis: Any, server_url: str
) -> None:
    name = f"user-{prefix.name}"
    rules = ["on", ">secret", "~*", "&*", "+@all", "-scan", "-client|list"]
    await redis.execute_command("ACL", "SETUSER", name, *rules)
    url = server_url.replace("://", f"://{name}:secret@")

    told = await prefix.run(
        "enqueue", "speak", "--queue", "new", "--job-id", "a", "--redis-url", url
    )

    assert told == (0, "a\n", "queue new is new\n")


async def test_a_job_is_found_by_its_id_and_one_id_on_two_queues_is_not_guessed(
    prefix: Prefix,
) -> None:
    """Node counts in each queue; above all, no command acts on another job than was meant."""
    first = await prefix.client.enqueue("speak", queue="audio", delay=60, job_id="a1")
    assert "queue     audio" in await prefix.printed("status", first)

    await prefix.client.enqueue("draw", queue="images", job_id=first)
    ambiguous = f"job '{first}' is on audio, images: expected --queue with one of them"
    for command in (
        ["status", first, "--queue", "audio,images"], ["cancel", first], ["jobs", "promote", first],
    ):  # fmt: skip
        code, _, err = await prefix.run(*command)
        assert (code, ambiguous in err) == (2, True), command
    states = [(await prefix.client.status(first, queue)).state for queue in ("audio", "images")]
    assert states == ["delayed", "waiting"]

    assert await prefix.printed("cancel", first, "--queue", "images") == "removed\n"
    assert await prefix.printed("jobs", "promote", first) == "1 job promoted\n"
    code, _, err = await prefix.run("status", "99")
    assert (code, "no job '99' on audio, images: never added, or" in err) == (1, True)
    await prefix.client.enqueue("draw", queue="images", job_id="there")
    code, out, err = await prefix.run("failed", "retry", "there", "--queue", "audio")
    assert (code, out) == (1, "0 jobs retried\n")
    assert err == "1 not retried: no job 'there' on audio; it is on images\n"
    code, _, err = await prefix.run("jobs", "show", "meta", "--queue", "audio")
    assert (code, "never added" in err) == (1, True)


async def test_what_is_done_to_a_whole_queue_asks_which_unless_there_is_one(
    prefix: Prefix, redis: Redis
) -> None:
    code, _, err = await prefix.run("queue", "pause")
    assert (code, "no queue was found under the prefix" in err) == (1, True)

    await prefix.client.enqueue("speak", queue="audio")
    assert await prefix.printed("queue", "pause") == "audio is paused\n"
    await redis.set(f"{prefix.name}:audio:limiter", "1", px=600_000)
    await redis.hset(f"{prefix.name}:audio:meta", "concurrency", "3")
    notes = "paused, at most 3 at once, rate limit: no job for 10m, no worker is connected"
    assert notes in await prefix.printed("status")
    assert await prefix.printed("queue", "resume") == "audio is resumed\n"

    await prefix.client.enqueue("draw", queue="images")
    for command in (["queue", "clean", "--state", "waiting"], ["jobs", "remove", "--all"]):
        code, _, err = await prefix.run(*command)
        assert (code, "expected --queue with one or more of audio, images" in err) == (2, True)
    code, _, err = await prefix.run("queue", "pause", "--queue", "audoi")
    assert (code, "there is no queue audoi; did you mean audio? (--new" in err) == (1, True)
    assert len([job async for job in prefix.client.jobs(queue="audio")]) == 1


async def test_a_queue_is_paused_before_its_first_job(prefix: Prefix, server_url: str) -> None:
    """One that a worker serves as any other is, one that is yet to be deployed with --new."""
    handlers = HandlerRegistry()
    handlers.audio("speak")(lambda _job: None)
    settings = Settings(redis_url=server_url, prefix=prefix.name, queues=("served",))
    await prefix.client.enqueue("speak", queue="audio")

    async with Worker(handlers, settings):
        empty = await prefix.printed("status", "--queue", "served")
        assert await prefix.printed("queue", "pause", "--queue", "served") == "served is paused\n"
    paused = await prefix.printed("queue", "pause", "--new", "--queue", "planned")

    assert empty.splitlines()[1].split()[0] == "served"
    assert paused == "planned is paused\n"
    assert "paused" in (await prefix.printed("status", "--queue", "planned"))
    assert await prefix.printed("queue", "resume", "--queue", "planned") == "planned is resumed\n"


async def test_status_of_a_job_shows_what_the_console_shows_and_retry_may_forget_steps(
    prefix: Prefix, server_url: str, redis: Redis
) -> None:
    """Data, options, progress, log, steps, stack and family; one way to retry for both."""
    handlers, said = HandlerRegistry(), list[str]()

    @handlers.audio("speak", queue="audio", attempts=1)
    async def speak(job: Job[Data]) -> None:
        await job.step("voice", said.append, "spoken")
        await job.progress({"pct": 20, "step": "voice"})
        job.log.info("trying")
        json.loads("{")

    settings = Settings(redis_url=server_url, prefix=prefix.name, queues=("audio",))
    async with Worker(handlers, settings.replace(idle_min=0.05, idle_max=0.5)):
        job_id = await prefix.client.enqueue("speak", {"text": "日本"}, queue="audio")
        failed = f"{prefix.name}:audio:failed"
        await wait_until(lambda: redis.zcard(failed), what="the failure")
        text = await prefix.printed("status", job_id)
        found = json.loads(await prefix.printed("failed", "show", job_id, "--json"))

        for forget, calls in (([], 1), (["--forget-steps"], 2)):
            assert await prefix.printed("failed", "retry", job_id, *forget) == "1 job retried\n"
            await wait_until(lambda: redis.zcard(failed), what="the next failure")
            assert len(said) == calls

    again = await prefix.printed("status", job_id)
    assert again.count(": failed\n") == 3
    assert "ran" in again.partition("\nruns\n")[2]
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["failed"]
    assert 'progress  {"pct": 20, "step": "voice"}' in text
    assert '"text": "日本"' in text
    assert "test_finding.py" in text
    assert "frames of libraries" in text
    assert "[info] trying" in text
    assert "voice  null" in text
    assert found["steps"] == {"voice": None}
    assert found["where"].endswith("in speak")
    assert found["data"] == {"text": "日本"}


async def test_status_names_handlers_that_no_queue_reaches(prefix: Prefix, tmp_path: Path) -> None:
    (tmp_path / "lessons.py").write_text(
        "from convolab_worker import HandlerRegistry\n"
        "handlers = HandlerRegistry()\n"
        "@handlers.audio('speak', queue='speech')\n"
        "async def speak(job): ...\n"
        "@handlers.image('draw')\n"
        "async def draw(job): ...\n"
    )
    await prefix.client.enqueue("draw", queue="images")

    code, out, err = await prefix.run("status", "--app", "lessons:handlers")

    assert (code, out.count("\n")) == (0, 2)
    assert "lessons.speak" in err
    assert "it is for speech, which is not listed" in err
    assert "draw" not in err


async def test_a_job_that_another_program_has_written_over_hides_no_other(
    prefix: Prefix, server_url: str, redis: Redis
) -> None:
    settings = Settings(redis_url=server_url, prefix=prefix.name, queues=("audio",))
    for job_id in ("over", "whole"):
        await prefix.client.enqueue("speak", queue="audio", job_id=job_id)
        await prefix.client.enqueue("speak", queue="audio", job_id=f"f-{job_id}")
    handlers = HandlerRegistry()

    @handlers.audio("other")
    async def other(_: Job[Data]) -> None:
        """Take no job of this queue: all of them fail."""

    async with Worker(handlers, settings):
        await wait_until(
            lambda: _has_four(redis, f"{prefix.name}:audio:failed"), what="the failures"
        )
    for job_id in ("over", "whole"):
        await prefix.client.enqueue("speak", queue="audio", job_id=f"w-{job_id}")
    for job_id in ("over", "f-over", "w-over"):
        await redis.set(f"{prefix.name}:audio:{job_id}", "another program's")

    listed = await prefix.printed("jobs", "list", "--json")
    filtered = await prefix.printed("failed", "list", "--name", "speak", "--json")
    ids = {json.loads(line)["id"] for line in listed.splitlines()}
    assert ids == {"whole", "f-whole", "w-whole"}
    assert {json.loads(line)["id"] for line in filtered.splitlines()} == {"whole", "f-whole"}
    assert "audio" in await prefix.printed("status")
    async with ConsoleClient(settings) as console:
        assert {len(group.ids) for group in await console.failures("audio")} == {2}
        assert len((await console.page("audio", "failed")).jobs) == 2
    code, out, _ = await prefix.run("migrate", "--from", "audio", "--to", "other", "--yes")
    assert (code, out.count("another program has written over it")) == (0, 2)
    assert (
        await prefix.printed("failed", "retry", "--all", "--queue", "other") == "2 jobs retried\n"
    )


async def _has_four(redis: Redis, key: str) -> bool:
    return bool(await redis.zcard(key) == 4)


async def test_a_queue_whose_name_no_queue_may_have_keeps_nobody_from_the_others(
    prefix: Prefix, redis: Redis
) -> None:
    await prefix.client.enqueue("speak", queue="audio")
    await redis.hset(f"{prefix.name}:a\x07b:meta", "version", "x")

    code, out, err = await prefix.run("jobs", "list", "--json")

    assert (code, out.count("\n")) == (0, 1)
    assert "passed over, since no queue may have that name: 'a\\x07b'\n" in err


async def test_no_name_of_a_job_reaches_the_terminal_as_control_characters(
    prefix: Prefix, tmp_path: Path
) -> None:
    (tmp_path / "none.py").write_text(
        "from convolab_worker import HandlerRegistry\n"
        "handlers = HandlerRegistry()\n"
        "@handlers.audio('other')\n"
        "async def other(job): ...\n"
    )
    await prefix.client.enqueue("\x1b[2Jspeak", queue="audio")
    app = ("--app", "none:handlers", "--queue", "audio")

    told = [
        *await prefix.run("doctor", *app),
        *await prefix.run("migrate", "--from", "audio", "--to", "other"),
        *await prefix.run("status", "\x1b[2Jnone"),
    ]

    assert "\\x1b[2Jspeak" in str(told[1])
    assert not any("\x1b" in str(text) for text in told)
