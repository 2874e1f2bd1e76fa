"""The objects that a plan's steps act on: workers, one after the other, a client, and a proxy.

Each call has a deadline. Faults are noted, not raised, so that every plan runs to its end.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from convolab_worker import JobClient, Settings, Worker
from convolab_worker.errors import ConvolabWorkerError
from tests.model.jobs import Jobs, Known

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.model.bench import ModelBench, QueueBench
    from tests.model.plan import Plan
    from tests.support.scripted import ScriptedProxy

LOCK_SECONDS = 1.5
GRACE_SECONDS = 0.3
# A call may take so much longer than its time-out or budget; the machine may be busy.
LATE_SECONDS = 1.5
# A stop may take so much longer than its grace, to return jobs and close connections.
STOP_SECONDS = 4.0
# A connection attempt that gets no answer is given up after so long.
CONNECT_SECONDS = 5.0
_BEAT_SECONDS = 0.01
_PAUSE_SECONDS = 0.1  # what is later than that is a pause of the machine


@dataclass(frozen=True)
class Finding:
    """A broken invariant, and the details."""

    kind: str
    text: str


@dataclass(eq=False)
class Call:
    """A call that was begun, and its deadline."""

    name: str
    task: asyncio.Task[Any]
    ends_by: float


class Life:
    """One worker, from its start to its end."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.number = number
        self.worker = Worker(world.jobs.handlers(number), world.settings)
        self.is_ending = False
        self.running = asyncio.create_task(self.worker.run(), name=f"model-run-{number}")

    async def ended(self, within: float) -> None:
        """Wait until ``run`` has returned, after it was told to end."""
        self.is_ending = True
        if not await self._world.ends(self.running, time.monotonic() + within):
            self._world.wrong("run-hangs", f"run() has not ended {within:.1f} s after it had to")
            self.running.cancel()
            return
        await asyncio.sleep(0)
        left = [
            run.job_id
            for run in self._world.jobs.running()
            if run.life == self.number and not run.in_thread
        ]
        if left:
            self._world.wrong("handler-left", f"run() has ended, and the handlers of {left} run")


class World:
    """The queues of one plan, and everything that uses them."""

    def __init__(self, plan: Plan, bench: ModelBench, proxy: ScriptedProxy) -> None:
        self.plan = plan
        self.bench = bench
        self.proxy = proxy
        self.findings: list[Finding] = []
        name = f"model-{uuid.uuid4().hex[:8]}"
        self.queues = [bench.queue(f"{name}-{number}") for number in range(plan.queues)]
        self.settings = _settings(plan, proxy.url, [queue.name for queue in self.queues])
        self.jobs = Jobs()
        self.lives: list[Life] = []
        self.calls: list[Call] = []
        self.was_stopped = False
        self.max_lag = self._paused = 0.0
        self.frozen = 0.0
        self.make_client()
        self.drains = 0
        self._beat_at = time.monotonic()
        self._beating = asyncio.create_task(self._beat(), name="model-beat")
        self.own_tasks = {*asyncio.all_tasks()}

    @property
    def queue(self) -> QueueBench:
        """The first queue."""
        return self.queues[0]

    @property
    def life(self) -> Life | None:
        """The newest worker, which may have ended."""
        return self.lives[-1] if self.lives else None

    def wrong(self, kind: str, text: str) -> None:
        """Note a broken invariant; only the first of each kind."""
        if all(finding.kind != kind for finding in self.findings):
            self.findings.append(Finding(kind, text))

    async def _beat(self) -> None:
        """Measure how late the event loop runs."""
        while True:
            self._beat_at = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)
            late = time.monotonic() - self._beat_at - _BEAT_SECONDS
            self.max_lag = max(self.max_lag, late)
            if late > _PAUSE_SECONDS:
                self._paused += late
            if self.plan.sleep_after is not None:
                self._check_sleep()

    def _check_sleep(self) -> None:
        """Note a worker that has closed its connections and still has jobs."""
        life = self.life
        stats = {} if life is None else life.worker.stats()
        if stats.get("phase") == "asleep" and (stats["running"] or stats["parked"]):
            self.wrong("asleep-at-work", f"asleep with {stats['running']} jobs that run")

    # calls

    def call(
        self,
        name: str,
        asked: Coroutine[Any, Any, Any],
        within: float,
        then: Callable[[Any], None] | None = None,
    ) -> Call:
        """Begin a call that has to return or raise within so many seconds."""
        task = asyncio.create_task(self._called(name, asked, within, then), name=f"model-{name}")
        task.add_done_callback(lambda _: asked.close())  # never awaited, if cancelled at once
        call = Call(name, task, time.monotonic() + within)
        self.calls.append(call)
        return call

    async def _called(
        self,
        name: str,
        asked: Coroutine[Any, Any, Any],
        within: float,
        then: Callable[[Any], None] | None,
    ) -> None:
        began = time.monotonic()
        try:
            answer = await asked
            if then is not None:
                then(answer)
        except (ConvolabWorkerError, TimeoutError):
            pass  # these are answers, too
        except Exception as error:  # noqa: BLE001 - any other error is a finding
            self.wrong("call-raises", f"{name} raised {error!r}")
        took = time.monotonic() - began
        if took > within + self.slack:
            self.wrong("call-late", f"{name} took {took:.2f} s, and may take {within:.2f} s")

    async def answers(self) -> None:
        """Wait for every call; note and cancel those that miss their deadline."""
        while self.calls:
            call = self.calls.pop(0)
            if not await self.ends(call.task, call.ends_by + 0.5):
                self.wrong("call-hangs", f"{call.name} has not ended")
                call.task.cancel()

    # the worker

    def start(self) -> Life:
        """Start a worker."""
        life = Life(self, len(self.lives) + 1)
        self.lives.append(life)
        return life

    async def fresh_life(self) -> Life:
        """The running worker; a new one, if the newest is ending or has ended."""
        life = self.life
        if life is None:
            return self.start()
        self.look()
        if life.is_ending or life.running.done():
            await life.ended(STOP_SECONDS + GRACE_SECONDS)
            return self.start()
        return life

    def look(self) -> None:
        """Note a worker that has ended without being told to."""
        life = self.life
        if life is not None and life.running.done() and not life.is_ending:
            life.is_ending = True
            error = None if life.running.cancelled() else life.running.exception()
            self.wrong("run-ends", f"run() has ended by itself: {error!r}")

    def told(self, event: dict[str, Any]) -> None:
        """Take a log line of the library; one with an exception tells of a fault in the library."""
        if event.get("exc_info"):
            self.wrong("crash", f"{event.get('event')}: {event['exc_info']!r}")

    @property
    def slack(self) -> float:
        """How much later everything may end, since the event loop stood still for so long."""
        lag = time.monotonic() - self._beat_at - _BEAT_SECONDS  # not noted yet
        paused = self._paused + (lag if lag > _PAUSE_SECONDS else 0.0)
        return max(self.max_lag, lag, paused) + self.frozen

    async def ends(self, task: asyncio.Task[Any], moment: float) -> bool:
        """Wait for the task until that moment, and as much longer as there is slack by then."""
        while not task.done():
            left = moment + self.slack - time.monotonic()
            if left <= 0:
                return False
            await asyncio.wait({task}, timeout=left)
        return True

    def froze(self, seconds: float) -> None:
        """Note that a step has blocked the event loop on purpose."""
        self.frozen += seconds
        self._beat_at = time.monotonic()

    def make_client(self) -> None:
        """Make a client, which is not connected yet."""
        self.client = JobClient(self.settings)

    def close_client(self) -> None:
        """Begin to close the client."""
        self.call("client.close()", self.client.close(), STOP_SECONDS)

    def sure(self, known: Known) -> None:
        """Note that ``enqueue`` has returned the job's id."""
        known.is_sure = True
        known.added_at = time.monotonic()

    async def demolish(self) -> None:
        """Cancel every task that is left."""
        self.proxy.heal()
        self.jobs.open(for_good=True)
        for _ in range(3):
            left = asyncio.all_tasks() - {asyncio.current_task()}
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=0.5)


def _settings(plan: Plan, url: str, queues: list[str]) -> Settings:
    return Settings(
        redis_url=url,
        queues=tuple(queues),
        concurrency=plan.concurrency,
        park_limit=2,
        idle_min=min(plan.idle, 0.05) if plan.idle < 1 else plan.idle,
        idle_max=plan.idle,
        lock_duration=LOCK_SECONDS,
        max_stalled_count=1000,
        shutdown_grace=GRACE_SECONDS,
        progress_interval=0.05,
        command_timeout=plan.command_timeout,
        wake_mode="held" if plan.held else "background",
        wake_linger=0.2,
        sleep_after=plan.sleep_after,
        rate_limit=plan.rate_limit,
    )


def capture_logs(world: World) -> None:
    """Give the library's log lines to ``world``, and write none of them."""

    def hear(_: Any, __: str, event: Any) -> Any:
        world.told(event)
        raise structlog.DropEvent

    structlog.configure(processors=[hear], cache_logger_on_first_use=False)
