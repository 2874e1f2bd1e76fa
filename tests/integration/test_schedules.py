"""JobClient's schedules on a real server: by declaration, by the command line, and their wakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, Job, JobClient, JobType, ScheduleOptions
from convolab_worker.connection.commands.usage import Purpose
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
