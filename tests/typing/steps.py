"""What type checkers know of steps, and of jobs in handlers that run in a thread. Never run.

A line with an `ignore` must be an error: both checkers complain of one that is not needed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, assert_type

from convolab_worker import Child, Exponential, HandlerRegistry, Job, JobType, SyncJob

handlers = HandlerRegistry()


@dataclass
class Request:
    text: str


@dataclass
class Speech:
    url: str


RENDER = JobType("render", Request, Speech)


async def speak(text: str, *, speed: float = 1.0) -> Speech:
    return Speech(f"{text}{speed}")


def draw(text: str) -> int:
    return len(text)


@handlers.job("make", kind="video")
async def make(job: Job[Request]) -> Speech:
    assert_type(await job.step("speech", speak, job.data.text), Speech)
    assert_type(await job.step("speech", speak, job.data.text, speed=2), Speech)
    assert_type(await job.step("picture", draw, job.data.text), int)
    assert_type(await job.step("speech", speak, "a", attempts=3, backoff=Exponential(2)), Speech)
    assert_type(await job.step("speech", speak, "a", attempts=3, timeout=5), Speech)
    assert_type(await job.step("picture", draw, "a", timeout=5), int)
    await job.step("speech", speak)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await job.step("speech", speak, 7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType,reportCallIssue]
    both = await asyncio.gather(job.step("a", speak, "a"), job.step("b", speak, "b"))
    assert_type(both, tuple[Speech, Speech])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(job.step("task", speak, "a"))
    assert_type(task.result(), Speech)
    assert_type(job.step_key("speech"), str)
    assert_type(job.starts, int)
    await job.update_data(Request("b"))
    await job.update_data("b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return task.result()


@handlers.job("in-a-thread", kind="video")
def in_a_thread(job: SyncJob[Request]) -> Speech:
    job.progress(50)
    job.update_data(Request("b"))
    assert_type(job.step("picture", draw, job.data.text), int)
    results = job.children_results()
    assert_type(results, dict[str, Any])
    if not results:
        job.enqueue_children([Child("part")])
    return assert_type(job.step("speech", speak, job.data.text, timeout=5), Speech)


@handlers.job(RENDER, kind="video")
def declared(job: SyncJob[Request]) -> Speech:
    return job.step("speech", speak, job.data.text)


@handlers.job(RENDER, kind="video")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
def misdeclared(job: SyncJob[Request]) -> int:
    return job.step("picture", draw, job.data.text)
