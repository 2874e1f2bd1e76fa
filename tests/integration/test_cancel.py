"""Cancelling a job that runs elsewhere: it ends as asked, once, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.embedded import EmbeddedServer
from convolab_worker.errors import ConfigurationError, JobNotFound, JobNotRunning, WrongState
from tests.support.commands import Commands
from tests.support.commandstats import counted_commands
from tests.support.proxy import TcpProxy
from tests.support.server import ServerProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio
Data = dict[str, Any]
Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]
WHY = "the customer left: €"


class Stage:
    """Handlers that tell what happens to them."""

    def __init__(self) -> None:
        """Make the handlers."""
        self.handlers = HandlerRegistry()
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled: list[str] = []
        self.gate = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.handlers.audio("work", concurrency=1)(self._work)
        self.handlers.image("stubborn")(self._stubborn)
        self.handlers.dialogue("thread")(self._thread)
        self.handlers.course("quick")(self._quick)

    async def _work(self, job: Job[Data]) -> str:
        self.started.put_nowait(job.id)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job.id)
            assert job.cancelled.is_set()
            raise
        return "done"

    async def _stubborn(self, job: Job[Data]) -> str:
        self.started.put_nowait(job.id)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "finished all the same"
        raise AssertionError

    def _thread(self, job: Job[Data]) -> str:
        self._loop.call_soon_threadsafe(self.started.put_nowait, job.id)
        ended = threading.Event()
        while not job.cancelled.is_set():
            ended.wait(0.01)
        return "noticed"

    async def _quick(self, job: Job[Data]) -> None:
        self.started.put_nowait(job.id)
        await asyncio.sleep(job.data["seconds"])

    async def next(self) -> str:
        """The id of the next job that has started."""
        return await asyncio.wait_for(self.started.get(), 20)


@pytest_asyncio.fixture
async def stage() -> Stage:
    """A stage of the test's own."""
    return Stage()


async def test_a_running_job_fails_as_asked_and_is_not_tried_again(
    stage: Stage, running: Running
) -> None:
    """Its handler is cancelled, its reason kept, and no attempt follows."""
    async with running(stage.handlers, lock_duration=60.0) as (_, client):
        job_id = await client.enqueue("work", attempts=5)
        await stage.next()

        ended = await client.cancel(job_id, reason=WHY, timeout=20)

        status = await client.status(job_id)
        assert ended == "failed"
        assert (status.state, status.failed_reason) == ("failed", WHY)
        assert stage.cancelled == [job_id]


async def test_a_returned_job_runs_again_and_its_attempt_is_not_used_up(
    stage: Stage, running: Running
) -> None:
    """It goes to the head of its queue, where this worker takes it again."""
    async with running(stage.handlers) as (_, client):
        job_id = await client.enqueue("work", attempts=1)
        await stage.next()

        assert await client.cancel(job_id, reason=None, timeout=20) == "returned"

        assert await stage.next() == job_id
        stage.gate.set()
        assert await client.result(job_id, timeout=20) == "done"
        assert (await client.status(job_id)).attempts_made == 1


async def test_a_worker_without_a_free_slot_hears_by_its_next_renewal(
    stage: Stage, running: Running
) -> None:
    """No block is up, so nothing but the lock can tell."""
    async with running(stage.handlers, concurrency=1, lock_duration=1.0) as (_, client):
        job_id = await client.enqueue("work")
        await stage.next()

        assert await client.cancel(job_id, reason=WHY, timeout=20) == "failed"


async def test_a_parked_job_ends_as_asked_without_having_run(
    stage: Stage, running: Running
) -> None:
    """It waits in memory for its handler's limit; the one before it goes on."""
    async with running(stage.handlers) as (worker, client):
        first, second = await client.enqueue("work"), await client.enqueue("work")
        await stage.next()
        await wait_until(lambda: worker.stats()["parked"] == 1, what="the parking")

        assert await client.cancel(second, reason=WHY, timeout=20) == "failed"

        assert worker.stats()["parked"] == 0
        stage.gate.set()
        assert await client.result(first, timeout=20) == "done"
        assert stage.started.empty()


async def test_a_handler_that_returns_all_the_same_is_completed(
    stage: Stage, running: Running
) -> None:
    """Work that was done is not thrown away."""
    async with running(stage.handlers) as (_, client):
        job_id = await client.enqueue("stubborn")
        await stage.next()

        assert await client.cancel(job_id, reason=WHY, timeout=20) == "completed"
        assert (await client.status(job_id)).result == "finished all the same"


async def test_a_thread_sees_its_event(stage: Stage, running: Running) -> None:
    """It can't be cancelled, and looks for itself."""
    async with running(stage.handlers) as (_, client):
        job_id = await client.enqueue("thread")
        await stage.next()

        assert await client.cancel(job_id, timeout=20) == "completed"
        assert (await client.status(job_id)).result == "noticed"


async def test_asked_twice_it_ends_once(stage: Stage, running: Running) -> None:
    """The first request stands; both callers hear of the end."""
    async with running(stage.handlers) as (_, client):
        job_id = await client.enqueue("work")
        await stage.next()

        both = tuple(
            await asyncio.gather(
                client.cancel(job_id, reason="first", timeout=20),
                client.cancel(job_id, reason="second", timeout=20),
            )
        )

        assert both == ("failed", "failed")
        assert (await client.status(job_id)).failed_reason == "first"


async def test_a_race_with_the_jobs_own_end_leaves_it_ended_once(
    stage: Stage, running: Running
) -> None:
    """Whoever is first: each job is completed or failed, and none is left active."""
    async with running(stage.handlers, concurrency=8) as (worker, client):
        ids = [await client.enqueue("quick", {"seconds": n / 1000}) for n in range(40)]

        async def cancel(job_id: str) -> str:
            try:
                return await client.cancel(job_id, timeout=20)
            except JobNotRunning:
                return "too late or too early"

        await asyncio.gather(*[cancel(await stage.next()) for _ in ids])
        await wait_until(
            lambda: sum(worker.stats()["outcomes"].values()) >= len(ids), what="all ends"
        )

        states = [(await client.status(job_id)).state for job_id in ids]
        assert set(states) <= {"completed", "failed"}
        assert "lost" not in worker.stats()["outcomes"]
        assert (await client.counts())[client.settings.queues[0]]["active"] == 0


@pytest.fixture
def proxy(server: EmbeddedServer, start_proxy: Callable[[EmbeddedServer], TcpProxy]) -> TcpProxy:
    """A proxy before the shared server."""
    return start_proxy(server)


async def asked_in_vain(client: JobClient, redis: Redis, job_id: str) -> None:
    """Ask for the end of a job whose worker can't hear of it yet."""
    with pytest.raises(TimeoutError):
        await client.cancel(job_id, reason=WHY, timeout=0.2)
    lock = await redis.get(f"bull:{client.settings.queues[0]}:{job_id}:lock")
    assert str(lock).startswith("cancel:")


def only_known(proxy: TcpProxy) -> None:
    """Stall every connection that is opened from now on: a reconnection, or the locks' own."""
    known = proxy.links
    proxy.hold()
    for link in known:
        link.set_mode("pass")


async def test_a_lock_with_a_request_in_it_is_still_the_workers(
    stage: Stage,
    running: Running,
    make_settings: Callable[..., Settings],
    redis: Redis,
    proxy: TcpProxy,
) -> None:
    """A result whose answer was lost is written again, though the lock's thread can't look."""
    async with (
        running(stage.handlers, redis_url=proxy.url) as (worker, _),
        JobClient(make_settings()) as client,
    ):
        job_id = await client.enqueue("work")
        await stage.next()
        only_known(proxy)
        await asked_in_vain(client, redis, job_id)

        lost = proxy.swallow_replies(matching=b"returnvalue", cut=True)
        newest = max(link.number for link in proxy.links)
        stage.gate.set()
        assert await asyncio.to_thread(lost.done.wait, 20)

        def has_ended() -> bool:
            for link in proxy.links:
                if link.number > newest:  # the worker's reconnection, and not the locks' first one
                    link.set_mode("pass")
            return bool(worker.stats()["outcomes"])

        await wait_until(has_ended, what="the job's end")
        assert await client.result(job_id, timeout=20) == "done"
        assert worker.stats()["outcomes"] == {"completed": 1}
        assert stage.cancelled == []


async def test_a_job_that_is_cancelled_while_the_answer_to_its_fetch_is_lost_ends_as_asked(
    stage: Stage,
    running: Running,
    make_settings: Callable[..., Settings],
    redis: Redis,
    proxy: TcpProxy,
) -> None:
    """The worker finds it again by its token, which the request names."""
    async with (
        running(stage.handlers, redis_url=proxy.url) as (worker, _),
        JobClient(make_settings()) as client,
    ):
        first = await client.enqueue("quick", {"seconds": 0})  # so that the server has the scripts
        await client.result(first, timeout=20)
        await stage.next()
        await wait_until(lambda: worker.stats()["idle"]["until"], what="the blocking read")
        only_known(proxy)
        lost = proxy.swallow_replies(matching=b"EVALSHA", cut=True)
        job_id = await client.enqueue("work")
        assert await asyncio.to_thread(lost.done.wait, 20)
        await asked_in_vain(client, redis, job_id)

        proxy.resume()

        await wait_until(lambda: worker.stats()["outcomes"].get("failed"), what="the job's end")
        status = await client.status(job_id)
        assert (status.state, status.failed_reason) == ("failed", WHY)
        assert status.attempts_made == 1


async def test_what_does_not_run_can_not_be_cancelled_and_says_what_it_is(
    stage: Stage, running: Running, redis: Redis
) -> None:
    """Waiting, unknown, another library's, abandoned by its worker; a reason without text."""
    async with running(stage.handlers) as (worker, client):
        queue = client.settings.queues[0]
        await worker.stop()
        waiting = await client.enqueue("work")

        with pytest.raises(JobNotRunning, match="is waiting: only a job that is running"):
            await client.cancel(waiting, reason=None)
        with pytest.raises(JobNotFound):
            await client.cancel("nowhere")
        await redis.rpoplpush(f"bull:{queue}:wait", f"bull:{queue}:active")
        with pytest.raises(JobNotRunning, match="has lost its worker"):
            await client.cancel(waiting)
        await redis.set(f"bull:{queue}:{waiting}:lock", "1c0dd3f6-9c2f-4b9b-9d3a-3bd2e8f41a7c:5")
        with pytest.raises(JobNotRunning, match="not of this library"):
            await client.cancel(waiting)
        with pytest.raises(ConfigurationError, match="expected some text"):
            await client.cancel(waiting, reason=" ")
        assert await redis.get(f"bull:{queue}:{waiting}:lock") is not None


@pytest.mark.parametrize(
    ("options", "state"),
    [({}, "waiting"), ({"delay": 60}, "delayed"), ({"priority": 2}, "prioritized")],
)
async def test_a_job_that_has_not_started_is_removed(
    client: JobClient, redis: Redis, options: dict[str, Any], state: str
) -> None:
    """Nothing of it is left, and others stay."""
    queue = client.settings.queues[0]
    job_id = await client.enqueue("work", **options)
    other = await client.enqueue("work", **options)
    assert (await client.status(job_id)).state == state

    assert await client.cancel(job_id) == "removed"

    assert [key async for key in redis.scan_iter(f"bull:{queue}:{job_id}*")] == []
    assert [job.id async for job in client.jobs()] == [other]
    with pytest.raises(JobNotFound):
        await client.cancel(job_id)


async def test_a_parent_that_waits_is_removed_with_its_children_unless_one_runs(
    client: JobClient, redis: Redis, make_settings: Callable[..., Settings]
) -> None:
    handlers = HandlerRegistry()

    @handlers.course("parent")
    async def parent(job: Job[Data]) -> None:
        await job.enqueue_children([Child("part", key=key, delay=60) for key in "ab"])

    job_id = await client.enqueue("parent")
    keys = f"bull:{client.settings.queues[0]}"
    async with Worker(handlers, make_settings(concurrency=1)) as worker:
        await wait_until(lambda: redis.zcard(f"{keys}:waiting-children"), what="the children")
        await worker.stop()
    part = str((await redis.smembers(f"{keys}:{job_id}:dependencies")).pop())
    await redis.set(f"{part}:lock", "somebody")

    with pytest.raises(WrongState, match="one of its children runs"):
        await client.cancel(job_id)
    await redis.delete(f"{part}:lock")

    assert await client.cancel(job_id) == "removed"
    assert [key async for key in redis.scan_iter(f"{keys}:{job_id}*")] == []


async def test_a_worker_that_dies_before_it_hears_loses_nothing(
    tmp_path: Path, start_server: Callable[..., ServerProcess]
) -> None:
    """The lock with the request in it runs out like any other, and the job runs elsewhere."""
    server = start_server()
    (tmp_path / "jobs.py").write_text(APP, encoding="utf-8")
    commands = Commands(tmp_path, server.url, "jobs")
    busy = {"CONVOLAB_CONCURRENCY": "1", "CONVOLAB_LOCK_DURATION": "2s"}
    async with JobClient(redis_url=server.url, queues=("jobs",)) as client:
        first = await commands.start("run", "--app", "jobs:handlers", **busy)
        job_id = await client.enqueue("once-stuck")
        await first.until("job.started")
        first.send(signal.SIGSTOP)  # it can't hear any more
        with pytest.raises(TimeoutError):
            await client.cancel(job_id, timeout=0.2)
        first.send(signal.SIGKILL)
        await client.enqueue("mend")
        await commands.start("run", "--app", "jobs:handlers", **busy)

        assert await client.result(job_id, timeout=30) == "done by another"
    await commands.close()


APP = """
import asyncio, pathlib
from convolab_worker import HandlerRegistry

handlers = HandlerRegistry()
mended = pathlib.Path("mended")

@handlers.audio("once-stuck")
async def once_stuck(job):
    while not mended.exists():
        await asyncio.sleep(0.02)
    return "done by another"

@handlers.audio("mend")
async def mend(job):
    mended.touch()
"""


async def test_from_the_command_line(stage: Stage, running: Running, tmp_path: Path) -> None:
    """Exit code 0 for an end as asked; 1 with its state for a job that does not run."""
    async with running(stage.handlers, lock_duration=60.0) as (_, client):
        settings = client.settings
        commands = Commands(tmp_path, settings.redis_url, settings.queues[0])
        job_id = await client.enqueue("work")
        await stage.next()

        code, out, _ = await commands.run("cancel", job_id, "--fail", WHY)
        again = await commands.run("cancel", job_id)
        second = await client.enqueue("work")
        await stage.next()
        asked = await commands.run("cancel", second, "--no-wait")
        await wait_until(lambda: second in stage.cancelled, what="the second job's end")
        wrong = await commands.run("cancel", job_id, "--fail", WHY, "--return")
        await commands.close()

        assert (code, out) == (0, "failed\n")
        assert (await client.status(job_id)).failed_reason == WHY
        assert asked[:2] == (0, "asked\n")
        assert again[0] == 1
        assert "is failed: it has ended already" in again[2]
        assert wrong[0] == 2
        assert "either --fail REASON or --return" in wrong[2]


@pytest_asyncio.fixture
async def quiet(
    start_server: Callable[..., ServerProcess], stage: Stage
) -> AsyncIterator[tuple[Worker, Redis]]:
    """A worker on a server of its own, whose waits are long."""
    settings = Settings(
        redis_url=start_server().url, queues=("jobs",), idle_min=60.0, idle_max=60.0
    )
    async with Redis.from_url(settings.redis_url) as redis, Worker(stage.handlers, settings) as it:
        await wait_until(lambda: it.stats()["idle"]["until"], what="the wait")
        yield it, redis


async def test_nobody_pays_for_it_while_nobody_cancels(
    quiet: tuple[Worker, Redis], stage: Stage
) -> None:
    """A lone job costs what it cost before: 5 commands sent, 25 as a bill counts them."""
    worker, redis = quiet
    async with JobClient(worker.settings) as client:
        stage.gate.set()
        await client.enqueue("work")  # so that the server knows the scripts
        await wait_until(lambda: worker.stats()["outcomes"].get("completed") == 1, what="a job")
        await wait_until(lambda: worker.stats()["idle"]["until"], what="the wait")
        adding = client.counter.billable
        async with counted_commands(redis) as counts:
            await client.enqueue("work")
            await wait_until(lambda: worker.stats()["outcomes"]["completed"] == 2, what="a job")
            await wait_until(lambda: worker.stats()["idle"]["until"], what="the wait")
        adding = client.counter.billable - adding

    assert counts.total - adding <= 25
