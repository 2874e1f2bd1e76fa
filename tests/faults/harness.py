"""Worker processes, a ledger that outlives their server, and an account of every job."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from redis import Redis

from convolab_worker import HandlerRegistry, Settings, Worker
from tests.support.logged import RUN, LoggedProcess
from tests.support.server import ServerProcess
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable


APP = "tests.faults.app:handlers"
LEDGER_URL, LEDGER_NAME = "FAULTS_LEDGER_URL", "FAULTS_LEDGER_NAME"
STATES = {
    "wait": "list",
    "paused": "list",
    "active": "list",
    "prioritized": "zset",
    "delayed": "zset",
    "completed": "zset",
    "failed": "zset",
    "waiting-children": "zset",
}


class Ledger:
    """Who started and ended which job when, on a server that no test does harm to."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self._gate = f"{name}:gate"
        self._redis: Redis = Redis.from_url(url, decode_responses=True)

    def start(self, job_id: str, **more: object) -> None:
        """Note that a handler was called for the job."""
        self._note("starts", job_id, more)

    def end(self, job_id: str, **more: object) -> None:
        """Note that the handler came to its end."""
        self._note("ends", job_id, more)

    def starts(self, job_id: str | None = None) -> list[dict[str, Any]]:
        """Calls of handlers in order, all or those for one job."""
        return self._entries("starts", job_id)

    def ends(self, job_id: str | None = None) -> list[dict[str, Any]]:
        """Ends of handlers in order, all or those for one job."""
        return self._entries("ends", job_id)

    def open_gate(self) -> None:
        """Let the handlers go on that wait at the gate, now and later."""
        self._redis.rpush(self._gate, "open")

    def is_open(self) -> bool:
        """Whether the gate is open."""
        return bool(self._redis.exists(self._gate))

    def await_gate(self) -> None:
        """Block this thread until the gate is open."""
        while not self._redis.brpoplpush(self._gate, self._gate, timeout=1):
            pass

    def close(self) -> None:
        """Forget the connection."""
        self._redis.close()

    def _note(self, what: str, job_id: str, more: dict[str, object]) -> None:
        entry = {"id": job_id, "pid": os.getpid(), "at": time.time(), **more}
        self._redis.rpush(f"{self.name}:{what}", json.dumps(entry))

    def _entries(self, what: str, job_id: str | None) -> list[dict[str, Any]]:
        rows: Any = self._redis.lrange(f"{self.name}:{what}", 0, -1)
        entries = [json.loads(row) for row in rows]
        return [entry for entry in entries if job_id in (None, entry["id"])]


class _Server(Protocol):
    """A server, or an address that leads to one."""

    @property
    def url(self) -> str: ...

    @property
    def port(self) -> int: ...


class Bench:
    """One queue on one server, workers for it, and the account of its jobs."""

    def __init__(self, server: _Server, ledger: Ledger, queue: str, folder: Path) -> None:
        self._server = server
        self.ledger = ledger
        self.queue = queue
        # Any: redis-py's types leave open whether a client is asynchronous.
        self.redis: Any = Redis.from_url(
            server.url, decode_responses=True, protocol=2, socket_timeout=None
        )
        self._folder = folder
        self._workers = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self.redis.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def server(self) -> ServerProcess:
        """The test's own server, to be harmed."""
        assert isinstance(self._server, ServerProcess), "this server serves other tests too"
        return self._server

    @property
    def port(self) -> int:
        """The server's port."""
        return self._server.port

    # producing

    async def add(self, *jobs: Any, name: str = "work", **opts: Any) -> list[str]:
        """Add one job for each of ``jobs`` (its data), and return their ids in order."""
        from bullmq import Queue  # not at the top: workers under test start faster without

        queue = Queue(self.queue, {"connection": self._server.url})
        try:
            added = [await queue.add(name, data, opts) for data in jobs]
        finally:
            await queue.close()
        return [str(job.id) for job in added]

    def key(self, part: str) -> str:
        """A key of the queue, by its last part."""
        return f"bull:{self.queue}:{part}"

    # workers

    def settings(self, **overrides: Any) -> Settings:
        """Settings for this queue that wait long when idle, so that no sweep hides a fault."""
        defaults: dict[str, Any] = {
            "redis_url": self._server.url,
            "queues": (self.queue,),
            "concurrency": 4,
            "idle_min": 60.0,
            "idle_max": 60.0,
            "lock_duration": 1.0,
            "shutdown_grace": 1.0,
            "command_timeout": 1.0,
        }
        return Settings(**{**defaults, **overrides})

    @asynccontextmanager
    async def worker(self, handlers: HandlerRegistry, **overrides: Any) -> AsyncIterator[Worker]:
        """A worker in this process, stopped with no grace in the end."""
        worker = Worker(handlers, self.settings(**overrides))
        running = asyncio.create_task(worker.run(), name="worker under test")
        try:
            await wait_until(lambda: worker.stats().get("connected") or running.done())
            yield worker
        finally:
            async with asyncio.timeout(10):
                await worker.stop(0.0)
                await running

    def process(
        self,
        *,
        app: str = APP,
        log_level: str = "debug",
        held_port: int | None = None,
        **overrides: Any,
    ) -> LoggedProcess:
        """A worker in a process of its own, killed in the end.

        With ``held_port`` its wake server listens there, and it works only while a request is held.
        """
        self._workers += 1
        settings = self.settings(**overrides)
        environ = {
            LEDGER_URL: self.ledger.url,
            LEDGER_NAME: self.ledger.name,
            "REDIS_URL": settings.redis_url,
            "CONVOLAB_QUEUES": ",".join(settings.queues),
            "CONVOLAB_CONCURRENCY": str(settings.concurrency),
            "CONVOLAB_PARK_LIMIT": str(settings.park_limit),
            "CONVOLAB_IDLE_MIN": str(settings.idle_min),
            "CONVOLAB_IDLE_MAX": str(settings.idle_max),
            "CONVOLAB_LOCK_DURATION": str(settings.lock_duration),
            "CONVOLAB_MAX_STALLED_COUNT": str(settings.max_stalled_count),
            "CONVOLAB_SHUTDOWN_GRACE": str(settings.shutdown_grace),
            "CONVOLAB_COMMAND_TIMEOUT": str(settings.command_timeout),
            "LOG_LEVEL": log_level,
        }
        command = [*RUN, "--app", app]
        if held_port is not None:
            command += ["--wake", "--insecure"]
            environ |= {"PORT": str(held_port), "CONVOLAB_WAKE_MODE": "held"}
        log = self._folder / f"worker-{self._workers}.log"
        process = LoggedProcess(command, environ, log)
        self._stack.callback(process.kill)
        return process

    # the account

    def end_locks(self) -> None:
        """Have every lock run out now, as the locks of dead workers do in time."""
        for lock in self.redis.scan_iter(self.key("*:lock")):
            self.redis.delete(lock)

    def ids_in(self, state: str) -> list[str]:
        """The ids of the jobs in a state; of a list the head of the queue first."""
        key = self.key(state)
        if STATES[state] == "zset":
            ids: Any = self.redis.zrange(key, 0, -1)
        else:
            ids = self.redis.lrange(key, 0, -1)
            ids.reverse()
        return list(ids)

    def count(self, state: str) -> int:
        """How many jobs are in a state."""
        count = self.redis.zcard if STATES[state] == "zset" else self.redis.llen
        return int(count(self.key(state)))

    def states(self) -> dict[str, list[str]]:
        """The ids by state, without the states that are empty."""
        found = {state: self.ids_in(state) for state in STATES}
        return {state: ids for state, ids in found.items() if ids}

    def refusals(self) -> int:
        """How many commands the server has answered with an error."""
        stats: Any = self.redis.info("errorstats")
        counted = {name: entry["count"] for name, entry in stats.items() if "NOSCRIPT" not in name}
        return int(sum(counted.values()))

    def blocked(self) -> int:
        """How many clients of the server are blocked, waiting for work."""
        clients: Any = self.redis.info("clients")
        return int(clients["blocked_clients"])

    def field(self, job_id: str, name: str) -> str | None:
        """A field of the job's hash."""
        value: str | None = self.redis.hget(self.key(job_id), name)
        return value

    async def all_in(self, state: str, ids: Iterable[str], *, within: float = 10.0) -> None:
        """Wait until all those jobs are in the state, and nothing else is anywhere in between."""
        wanted = set(ids)

        def reached() -> bool:
            return wanted <= set(self.ids_in(state))

        try:
            await wait_until(reached, timeout=within)
        except AssertionError:
            msg = f"jobs {sorted(wanted)} are not all {state} after {within:g} s: {self.states()}"
            raise AssertionError(msg) from None

    async def settled(self, ids: Iterable[str], *, within: float = 10.0) -> None:
        """Wait until the jobs are completed, each by one end of its handler, and none is left."""
        wanted = list(ids)
        await self.all_in("completed", wanted, within=within)
        assert sorted(entry["id"] for entry in self.ledger.ends()) == sorted(wanted)
        assert self.states().keys() == {"completed"}

    async def started(self, *ids: str, times: int = 1, within: float = 10.0) -> None:
        """Wait until each of the jobs' handlers has been called that often."""
        await wait_until(
            lambda: all(len(self.ledger.starts(job_id)) >= times for job_id in ids),
            timeout=within,
            what=f"start {times} of jobs {ids}; {self.states()}",
        )


async def lasting(seconds: float) -> None:
    """Let that much time go by, where its length is what is tested: of an outage, of a job."""
    await asyncio.sleep(seconds)


async def eventually(
    condition: Callable[[], object], *, within: float = 10.0, what: str = "the condition"
) -> float:
    """Wait until the condition holds; how many seconds that took, the machine's pauses left out."""
    with Stopwatch() as watch:
        await wait_until(condition, timeout=within, what=what)
    return watch.seconds
