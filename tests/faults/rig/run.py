"""One day of one contender: its producers, its scheduler, its platform, and the account."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from redis.asyncio import Redis

from convolab_worker import JobClient, Settings
from tests.faults.harness import LEDGER_NAME, LEDGER_URL, Ledger, lasting
from tests.faults.rig.day import QUEUES, Day, Planned, planned
from tests.faults.rig.supervisor import Account, CloudRun
from tests.support.commandstats import CommandCounts, counted_commands
from tests.support.logged import RUN
from tests.support.markdown import ROOT, blocks
from tests.support.node import NodeScripts
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from convolab_worker.embedded import EmbeddedServer

APP = "tests.faults.rig.app:handlers"
_RUN = (*RUN, "--app", APP)
_SCHEDULER = {"User-Agent": "Google-Cloud-Scheduler"}
_LEAST_PATIENCE_SECONDS = 30.0  # a process starts no faster on a fast clock
_TWICE_SHARE = 0.05  # a scheduler delivers at least once


class Place(Enum):
    """Where the day's work is done, and what calls the worker there; all from Python."""

    CLOUD_RUN = "Cloud Run: the API's wakes, a scheduler"
    CLOUD_TASKS = "Cloud Run: Cloud Tasks alone"
    QSTASH = "Cloud Run: QStash alone, signed"
    FLY = "Fly.io: the API's wakes, QStash when due"
    KEDA = "Kubernetes: KEDA asks the API"
    LAMBDA = "AWS Lambda: the API's events, a schedule"

    @property
    def command(self) -> tuple[str, ...]:
        """How its process is started."""
        if self is Place.LAMBDA:
            return (sys.executable, "-m", "awslambdaric", "tests.faults.rig.app.function")
        return _RUN if self is Place.KEDA else (*_RUN, "--wake")


class Contender(Enum):
    """Who does the day's work."""

    HELD = "scales to zero, wakes held"
    SKETCH = "scales to zero, answers at once"
    ALWAYS = "always on"

    @property
    def command(self) -> tuple[str, ...]:
        """How its process is started."""
        if self is Contender.SKETCH:
            return (sys.executable, "-m", "tests.faults.rig.sketch")
        return _RUN if self is Contender.ALWAYS else (*_RUN, "--wake")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a day."""

    contender: Contender | Place
    jobs: int
    ended: int
    ended_twice: int
    begun_again: int
    waits: list[float]
    """From the time that a job could run to its first start, in seconds of the rig's clock."""
    commands: CommandCounts
    account: Account
    scheduled: int
    log: str


def waker_of_the_docs(folder: Path) -> Path:
    """The documentation's waker for Node, as a file that Node runs as it stands."""
    page = ROOT / "docs" / "waking-from-an-api.md"
    (block,) = [block for block in blocks(page) if block.file == "waker.ts"]
    file = folder / "waker.mjs"
    file.write_text(block.text, encoding="utf-8")
    return file


class Rig:
    """A server, a platform in front of a contender, and whoever gives them work."""

    def __init__(
        self,
        contender: Contender | Place,
        day: Day,
        server: EmbeddedServer,
        ledger: Ledger,
        folder: Path,
    ) -> None:
        self._contender = contender
        self._day = day
        self._server = server
        self._ledger = ledger
        self._folder = folder
        self._chance = random.Random(f"{day.seed} chance")
        self._scheduled = 0
        self._from_apis = 0

    async def run(self, days: int = 1) -> Result:
        """So many days, each with up to an hour more, and nights until no instance is left."""
        rng = random.Random(f"{self._day.seed} day")
        jobs = [planned(self._day, rng, f"{number}-") for number in range(days)]
        async with Redis.from_url(self._server.url, decode_responses=True) as redis:
            platform = self._platform()
            async with counted_commands(redis) as commands, platform:
                for number, today in enumerate(jobs):
                    if number:
                        await platform.asleep()
                    await self._work(platform, today)
            could_run = {
                job.job_id: await _could_run(redis, job) for today in jobs for job in today
            }
        return self._result(could_run, commands, platform)

    def _platform(self) -> CloudRun:
        return CloudRun(
            self._contender.command,
            self._environ(),
            self._folder / f"{self._contender.name}.log",
            idle=self._day.idle,
            lose=self._lose,
        )

    def _environ(self) -> dict[str, str]:
        second = 1 / self._day.scale
        environ = {
            "REDIS_URL": self._server.url,
            "CONVOLAB_QUEUES": ",".join(QUEUES),
            "CONVOLAB_IDLE_MIN": f"{max(5 * second, 0.01)}",
            "CONVOLAB_IDLE_MAX": f"{max(1800 * second, 0.01)}",
            "CONVOLAB_LOCK_DURATION": f"{max(60 * second, 1.0)}",
            LEDGER_URL: self._ledger.url,
            LEDGER_NAME: self._ledger.name,
        }
        if self._contender is Contender.HELD:
            environ |= self._held()
        return environ

    def _held(self) -> dict[str, str]:
        return {"K_SERVICE": "worker", "CONVOLAB_WAKE_LINGER": f"{10 / self._day.scale:.4f}"}

    def _lose(self, request: web.Request) -> web.Response | None:
        """Lose some of the APIs' wakes, and the first: told of, or silently as a front end may."""
        if request.headers.get("User-Agent") == _SCHEDULER["User-Agent"]:
            return None
        self._from_apis += 1
        if self._from_apis > 1 and self._chance.random() >= self._day.lost:
            return None
        kind = self._chance.choice(("cut", "busy", "swallowed"))
        if kind == "cut" and request.transport is not None:
            request.transport.abort()
        return web.Response(status=429 if kind == "busy" else 200)

    async def _work(self, platform: CloudRun, jobs: Sequence[Planned]) -> None:
        always = self._contender is Contender.ALWAYS
        url = None if always else platform.url
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            helper = group.create_task(platform.stay() if always else self._schedule(platform.url))
            group.create_task(self._produce(jobs[::2], url, over))
            group.create_task(self._produce_with_node(jobs[1::2], url, over))
            await self._until_over(jobs)
            over.set()
            helper.cancel()

    async def _until_over(self, jobs: Sequence[Planned]) -> None:
        """Wait until the day is over and every job has ended, or an hour more has gone by."""
        dawn = time.monotonic()
        wanted = {job.job_id for job in jobs}
        patience = self._day.seconds + max(3600 / self._day.scale, _LEAST_PATIENCE_SECONDS)

        async def done() -> bool:
            await lasting(0.1)
            return wanted <= {entry["id"] for entry in self._ledger.ends()}

        with suppress(AssertionError):  # the account tells it
            await wait_until(done, timeout=patience, what="the end of all jobs")
        await lasting(max(dawn + self._day.seconds - time.monotonic(), 0.0))

    async def _schedule(self, url: str) -> None:
        """Wake every five minutes of the day; sometimes twice; never beside its own last call."""
        async with ClientSession(timeout=ClientTimeout(total=180)) as session:
            while True:
                times = 2 if self._chance.random() < _TWICE_SHARE else 1
                calls = [self._call(session, url) for _ in range(times)]
                await asyncio.gather(lasting(self._day.scheduler_every), *calls)

    async def _call(self, session: ClientSession, url: str) -> None:
        self._scheduled += 1
        try:
            async with session.post(url, headers=_SCHEDULER) as answer:
                await answer.read()
        except ClientError:
            return  # the next call comes

    async def _produce(self, jobs: Sequence[Planned], url: str | None, over: asyncio.Event) -> None:
        settings = Settings(
            redis_url=self._server.url, queues=QUEUES, wake_url=url, **self._wake_settings()
        )
        began = time.monotonic()
        async with JobClient(settings) as client:
            for job in jobs:
                await lasting(max(began + job.at - time.monotonic(), 0.0))
                delay = job.opts.get("delay")
                await client.enqueue(
                    "work",
                    job.data,
                    queue=job.queue,
                    job_id=job.job_id,
                    delay=None if delay is None else delay / 1000,
                    attempts=job.opts.get("attempts"),
                    backoff=job.opts.get("backoff"),
                )
                self._added(job)
            await over.wait()  # an API stays: so do its wakes that are held, and those to come

    def _wake_settings(self) -> dict[str, Any]:
        """What the Python API needs to wake the worker, beside the address."""
        return {}

    def _added(self, job: Planned) -> None:
        """A job was added from Python."""

    async def _produce_with_node(
        self, jobs: Sequence[Planned], url: str | None, over: asyncio.Event
    ) -> None:
        node = NodeScripts(Path(__file__).parent)
        environ = {} if url is None else {"CONVOLAB_WAKE_URL": url}
        async with await node.start("producer.mjs", environ=environ) as process:
            await process.send(
                {
                    "host": "127.0.0.1",
                    "port": self._server.port,
                    "waker": str(waker_of_the_docs(self._folder)),
                    "jobs": [job.as_node() for job in jobs],
                }
            )
            answer = await process.receive(timeout=self._day.seconds + 60)
            assert answer == {"added": len(jobs)}, answer
            await over.wait()

    def _result(
        self, could_run: Mapping[str, float], commands: CommandCounts, platform: CloudRun
    ) -> Result:
        ends = Counter(entry["id"] for entry in self._ledger.ends())
        starts = self._ledger.starts()
        first: dict[str, float] = {}
        for entry in starts:
            first.setdefault(entry["id"], entry["at"])
        return Result(
            contender=self._contender,
            jobs=len(could_run),
            ended=len(ends),
            ended_twice=ends.total() - len(ends),
            begun_again=len(starts) - len({(entry["id"], entry["attempt"]) for entry in starts}),
            waits=sorted(max(at - could_run[job_id], 0.0) for job_id, at in first.items()),
            commands=commands,
            account=platform.account,
            scheduled=self._scheduled,
            log=platform.text(),
        )


async def _could_run(redis: Redis, job: Planned) -> float:
    """When the job was added, and its delay over (epoch seconds)."""
    added: Any = await redis.hget(f"bull:{job.queue}:{job.job_id}", "timestamp")
    return (float(added) + float(job.opts.get("delay", 0))) / 1000
