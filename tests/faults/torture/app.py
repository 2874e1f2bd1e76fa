"""Handlers of the torture run: short work of every kind, each run noted in the diary."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import threading
from typing import Any

from convolab_worker import Child, HandlerRegistry, Job
from convolab_worker.errors import UnrecoverableError
from tests.faults.harness import LEDGER_NAME, LEDGER_URL, lasting
from tests.faults.torture.diary import Diary

# The server closes a connection on which more than half of it comes at once.
OVERSIZED = 2**21
_FORK = multiprocessing.get_context("fork")

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


@handlers.image("fork", concurrency=2)
async def fork(job: Job[Any]) -> str:
    """Fork a child that lives on, and end it as multiprocessing does."""
    with diary.run(job):
        child = _FORK.Process(target=threading.Event().wait, args=[300.0], daemon=True)
        child.start()
        child.terminate()
        await asyncio.to_thread(child.join)
        if child.exitcode != -signal.SIGTERM:
            msg = f"the child ended with {child.exitcode}"
            raise UnrecoverableError(msg)
        return job.id


@handlers.image("program", concurrency=2)
async def program(job: Job[Any]) -> str:
    """Run a program in the worker's process group, which a signal to the group ends."""
    with diary.run(job):
        running = await asyncio.create_subprocess_exec("sleep", str(job.data["seconds"]))
        try:
            code = await running.wait()
        finally:
            if running.returncode is None:
                running.kill()
        if code:
            raise subprocess.CalledProcessError(code, "sleep")
        return job.id


@handlers.image("oversized")
async def oversized(job: Job[Any]) -> str:
    """Return more than the server takes in a command."""
    with diary.run(job):
        return "x" * OVERSIZED


@handlers.course("course")
async def course(job: Job[Any]) -> str:
    """Two parts, then itself."""
    with diary.run(job):
        done = await job.children_results()
        missing = [key for key in ("first", "second") if key not in done]
        if missing:
            data = {"seconds": job.data["seconds"]}
            await job.enqueue_children([Child("part", data=data, key=key) for key in missing])
        # A part's id is its parent's and its key, and tells the parent's lives apart.
        told = {key: str(part).partition("~")[0] for key, part in done.items()}
        if told != {key: f"{job.id}.{key}" for key in ("first", "second")}:
            msg = f"the parts gave {done}"
            raise UnrecoverableError(msg)
        return job.id
