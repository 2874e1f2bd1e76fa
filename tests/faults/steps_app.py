"""A handler of four steps that would be paid for, for workers that are killed.

Each call notes its start and its end in the ledger, and whether it had been recorded before.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

from redis import Redis

from convolab_worker import HandlerRegistry, Job
from tests.faults.harness import LEDGER_NAME, LEDGER_URL, Ledger

STEPS = ("text", "voice", "picture", "mix")

handlers = HandlerRegistry()
_ledger = Ledger(os.environ[LEDGER_URL], os.environ[LEDGER_NAME])
_redis: Any = Redis.from_url(os.environ["REDIS_URL"])


@handlers.course("work")
async def work(job: Job[float]) -> dict[str, str]:
    """Make the four calls, each of about so many seconds."""
    results = {}
    for name in STEPS:
        key = job.step_key(name)
        results[name] = await job.step(name, pay, f"bull:{job.queue}:{job.id}", name, key, job.data)
    return results


async def pay(job_key: str, name: str, key: str, seconds: float) -> str:
    """Make a call that costs money."""
    recorded = bool(_redis.hexists(job_key, f"step:{name}"))
    _ledger.start(job_key, step=name, key=key, recorded=recorded)
    await asyncio.sleep(seconds * 2 * random.random())
    _ledger.end(job_key, step=name)
    return f"{name} by {os.getpid()}"
