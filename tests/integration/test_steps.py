"""Steps on a real server: recorded with their job, whatever becomes of the run."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, SyncJob, Worker
from convolab_worker.client.operating.moving import Mover
from convolab_worker.connection.address import Address
from convolab_worker.connection.commands.usage import CommandCounter
from convolab_worker.connection.connection import Connection
from convolab_worker.errors import JobFailed, LockLost, RetryLater
from tests.support.commands import Commands
from tests.support.scripted import ScriptedProxy, Trouble
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from redis.asyncio import Redis

    from convolab_worker.embedded import EmbeddedServer

    Running = Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]]

pytestmark = pytest.mark.asyncio
SOON = 10.0


class Till:
    """Counts what is paid for, by the step's name."""

    def __init__(self) -> None:
        self.paid: list[str] = []

    async def pay(self, what: str) -> str:
        """An async call."""
        self.paid.append(what)
        return f"{what} {len(self.paid)}"

    def pay_plainly(self, what: str) -> str:
        """A plain call."""
        self.paid.append(what)
        return f"{what} {len(self.paid)}"


async def kept(redis: Redis, queue: str, job_id: str) -> dict[str, str]:
    """The results that a job keeps, as JSON, by step."""
    fields: Any = await redis.hgetall(f"bull:{queue}:{job_id}")
    return {name[5:]: value for name, value in fields.items() if name.startswith("step:")}


@pytest.mark.parametrize("is_threaded", [False, True], ids=["in the loop", "in a thread"])
async def test_what_was_recorded_is_not_called_again_and_goes_when_the_job_completes(
    running: Running,
    redis: Redis,
    queue_name: str,
    is_threaded: bool,  # noqa: FBT001
) -> None:
    handlers, till = HandlerRegistry(), Till()

    async def in_loop(job: Job[Any]) -> list[str]:
        voice = await job.step("voice", till.pay, "voice")
        picture = await job.step("picture", till.pay_plainly, "picture")
        if job.attempt < 3:
            raise ValueError
        return [voice, picture]

    def in_thread(job: SyncJob[Any]) -> list[str]:
        voice = job.step("voice", till.pay, "voice")
        picture = job.step("picture", till.pay_plainly, "picture")
        if job.attempt < 3:
            raise ValueError
        return [voice, picture]

    handlers.course("work")(in_thread if is_threaded else in_loop)
    async with running(handlers) as (_, client):
        job = await client.enqueue("work", attempts=3, backoff=0.2)
        await wait_until(lambda: redis.zcard(f"bull:{queue_name}:delayed"))
        recorded = await kept(redis, queue_name, job)
        result = await client.result(job, SOON)

    assert recorded == {"voice": '"voice 1"', "picture": '"picture 2"'}
    assert result == ["voice 1", "picture 2"]
    assert till.paid == ["voice", "picture"]
    assert await kept(redis, queue_name, job) == {}


async def test_a_step_costs_one_command_and_none_to_read_it_back(
    make_settings: Callable[..., Settings], client: JobClient, server: EmbeddedServer
) -> None:
    """A job's end, which removes them, is sent as often as without steps."""
    handlers, till = HandlerRegistry(), Till()

    @handlers.course("work")
    async def work(job: Job[int]) -> None:
        for number in range(job.data):
            await job.step(f"step-{number}", till.pay, "x")
        if job.attempt == 1:
            raise ValueError

    sent = []
    for steps in (0, 5):
        with ScriptedProxy(server.port) as proxy:
            settings = make_settings(redis_url=f"redis://127.0.0.1:{proxy.port}")
            async with Worker(handlers, settings):
                for _ in range(2):  # the scripts' texts are sent with the first one
                    proxy.seen.clear()
                    await client.result(await client.enqueue("work", steps, attempts=2), SOON)
            sent.append(proxy.seen)

    without, with_steps = sent
    assert len(till.paid) == 10
    assert with_steps["recordStep"] == 5
    assert (without["moveToFinished"], with_steps["finishWithSteps"]) == (1, 1)
    assert not {name for name in with_steps if name.startswith("H")}  # such as HGETALL


async def test_steps_stay_when_a_job_fails_and_a_retry_may_forget_them(
    running: Running, redis: Redis, server_url: str, queue_name: str, tmp_path: Path
) -> None:
    """By the client, and on the command line."""
    handlers, till, seen = HandlerRegistry(), Till(), list[str]()
    commands = Commands(tmp_path, server_url, queue_name)

    @handlers.course("work")
    async def work(job: Job[Any]) -> None:
        seen.append(await job.step("voice", till.pay, "voice"))
        raise ValueError

    def has_run(times: int) -> bool:
        return len(seen) == times

    async with running(handlers) as (_, client):
        job = await client.enqueue("work")
        for runs in range(1, 5):
            await wait_until(partial(has_run, runs))
            await wait_until(lambda: redis.zscore(f"bull:{queue_name}:failed", job))
            assert [*await kept(redis, queue_name, job)] == ["voice"]
            if runs < 3:
                await client.retry(job, reset_attempts=True, forget_steps=runs == 2)
            elif runs == 3:
                code, _, _ = await commands.run("jobs", "retry", job, "--forget-steps")
                assert code == 0

    assert seen == ["voice 1", "voice 1", "voice 2", "voice 3"]


async def test_steps_outlast_retry_later_children_and_a_stop(
    make_settings: Callable[..., Settings], client: JobClient
) -> None:
    """Those before the children, and those after, are called once."""
    handlers, till = HandlerRegistry(), Till()
    stopping = asyncio.Event()

    @handlers.course("work")
    async def work(job: Job[Any]) -> list[Any]:
        text = await job.step("text", till.pay, "text")
        if job.starts == 1:
            raise RetryLater(0.05)
        done = await job.children_results()
        if "part" not in done:
            await job.enqueue_children([Child("part")])
        voice = await job.step("voice", till.pay, "voice")
        if not stopping.is_set():
            stopping.set()
            await asyncio.Event().wait()
        return [text, done["part"], voice]

    @handlers.audio("part")
    async def part(job: Job[Any]) -> str:
        return await job.step("inner", till.pay, "inner")

    async with Worker(handlers, make_settings()) as worker:
        job = await client.enqueue("work")
        await asyncio.wait_for(stopping.wait(), SOON)
        await worker.stop(grace=0)
    async with Worker(handlers, make_settings()):
        result = await client.result(job, SOON)

    assert result == ["text 1", "inner 2", "voice 3"]
    assert till.paid == ["text", "inner", "voice"]


async def test_a_run_that_has_lost_its_lock_records_nothing(
    running: Running, redis: Redis, queue_name: str
) -> None:
    handlers, errors = HandlerRegistry(), list[BaseException]()

    @handlers.course("work")
    async def work(job: Job[Any]) -> None:
        async def pay() -> str:
            await redis.set(f"bull:{queue_name}:{job.id}:lock", "another:1")
            return "paid"

        try:
            await job.step("voice", pay)
        except BaseException as error:
            errors.append(error)
            raise

    async with running(handlers) as (worker, client):
        job = await client.enqueue("work")
        await wait_until(lambda: worker.stats().get("outcomes", {}).get("lost"))

    assert [type(error) for error in errors] == [LockLost]
    assert await kept(redis, queue_name, job) == {}


async def test_a_lock_that_ran_out_while_nobody_took_the_job_is_taken_again(
    running: Running, redis: Redis, queue_name: str
) -> None:
    """As for a job's end: what was paid for is recorded."""
    handlers = HandlerRegistry()

    @handlers.course("work")
    async def work(job: Job[Any]) -> list[str]:
        async def pay() -> str:
            await redis.delete(f"bull:{queue_name}:{job.id}:lock")
            return "paid"

        await job.step("voice", pay)
        return [*await kept(redis, queue_name, job.id)]

    async with running(handlers) as (_, client):
        assert await client.result(await client.enqueue("work"), SOON) == ["voice"]


async def test_a_step_whose_reply_is_lost_is_recorded_and_called_once(
    make_settings: Callable[..., Settings], client: JobClient, server: EmbeddedServer
) -> None:
    handlers, till = HandlerRegistry(), Till()

    @handlers.course("work")
    async def work(job: Job[Any]) -> str:
        proxy.arm(Trouble("cut", command="recordStep", after=True))
        return await job.step("voice", till.pay, "voice")

    with ScriptedProxy(server.port) as proxy:
        settings = make_settings(redis_url=f"redis://127.0.0.1:{proxy.port}")
        async with Worker(handlers, settings):
            result = await client.result(await client.enqueue("work"), SOON)
        assert proxy.seen["recordStep"] >= 2

    assert (result, till.paid) == ("voice 1", ["voice"])


async def test_a_result_that_was_paid_for_is_recorded_though_its_handler_is_cancelled(
    make_settings: Callable[..., Settings],
    client: JobClient,
    redis: Redis,
    queue_name: str,
    server: EmbeddedServer,
) -> None:
    """Redis does not answer while the job's time-out passes."""
    handlers, till = HandlerRegistry(), Till()
    cancelled = asyncio.Event()

    @handlers.course("work", timeout=0.3)
    async def work(job: Job[Any]) -> str:
        async def pay() -> str:
            if not till.paid:
                proxy.hold()
            return await till.pay("voice")

        try:
            return await job.step("voice", pay)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with ScriptedProxy(server.port) as proxy:
        settings = make_settings(redis_url=f"redis://127.0.0.1:{proxy.port}")
        async with Worker(handlers, settings):
            job = await client.enqueue("work", attempts=2, backoff=0.2)
            await asyncio.wait_for(cancelled.wait(), SOON)
            proxy.resume()
            await wait_until(lambda: redis.zcard(f"bull:{queue_name}:delayed"))
            recorded = await kept(redis, queue_name, job)
            result = await client.result(job, SOON)

    assert recorded == {"voice": '"voice 1"'}
    assert (result, till.paid) == ("voice 1", ["voice"])


async def test_a_thread_that_goes_on_after_its_time_out_pays_for_nothing_more(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job has failed that attempt: the next one may run already."""
    monkeypatch.setattr("convolab_worker.worker.execution.handler_call.PATIENCE_SECONDS", 0.1)
    handlers, till = HandlerRegistry(), Till()
    goes_on, refused = threading.Event(), threading.Event()

    @handlers.course("work", timeout=0.1)
    def work(job: SyncJob[Any]) -> None:
        goes_on.wait(SOON)
        try:
            job.step("voice", till.pay, "voice")
        except LockLost:
            refused.set()

    async with running(handlers) as (_, client):
        with pytest.raises(JobFailed, match="longer than its time-out"):
            await client.result(await client.enqueue("work"), SOON)
        goes_on.set()
        assert await asyncio.to_thread(refused.wait, SOON)

    assert till.paid == []


async def test_steps_and_their_keys_move_with_their_job(
    make_settings: Callable[..., Settings], client: JobClient, server_url: str, queue_name: str
) -> None:
    """``migrate`` gives a job another id where its own is taken."""
    handlers, till, step_keys = HandlerRegistry(), Till(), list[str]()
    other = f"{queue_name}-other"

    @handlers.course("work")
    async def work(job: Job[Any]) -> str:
        step_keys.append(job.step_key("voice"))
        paid = await job.step("voice", till.pay, "voice")
        if job.attempt == 1:
            raise ValueError
        return paid

    async with Worker(handlers, make_settings()) as worker:
        await client.enqueue("work", job_id="lesson", attempts=2, backoff=0.5)
        await wait_until(lambda: worker.stats().get("outcomes", {}).get("retried"))
    await client.enqueue("other", job_id="lesson", queue=other)
    connection = Connection(Address.parse(server_url), timeout=SOON, counter=CommandCounter())
    await connection.open()
    mover = Mover(connection, prefix="bull", sources=[queue_name], destination=other, execute=True)
    moved = [result.new_id async for result in mover.results()]
    await connection.close()
    async with Worker(handlers, make_settings(queues=(other,))):
        result = await client.result(moved[0], SOON, queue=other)

    assert moved == [f"{queue_name}-lesson"]
    assert (result, till.paid) == ("voice 1", ["voice"])
    assert step_keys[0] == step_keys[1]


async def test_data_that_a_handler_updates_is_the_next_attempts(running: Running) -> None:
    handlers = HandlerRegistry()

    @handlers.course("work")
    async def work(job: Job[dict[str, int]]) -> list[Any]:
        if job.attempt == 1:
            await job.update_data({"part": 2})
            assert job.data == {"part": 2}
            raise ValueError
        return [job.data, job.starts]

    async with running(handlers) as (_, client):
        job = await client.enqueue("work", {"part": 1}, attempts=2)
        result = await client.result(job, SOON)
        status = await client.status(job)

    assert result == [{"part": 2}, 2]
    assert status.data == {"part": 2}
