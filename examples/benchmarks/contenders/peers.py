"""Other Python queues, each with a handler that does nothing: one process adds, then works.

    python -m examples.benchmarks.contenders.peers PEER URL CONCURRENCY JOBS

The time is from the first handler to the last. A peer that is not installed says so.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import resource
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from tempfile import TemporaryFile

from examples.benchmarks.contenders.harness import emit

_AT_ONCE = 50


class Tally:
    """Called by every handler: notes the first, and ends the process at the last."""

    def __init__(self, jobs: int, package: str) -> None:
        self._left = self._jobs = jobs
        self._package = package
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Count one call, from any thread."""
        with self._lock:
            if self._left == self._jobs:
                self._began, self._cpu = time.perf_counter(), _cpu_seconds()
            self._left -= 1
            if self._left:
                return
            rate = (self._jobs - 1) / (time.perf_counter() - self._began)
            cpu = (_cpu_seconds() - self._cpu) / self._jobs * 10_000
            emit("done", rate=rate, cpu=cpu, version=version(self._package))
            os._exit(0)  # some of them take seconds to end


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _add(jobs: int, add: Callable[[], Awaitable[object]]) -> None:
    for _ in range(0, jobs, _AT_ONCE):
        await asyncio.gather(*[add() for _ in range(_AT_ONCE)])


async def ours(url: str, concurrency: int, jobs: int) -> None:
    """Run this worker."""
    from convolab_worker import HandlerRegistry, Job, JobClient, Worker
    from convolab_worker.telemetry.logging import configure_logging

    tally, handlers = Tally(jobs, "convolab-worker"), HandlerRegistry()
    configure_logging("info", "json", TemporaryFile("w", encoding="utf-8"))  # noqa: SIM115

    @handlers.audio("noop")
    async def noop(_job: Job[object]) -> None:
        tally()

    async with JobClient(redis_url=url) as client:
        await client.enqueue_many([{"name": "noop"}] * jobs)
    await Worker(handlers, redis_url=url, concurrency=concurrency).run()


async def arq(url: str, concurrency: int, jobs: int) -> None:
    """Run arq."""
    from arq.connections import RedisSettings, create_pool
    from arq.worker import Worker, func

    tally, settings = Tally(jobs, "arq"), RedisSettings.from_dsn(url)

    async def noop(_context: object) -> None:
        tally()

    pool = await create_pool(settings)
    await _add(jobs, lambda: pool.enqueue_job("noop"))
    functions = [func(noop, name="noop")]
    worker = Worker(functions, redis_settings=settings, max_jobs=concurrency, handle_signals=False)
    await worker.async_run()


async def saq(url: str, concurrency: int, jobs: int) -> None:
    """Run SAQ."""
    from saq import Queue, Worker

    tally, queue = Tally(jobs, "saq"), Queue.from_url(url)

    async def noop(_context: object) -> None:
        tally()

    await queue.connect()
    await _add(jobs, lambda: queue.enqueue("noop"))
    await Worker(queue, functions=[("noop", noop)], concurrency=concurrency).start()


async def taskiq(url: str, concurrency: int, jobs: int) -> None:
    """Run taskiq on Redis streams."""
    from taskiq.api import run_receiver_task
    from taskiq_redis import RedisStreamBroker

    tally, broker = Tally(jobs, "taskiq"), RedisStreamBroker(url)

    async def noop() -> None:
        tally()

    task = broker.task(task_name="noop")(noop)
    await broker.startup()
    await _add(jobs, task.kiq)
    await run_receiver_task(broker, max_async_tasks=concurrency)


async def streaq(url: str, concurrency: int, jobs: int) -> None:
    """Run streaQ."""
    from streaq import Worker

    tally = Tally(jobs, "streaq")
    worker = Worker(redis_url=url, concurrency=concurrency)

    async def noop() -> None:
        tally()

    task = worker.task()(noop)
    async with worker:
        await worker.enqueue_many([task.enqueue() for _ in range(jobs)])
    await worker.run_async()


def celery(url: str, concurrency: int, jobs: int) -> None:
    """Run Celery with threads."""
    from celery import Celery

    tally, app = Tally(jobs, "celery"), Celery("peers", broker=url, backend=url)

    app.conf.worker_redirect_stdouts = False

    def noop() -> None:
        tally()

    task = app.task(name="noop")(noop)
    for _ in range(jobs):
        task.delay()
    flags = ["--pool", "threads", "--concurrency", str(concurrency), "--loglevel", "ERROR"]
    app.worker_main(["worker", *flags])


PEERS: dict[str, Callable[[str, int, int], Awaitable[None] | None]] = {
    "ours": ours, "taskiq": taskiq, "saq": saq, "streaq": streaq, "arq": arq, "celery": celery,
}  # fmt: skip


def main() -> None:
    """Run the peer that is named."""
    name, url, concurrency, jobs = sys.argv[1:]
    emit("ready")
    try:
        running = PEERS[name](url, int(concurrency), int(jobs))
        if inspect.iscoroutine(running):
            asyncio.run(running)
    except ModuleNotFoundError as error:
        emit("missing", what=error.name)


if __name__ == "__main__":
    main()
