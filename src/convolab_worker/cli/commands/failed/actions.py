"""What ``failed`` does in Redis: reads failed jobs, retries them and removes them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from convolab_worker.bullmq.protocol.keys import QueueKeys
from convolab_worker.cli.output import Bar
from convolab_worker.cli.process import connected
from convolab_worker.client import jobs as failed_jobs
from convolab_worker.client.client import JobClient
from convolab_worker.client.jobs import BATCH, DONE, Failure, Wanted, remove_call
from convolab_worker.connection.usage import Purpose
from convolab_worker.errors import JobNotFound

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Coroutine

    from convolab_worker.bullmq.protocol.calls import Call
    from convolab_worker.settings import Settings

    Action = Callable[[QueueKeys, Failure], Call]

__all__ = ["DONE", "carry_out", "find", "newest", "remove_call", "retry_call"]


def retry_call(reset_attempts: bool) -> Action:  # noqa: FBT001 - the flag's value
    """Return what retries a job, with or without all of its attempts."""
    return partial(failed_jobs.retry_call, reset_attempts=reset_attempts)


async def newest(settings: Settings, wanted: Wanted, limit: int) -> list[Failure]:
    """Return the newest failed jobs of all queues that fit, at most ``limit``."""
    found: list[Failure] = []
    async with connected(settings) as connection:
        for queue in settings.queues:
            keys, count = QueueKeys(settings.prefix, queue), 0
            async for failure in failed_jobs.failures(
                connection, keys, wanted, time.time(), newest_first=True
            ):
                found.append(failure)
                count += 1
                if count >= limit:
                    break
    return sorted(found, key=lambda failure: -failure.failed_at)[:limit]


async def find(settings: Settings, job_id: str) -> dict[str, Any]:
    """Return a failed job with its stack traces and logs. Raises JobNotFound."""
    async with JobClient(settings) as client:
        status = await client.status(job_id)
    if status.state != "failed":
        msg = f"job {job_id!r} on {status.queue} is {status.state}, not failed"
        raise JobNotFound(msg)
    async with connected(settings) as connection:
        keys = QueueKeys(settings.prefix, status.queue)
        stack = await connection.call(Purpose.STATUS, "HGET", keys.job(job_id), "stacktrace")
        logs = await connection.call(Purpose.STATUS, "LRANGE", f"{keys.job(job_id)}:logs", 0, -1)
    return {
        **asdict(status),
        "stacktrace": (stack or b"[]").decode("utf-8", "replace"),
        "logs": [row.decode("utf-8", "replace") for row in logs],
    }


async def carry_out(
    settings: Settings, wanted: Wanted, call: Action, outcomes: Counter[str], *, dry_run: bool
) -> None:
    """Retry or remove the jobs that fit, and count what became of them in ``outcomes``.

    The oldest failure goes first, so that the jobs keep their order. Jobs that fail meanwhile
    are left alone.
    """
    missing = {*wanted.ids}
    async with connected(settings) as connection:
        for queue in settings.queues:
            keys = QueueKeys(settings.prefix, queue)
            meant = [
                failure
                async for failure in failed_jobs.failures(
                    connection, keys, wanted, time.time(), newest_first=False
                )
            ]
            missing -= {failure.id for failure in meant}
            with Bar(queue, len(meant)) as bar:
                for start in range(0, len(meant), BATCH):
                    batch = meant[start : start + BATCH]
                    if dry_run:
                        outcomes[DONE] += len(batch)
                    else:
                        calls = [call(keys, failure) for failure in batch]
                        await _count(failed_jobs.carry_out(connection, calls), outcomes)
                    bar.step(len(batch))
    if missing:
        outcomes["no failed job has the id " + ", ".join(sorted(missing))] += len(missing)


async def _count(batch: Coroutine[Any, Any, list[str]], outcomes: Counter[str]) -> None:
    """Count what became of a batch. After Ctrl-C the batch that was sent is still awaited."""
    sent = asyncio.create_task(batch)
    try:
        await asyncio.shield(sent)
    finally:
        outcomes.update(await sent)
