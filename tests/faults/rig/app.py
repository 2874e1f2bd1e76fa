"""Handlers of the rig: work that takes the time it is told, each run noted in the ledger."""

from __future__ import annotations

import os
from typing import Any

from convolab_worker import HandlerRegistry, Job
from tests.faults.harness import LEDGER_NAME, LEDGER_URL, Ledger, lasting

handlers = HandlerRegistry()
ledger = Ledger(os.environ[LEDGER_URL], os.environ[LEDGER_NAME])


@handlers.audio("work")
async def work(job: Job[Any]) -> str:
    """Take a while, and fail the first attempts if told to."""
    ledger.start(job.id, attempt=job.attempt)
    await lasting(job.data["seconds"])
    if job.attempt <= job.data.get("failures", 0):
        msg = f"attempt {job.attempt} fails, as it was told to"
        raise ValueError(msg)
    ledger.end(job.id)
    return job.id
