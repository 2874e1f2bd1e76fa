"""Who hears when work is due next: task queues, by the recipes of docs/platforms.md."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis
from structlog.testing import capture_logs

from convolab_worker import HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.server.server import WakeServer
from tests.support.commandstats import counted_commands
from tests.support.markdown import ROOT, blocks
from tests.support.ports import free_port
from tests.support.service import says, service
from tests.support.stopwatch import Stopwatch
from tests.support.task_queues import ACCESS_TOKEN, PUBLISHING_TOKEN, CloudTasks, QStash
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

TASKS = "projects/p/locations/l/queues/q"
MakeSettings = Callable[..., Settings]


@pytest.fixture
def handlers() -> HandlerRegistry:
    """One handler whose job fails its first attempts if it is told to."""
    registry = HandlerRegistry()

    @registry.audio("work")
    async def work(job: Job[dict[str, int]]) -> None:
        if job.attempt <= job.data.get("failures", 0):
            msg = "as it was told"
            raise ValueError(msg)

    return registry


def recipe(file: str) -> HandlerRegistry:
    """The registry of the page's module."""
    page = blocks(ROOT / "docs" / "platforms.md")
    (block,) = [block for block in page if block.file == file]
    names: dict[str, Any] = {}
    exec(compile(block.text, file, "exec"), names)  # noqa: S102 - the page's own code
    registry: HandlerRegistry = names["handlers"]
    return registry


@asynccontextmanager
async def service_of(handlers: HandlerRegistry, settings: Settings) -> AsyncIterator[JobClient]:
    """A held worker behind its server; the client adds jobs, and wakes nobody."""
    worker = Worker(handlers, settings)
    async with WakeServer(worker), worker, JobClient(settings.replace(wake_url=None)) as client:
        await wait_until(lambda: worker.health().ready, what="the worker's readiness")
        yield client


async def woken(url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """What a wake is answered."""
    async with ClientSession(headers=headers) as session, session.post(url) as answer:
        assert answer.status == 200
        body: dict[str, Any] = await answer.json()
        return body


@asynccontextmanager
async def on_qstash(
    handlers: HandlerRegistry, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[QStash, JobClient, Callable[[], Any]]]:
    """A held worker that only QStash calls, and one first wake; tokens are for that one."""
    url = f"http://127.0.0.1:{free_port()}/wake"
    handlers.include(recipe("call_by_qstash.py"))
    settings = make_settings(
        port=int(url.split(":")[2].removesuffix("/wake")),
        wake_url=url,
        wake_mode="held",
        wake_linger=0.0,
        wake_signing_key="sig_1",
        wake_token="first",
    )
    async with QStash("sig_1") as qstash, service_of(handlers, settings) as client:
        monkeypatch.setenv("QSTASH_URL", qstash.address)
        monkeypatch.setenv("QSTASH_TOKEN", PUBLISHING_TOKEN)
        monkeypatch.setenv("CONVOLAB_WAKE_URL", url)
        yield qstash, client, lambda: woken(url, {"Authorization": "Bearer first"})


async def test_qstash_calls_when_delayed_jobs_are_due_and_nobody_else_does(
    handlers: HandlerRegistry, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call a moment, however often the worker was woken, by the recipe as it stands."""
    async with on_qstash(handlers, make_settings, monkeypatch) as (qstash, client, wake):
        near, far = [await client.enqueue("work", {}, delay=delay) for delay in (1.3, 2.6)]
        answers = await asyncio.gather(wake(), wake(), wake())
        assert [answer["remaining"] for answer in answers] == [2] * 3
        assert len(qstash.messages) == 1
        with Stopwatch() as watch:
            for job_id in (near, far):
                await client.result(job_id, timeout=20)
            await qstash.delivered()
        due = [(await client.status(job_id)).processed_on for job_id in (near, far)]

    assert [message.statuses for message in qstash.messages] == [[200], [200]]
    assert qstash.duplicates == 0
    for message, started in zip(qstash.messages, due, strict=True):
        assert started is not None
        assert 0 <= started - message.at < 1.0 + watch.paused


async def test_workers_that_know_nothing_of_each_other_ask_for_one_call(
    handlers: HandlerRegistry, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was started anew asks again, and the name makes it the same call."""
    async with on_qstash(handlers, make_settings, monkeypatch) as (qstash, client, wake):
        await client.enqueue("work", {}, delay=600)
        await wake()
        other = Worker(handlers, client.settings.replace(wake_mode="held"))
        async with other:
            await other.hold(5.0)

    assert len(qstash.messages) == 1
    assert qstash.duplicates == 1


async def test_cloud_tasks_calls_when_a_retry_is_due(
    handlers: HandlerRegistry, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an access token of the metadata server, and 409 for a call that is known."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/wake"
    handlers.include(recipe("call_by_cloud_tasks.py"))
    settings = make_settings(port=port, wake_mode="held", wake_linger=0.0)
    async with (
        CloudTasks() as tasks,
        service(says({"access_token": ACCESS_TOKEN})) as metadata,
        service_of(handlers, settings) as client,
    ):
        monkeypatch.setenv("CLOUD_TASKS_URL", tasks.address)
        monkeypatch.setenv("GCE_METADATA_HOST", metadata.url.split("/")[2])
        monkeypatch.setenv("TASK_QUEUE", TASKS)
        monkeypatch.setenv("WAKE_ACCOUNT", "waker@p.iam.gserviceaccount.com")
        monkeypatch.setenv("CONVOLAB_WAKE_URL", url)
        job_id = await client.enqueue("work", {"failures": 1}, attempts=2, backoff=1.5)
        first = await woken(url)
        await client.result(job_id, timeout=20)
        await tasks.delivered()
        with capture_logs() as logs:
            await handlers.next_due_hooks.tell(tasks.messages[0].at)  # as another worker does

    assert (first["processed"], first["remaining"]) == (0, 1)
    assert [message.statuses for message in tasks.messages] == [[200]]
    assert tasks.messages[0].at == math.ceil(first["next_due_at"])
    assert (tasks.duplicates, logs) == (1, [])


@pytest.mark.parametrize("fault", ["raises", "ignores its end"])
async def test_a_function_that_fails_harms_nothing_and_is_called_again(
    fault: str,
    handlers: HandlerRegistry,
    make_settings: MakeSettings,
    start_server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer and the commands are those of a worker without one; the log names it."""
    monkeypatch.setattr("convolab_worker.handlers.around.hooks.LONGEST_SECONDS", 0.3)
    server, told, plain = start_server(), [], HandlerRegistry()
    plain.include(handlers)
    free = asyncio.Event()

    @handlers.on_next_due
    async def ask(at: float) -> None:
        told.append(at)
        if fault == "raises":
            msg = "the queue is away"
            raise ConnectionError(msg)
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    async def two_holds(registry: HandlerRegistry) -> tuple[list[Any], dict[str, int]]:
        settings = make_settings(redis_url=server.url, wake_mode="held", wake_linger=0.0)
        async with Redis.from_url(server.url) as redis, Worker(registry, settings) as worker:
            await worker.hold(10)
            async with counted_commands(redis) as commands:
                results = [await worker.hold(10), await worker.hold(10)]
            calls = dict(commands.calls)
            # Of a blocking read and its end, once more or less by chance.
            for name in ("bzpopmin", "client|unblock", "exists"):
                calls.pop(name, None)
            return results, calls

    async with JobClient(make_settings(redis_url=server.url)) as client:
        await client.enqueue("work", {}, delay=600)
    with capture_logs() as logs:
        results, commands = await two_holds(handlers)
    plain_results, plain_commands = await two_holds(plain)
    free.set()

    assert (results, commands) == (plain_results, plain_commands)
    assert told == [math.ceil(results[0].next_due_at)] * 3
    raised = [line for line in logs if line["event"] == "on_next_due.raised"]
    assert len(raised) == 3
    assert "ask" in raised[0]["hook"]


async def test_a_worker_tells_before_it_sleeps_and_when_it_ends_and_wakes_at_once(
    handlers: HandlerRegistry, make_settings: MakeSettings
) -> None:
    """Once a moment; a wake or a stop does not wait for a function that takes its time."""
    told: list[float] = []
    asked, free = asyncio.Event(), asyncio.Event()

    @handlers.on_next_due
    async def ask(at: float) -> None:
        told.append(at)
        asked.set()
        await free.wait()

    settings = make_settings(sleep_after=0.1)
    async with JobClient(settings) as client, Worker(handlers, settings) as worker:
        later = await client.enqueue("work", {}, delay=600)
        async with asyncio.timeout(30):
            await asked.wait()  # it is about to fall asleep
            job_id = await client.enqueue("work", {})
            worker.wake()
            with Stopwatch() as watch:
                await client.result(job_id, timeout=10)
            asked.clear()
            free.set()
            await asked.wait()
            await wait_until(lambda: worker.stats()["phase"] == "asleep", what="sleep")
        due_at = (await client.status(later)).due_at
    drained = await Worker(handlers, make_settings()).drain()

    assert watch.seconds < 2.0
    assert due_at is not None
    assert told == [math.ceil(due_at)] * 3  # cut short, heard, and by the drain's own worker
    assert drained.remaining == 1


async def test_a_worker_that_ends_by_itself_tells_what_is_due(
    handlers: HandlerRegistry, make_settings: MakeSettings
) -> None:
    """As with ``--exit-when-idle``: something has to start it again."""
    told: list[float] = []
    handlers.on_next_due(told.append)
    settings = make_settings()
    async with JobClient(settings) as client:
        await client.enqueue("work", {}, delay=600)
        async with Worker(handlers, settings) as worker:
            await client.result(await client.enqueue("work", {}), timeout=10)
            before = list(told)
            await worker.stop()

    assert before == []
    assert len(told) == 1
