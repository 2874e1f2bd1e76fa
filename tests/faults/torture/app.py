"""Handlers of the torture run: short work of every kind, each run noted in the diary."""

from __future__ import annotations

import os
import threading
from typing import Any

from convolab_worker import Child, HandlerRegistry, Job
from convolab_worker.errors import UnrecoverableError
from tests.faults.harness import LEDGER_NAME, LEDGER_URL, lasting
from tests.faults.torture.diary import Diary

handlers = HandlerRegistry()
diary = Diary(os.environ[LEDGER_URL], os.environ[LEDGER_NAME])


@handlers.audio("work", "part")
async def work(job: Job[Any]) -> str:
    """Take a while, and fail the first attempts if told to."""
    with diary.run(job):
        await lasting(job.data["seconds"])
        if job.attempt <= job.data.get("failures", 0):
            msg = f"attempt {job.attempt} fails, as it was told to"
            raise ValueError(msg)
        return job.id


@handlers.image("narrow", concurrency=2)
async def narrow(job: Job[Any]) -> str:
    """Few at a time, so that others are parked."""
    return await work(job)


@handlers.dialogue("thread")
def thread(job: Job[Any]) -> str:
    """In a thread of its own."""
    with diary.run(job):
        threading.Event().wait(job.data["seconds"])
        return job.id


@handlers.course("course")
async def course(job: Job[Any]) -> str:
    """Two parts, then itself."""
    with diary.run(job):
        done = await job.children_results()
        missing = [key for key in ("first", "second") if key not in done]
        if missing:
            data = {"seconds": job.data["seconds"]}
            await job.enqueue_children([Child("part", data=data, key=key) for key in missing])
        if done != {key: f"{job.id}.{key}" for key in ("first", "second")}:
            msg = f"the parts gave {done}"
            raise UnrecoverableError(msg)
        return job.id
