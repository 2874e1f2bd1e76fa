"""JobClient's schedules on a real server: by declaration, by the command line, and their wakes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, JobType, ScheduleOptions
from convolab_worker.cli.main import main
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import ConfigurationError, InvalidPayload
from tests.support.commandstats import counted_commands

if TYPE_CHECKING:
    from collections.abc import Callable

    from convolab_worker import Settings
    from tests.support.server import ServerProcess

pytestmark = pytest.mark.asyncio


@dataclass
class Report:
    """A payload."""

    day: str


WRONG: list[ScheduleOptions] = [
    {"cron": "61 * * * *"},
    {"cron": "* * * * *", "tz": "Mars"},
    {"every": 1, "until": 5},
]
REPORT = JobType("report", Report, attempts=4, keep_completed="7d")


async def test_a_declared_job_is_scheduled_with_what_it_declares(client: JobClient) -> None:
    """Name, queue and options are its own; what is said here comes before that."""
    job_id = await client.schedule("nightly", REPORT, Report("1"), cron="0 6 * * *", attempts=2)

    (schedule,) = await client.schedules()
    assert (schedule.name, schedule.data) == ("report", {"day": "1"})
    assert schedule.options == {"attempts": 2, "removeOnComplete": {"age": 604_800}}
    assert job_id.startswith("repeat:nightly:")
    assert job_id.job_type is REPORT
    assert (await client.status(job_id)).state == "delayed"


async def test_a_handler_is_scheduled_as_it_is_enqueued(client: JobClient, queue_name: str) -> None:
    """On its own queue."""
    handlers = HandlerRegistry()

    @handlers.audio("tick", queue=f"{queue_name}-own", keep_completed=5)
    async def tick(job: Job[Report]) -> str:
        return job.data.day

    await client.schedule("tick", tick, Report("1"), every=3600)

    (schedule,) = await client.schedules(f"{queue_name}-own")
    assert (schedule.every, schedule.options) == (3600.0, {"removeOnComplete": 5})
    assert await client.schedules() == []


async def test_data_that_the_handler_would_refuse_is_never_scheduled(client: JobClient) -> None:
    """Nor what can't be followed; nothing is sent."""
    sent = client.counter.client_sent

    with pytest.raises(InvalidPayload, match="report: data.day"):
        await client.schedule("nightly", REPORT, Report(5), every=60)  # type: ignore[arg-type]
    for wrong in WRONG:
        with pytest.raises(ConfigurationError, match="nightly"):
            await client.schedule("nightly", REPORT, Report("1"), **wrong)
    with pytest.raises(ConfigurationError, match="size_limit, 3"):
        await client.schedule("nightly", "report", "long", every=60, size_limit=3)
    with pytest.raises(ConfigurationError, match=r"id=''\): expected text"):
        await client.schedule("", "report", every=60)

    assert client.counter.client_sent == sent


async def test_schedules_of_several_queues_come_in_the_order_of_their_next_jobs(
    make_settings: Callable[..., Settings], queue_name: str
) -> None:
    """And are removed from whichever queue has them."""
    other = f"{queue_name}-other"
    async with JobClient(make_settings(queues=(queue_name, other))) as client:
        await client.schedule("third", "x", cron="0 6 1 1 *", start=5e9)
        await client.schedule("second", "x", cron="0 6 1 1 *", start=4e9, queue=other)
        await client.schedule("first", "x", every=60)

        assert [each.id for each in await client.schedules()] == ["first", "second", "third"]
        assert await client.unschedule("second")
        assert not await client.unschedule("third", queue=other)
        assert [each.id for each in await client.schedules()] == ["first", "third"]


async def test_a_schedules_commands_are_counted(
    start_server: Callable[..., ServerProcess], make_settings: Callable[..., Settings]
) -> None:
    """Those inside the scripts too, as the server counts them."""
    server = start_server()
    settings = make_settings(redis_url=server.url)
    async with JobClient(settings) as client, Redis.from_url(server.url) as redis:
        await client.schedule("first", "x", every=60)
        counter = client.counter
        before = sum(counter.inner.values()), counter.sent[Purpose.ENQUEUE]
        async with counted_commands(redis) as counted:
            await client.schedule("second", "x", cron="0 6 * * *")
            await client.schedules()
            await client.unschedule("second")

        assert counter.sent[Purpose.ENQUEUE] - before[1] == 3  # the text of one script, too
        inner = sum(counter.inner.values()) - before[0]
        for name in ("evalsha", "eval", "hgetall"):
            counted.calls.pop(name, 0)
        assert inner == counted.total - 1  # ZRANGE, which is sent


async def test_the_command_line_writes_lists_and_removes_schedules(
    server_url: str, queue_name: str, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """As text and as JSON; one that is not there is a failure."""
    where = ["--redis-url", server_url, "--queue", queue_name]

    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["schedule", *arguments, *where])
        told = capsys.readouterr()
        return code, told.out, told.err

    timing = ["--cron", "0 6 * * *", "--tz", "Asia/Tokyo", "--limit", "3", "--attempts", "2"]
    bounds = ["--start", "2098-01-01T00:00:00+01:00", "--until", "4100000000"]
    code, out, _ = await run("set", "nightly", "report", '{"day": "1"}', *timing, *bounds)
    assert (code, out.startswith("repeat:nightly:40")) == (0, True)
    any_redis: Any = redis
    assert await any_redis.exists(f"bull:{queue_name}:{out.strip()}")

    code, out, _ = await run("list")
    row = out.splitlines()[1].split("  ")
    assert code == 0
    assert [cell for cell in row if cell][3:] == [
        "0 6 * * * Asia/Tokyo", "2098-01-01 21:00:00 UTC", "1 of 3",
    ]  # fmt: skip

    code, out, _ = await run("list", "--json")
    listed = json.loads(out)
    assert (code, listed["cron"], listed["start"], listed["options"]) == (
        0, "0 6 * * *", 4039369200.0, {"attempts": 2},
    )  # fmt: skip

    assert await run("remove", "nightly") == (0, "nightly is removed\n", "")
    code, out, err = await run("remove", "nightly")
    assert (code, out) == (1, "")
    assert f"there is no schedule nightly on {queue_name}" in err
    assert await run("list") == (0, "", "there are no schedules\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--every", "0s"], "expected a duration from 1ms"),
        (["--cron", "0 6 * * *", "--start", "2098-01-01T00:00:00"], "a time with its zone"),
        (["--cron", "0 6 * * *", "--until", "soon"], "a time with its zone"),
        ([], "expected either seconds, or a pattern"),
        (["--every", "5s", "--queue", "other"], "expected the one queue that its jobs go to"),
    ],
)
async def test_a_wrong_schedule_is_wrong_usage(
    arguments: list[str], message: str, queue_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, with what was expected."""
    command = ["schedule", "set", "nightly", "report", "--queue", queue_name, *arguments]

    code = await asyncio.to_thread(main, command)

    assert (code, message in capsys.readouterr().err) == (2, True)
