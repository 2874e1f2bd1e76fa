"""A day on stand-ins for platforms, each as its documentation says; the jobs come from Python.

=============  ==================================================================================
Cloud Run      ``CloudRun``: a process per request, frozen without one; its sources are there
Cloud Tasks,   ``tests.support.task_queues``: they keep a call until its time, know names, repeat
QStash
Fly.io         a proxy that starts a machine for a request, looks every few minutes and stops one
               without open requests: https://fly.io/docs/reference/fly-proxy-autostop-autostart
KEDA           asks every 30 s, starts a worker above 0, ends it 5 min after the last time above 0:
               https://keda.sh/docs/2.17/reference/scaledobject-spec
AWS Lambda     the runtime's own client, frozen between invocations, one at a time
=============  ==================================================================================
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from httpx import ASGITransport, AsyncClient

from convolab_worker import JobClient, Settings
from convolab_worker.integrations.scaling import scale_app
from tests.faults.harness import lasting
from tests.faults.rig.day import QUEUES, RECIPE
from tests.faults.rig.run import Place, Rig
from tests.faults.rig.supervisor import CloudRun
from tests.support.lambda_runtime import RuntimeApi
from tests.support.service import says, service
from tests.support.task_queues import (
    ACCESS_TOKEN,
    PUBLISHING_TOKEN,
    CloudTasks,
    Message,
    QStash,
    TaskQueue,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.rig.day import Planned

_SIGNING_KEY = "sig_rig"
_TASKS = "projects/p/locations/l/queues/q"
_LAMBDA_SECONDS = 900.0
_SHORTEST_INVOCATION_SECONDS = 8.0
_SHORTEST_POLL_SECONDS = 0.05


class Fly(CloudRun):
    """Nothing is frozen; a machine without an open request is stopped at the proxy's next look."""

    def _leave(self, instance: Any) -> None:
        instance.open -= 1

    async def stop_idle(self) -> None:
        """Look every few minutes, until cancelled."""
        while True:
            await lasting(self._idle)
            if self._instance is not None and self._instance.open == 0:
                self._retire()


class Keda(CloudRun):
    """Workers by what the API says that it needs; nobody sends a request here."""

    async def scale(self, api: AsyncClient, every: float) -> None:
        """Ask, and start or end the worker, until cancelled."""
        wanted_at = 0.0
        while True:
            total = (await api.get("/")).json()["total"]
            if total > 0:
                wanted_at = time.monotonic()
                if self._instance is None:
                    self._instance = self._spawn()
            elif self._instance is not None and time.monotonic() - wanted_at > self._idle:
                self._retire()
            await lasting(every)


class Lambda(CloudRun):
    """One environment, which has a CPU while it is invoked, and is billed for that."""

    def __init__(self, *args: Any, runtime: RuntimeApi, seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._runtime = runtime
        self._seconds = seconds
        self._turn = asyncio.Lock()

    async def invoke(self) -> None:
        """One event, after those that came before."""
        async with self._turn:
            if self._instance is None:
                self._instance = self._spawn()
            elif self._instance.is_frozen:
                self._instance.thaw()
            self.account.requests += 1
            await self._runtime.invoke({"source": "aws.events"}, seconds=self._seconds)
            self._instance.freeze()


class PlaceRig(Rig):
    """A day of one place."""

    _contender: Place

    async def run(self, days: int = 1) -> Any:
        """The day, with what calls the worker there."""
        self._events: set[asyncio.Task[None]] = set()
        self._queue: TaskQueue | None = None
        self._variables = self._environ() | self._held() | {"CONVOLAB_WAKE_RETRY": "on"}
        del self._variables["K_SERVICE"]
        self._runtime = RuntimeApi()
        async with AsyncExitStack() as stack:
            self._queue = await self._enter_queue(stack)
            if self._contender is Place.LAMBDA:
                address = await stack.enter_async_context(self._runtime.serve())
                self._variables["AWS_LAMBDA_RUNTIME_API"] = address
            return await super().run(days)

    async def _enter_queue(self, stack: AsyncExitStack) -> TaskQueue | None:
        if self._contender is Place.CLOUD_TASKS:
            tasks = await stack.enter_async_context(CloudTasks())
            token = says({"access_token": ACCESS_TOKEN})
            metadata = await stack.enter_async_context(service(token))
            self._variables |= {
                RECIPE: "call_by_cloud_tasks.py",
                "CLOUD_TASKS_URL": tasks.address,
                "GCE_METADATA_HOST": metadata.url.split("/")[2],
                "TASK_QUEUE": _TASKS,
                "WAKE_ACCOUNT": "waker@p.iam.gserviceaccount.com",
            }
            return tasks
        if self._contender in (Place.QSTASH, Place.FLY):
            qstash = await stack.enter_async_context(QStash(_SIGNING_KEY))
            self._variables |= {
                RECIPE: "call_by_qstash.py",
                "QSTASH_URL": qstash.address,
                "QSTASH_TOKEN": PUBLISHING_TOKEN,
                "CONVOLAB_WAKE_SIGNING_KEY": _SIGNING_KEY,
                "CONVOLAB_WAKE_TOKEN": "rig",
            }
            return qstash
        return None

    def _platform(self) -> CloudRun:
        log, idle = self._folder / f"{self._contender.name}.log", self._day.idle
        given = (self._contender.command, self._variables, log)
        if self._contender is Place.FLY:
            self._variables["FLY_MACHINE_ID"] = "1"
            return Fly(*given, idle=idle / 3)
        if self._contender is Place.KEDA:
            return Keda(*given, idle=idle / 3)
        if self._contender is Place.LAMBDA:
            seconds = max(_LAMBDA_SECONDS / self._day.scale, _SHORTEST_INVOCATION_SECONDS)
            return Lambda(*given, idle=idle, runtime=self._runtime, seconds=seconds)
        self._variables["K_SERVICE"] = "worker"
        return CloudRun(*given, idle=idle)

    async def _work(self, platform: CloudRun, jobs: Sequence[Planned]) -> None:
        self._at = platform
        self._variables["CONVOLAB_WAKE_URL"] = platform.url
        woken = self._contender in (Place.CLOUD_RUN, Place.FLY)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            helper = group.create_task(self._help(platform))
            group.create_task(self._produce(jobs, platform.url if woken else None, over))
            await self._until_over(jobs)
            over.set()
            helper.cancel()
            for event in self._events:
                event.cancel()

    async def _help(self, platform: CloudRun) -> None:
        """Do what the place does beside the requests, until cancelled."""
        if isinstance(platform, Fly):
            await platform.stop_idle()
        elif isinstance(platform, Keda):
            settings = Settings(redis_url=self._server.url, queues=QUEUES)
            second = 1 / self._day.scale
            async with JobClient(settings) as client:
                app = scale_app(client, cache=10 * second)
                transport = ASGITransport(app=app)
                async with AsyncClient(transport=transport, base_url="http://api") as api:
                    await platform.scale(api, max(30 * second, _SHORTEST_POLL_SECONDS))
        elif isinstance(platform, Lambda):
            while True:
                self._scheduled += 1
                await asyncio.gather(lasting(self._day.scheduler_every), platform.invoke())
        elif self._contender is Place.CLOUD_RUN:
            await self._schedule(platform.url)

    def _added(self, job: Planned) -> None:
        """What the API does beside adding the job, where it sends no wake itself."""
        if isinstance(self._at, Lambda):
            event = asyncio.create_task(self._at.invoke())
            self._events.add(event)
            event.add_done_callback(self._events.discard)
        elif self._queue is not None:
            delay = job.opts.get("delay", 0) / 1000
            if delay:
                self._queue.add(self._call_at(math.ceil(time.time() + delay)))
            elif self._contender is not Place.FLY:
                self._queue.add(Message(url=self._at.url, at=0.0))

    def _call_at(self, moment: int) -> Message:
        """A call at a moment, by the name that the worker's own request for it has."""
        name = f"wake-{moment}"
        if self._contender is Place.CLOUD_TASKS:
            name = f"{_TASKS}/tasks/{hashlib.sha256(name.encode()).hexdigest()[:24]}"
        return Message(url=self._at.url, at=float(moment), name=name)

    def _wake_settings(self) -> dict[str, Any]:
        return {"wake_token": "rig"} if self._contender is Place.FLY else {}
