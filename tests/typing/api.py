"""What type checkers, and so editors, know of the public API. Checked by two, and never run.

A line with an `ignore` must be an error: both checkers complain of one that is not needed.
"""

from __future__ import annotations

from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from subprocess import Popen
from typing import Any, TypedDict, assert_type

from convolab_worker import (
    CallNext,
    Child,
    Deduplication,
    DrainResult,
    Exponential,
    Fixed,
    HandlerRegistry,
    Job,
    JobClient,
    JobId,
    JobOptions,
    JobStatus,
    Renewal,
    Schedule,
    Settings,
    Worker,
)
from convolab_worker.testing import EnqueuedJob, HandlerRun, RunningWorker, run_handler

handlers = HandlerRegistry()


@dataclass
class AudioRequest:
    text: str
    speed: float = 1.0


class AudioResult(TypedDict):
    seconds: float


@dataclass
class Resources:
    voices: list[str]


# resources


@handlers.lifespan
async def resources() -> AsyncIterator[Resources]:
    yield Resources([])


with_settings = HandlerRegistry()


@with_settings.lifespan
@asynccontextmanager
async def settings_too(settings: Settings) -> AsyncIterator[int]:
    assert_type(settings.concurrency, int)
    yield 1


assert_type(resources(), AsyncIterator[Resources])

HandlerRegistry().lifespan(lambda: 5)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


# handlers


@handlers.audio("generate-audio", timeout=300, concurrency=2, rate="30/m")
async def generate_audio(job: Job[AudioRequest, Resources]) -> AudioResult:
    assert_type(job.data, AudioRequest)
    assert_type(job.data.text, str)
    assert_type(job.resources, Resources)
    assert_type(job.attempt, int)
    assert_type(await job.progress(10), None)
    assert_type(await job.children_results(), dict[str, Any])
    job.data.txt  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    job.resources.voice  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    return {"seconds": 1.0}


@handlers.image("render", thread=True)
def render(job: Job[dict[str, int]]) -> int:
    assert_type(job.data, dict[str, int])
    assert_type(job.resources, Any)
    return job.data["lines"]


@handlers.image("frames", process=Renewal(jobs=100, memory_mb=800), concurrency=2)
def frames(job: Job[dict[str, int]]) -> int:
    with job.subprocess("sort", text=True) as program:
        assert_type(program, Popen[Any])
    return job.data["frames"]


@handlers.audio("encode")
async def encode(job: Job[dict[str, str]]) -> int | None:
    async with job.subprocess("ffmpeg", "-i", job.data["source"]) as program:
        assert_type(program, Process)
        await program.wait()
    return program.returncode


@handlers.course("course")
async def course(job: Job[Any]) -> None:
    Child("x", on_failure="explode")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await job.enqueue_children([Child("generate-audio", data={"text": ""}, on_failure="ignore")])


# What follows enqueue_children is never reached: the branch that asks needs no return of its own.
@handlers.course("stages")
async def stages(job: Job[Any]) -> AudioResult:
    done: AudioResult | None = (await job.children_results()).get("generate-audio")
    if done is None:
        await job.enqueue_children([Child("generate-audio")])
    return assert_type(done, AudioResult)


# A decorator gives the function that it was given: its arguments and its result are known.
async def called(audio: Job[AudioRequest, Resources], image: Job[dict[str, int]]) -> None:
    assert_type(await generate_audio(audio), AudioResult)
    assert_type(render(image), int)
    render(audio)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    render()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@handlers.audio("two")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def two_arguments(job: Job[Any], more: int) -> None: ...


@handlers.audio("other")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
async def no_job(job: int) -> None: ...


@handlers.audio("retried", attempts=5, backoff=Exponential(2, longest=60), keep_completed="1000/1d")
async def retried(job: Job[Any]) -> None: ...


handlers.audio("x", backoff=5, keep_failed=10)
handlers.audio("x", backoff=[5])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
handlers.audio("x", timout=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
handlers.audio("x", timeout="3")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


# middleware


@handlers.middleware
async def traced(job: Job[Any], call_next: CallNext) -> Any:
    return await call_next(job)


@handlers.middleware(kind="audio")
async def counted(job: Job[Any], call_next: CallNext) -> int:
    await call_next(job)
    return 1


@handlers.middleware  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def not_async(job: Job[Any], call_next: CallNext) -> int:
    return 1


# hooks


@handlers.on_next_due
async def call_again(at: float) -> None:
    assert_type(at, float)


@handlers.on_next_due
def note(at: float) -> None:
    assert_type(at, float)


@handlers.on_next_due  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
def wants_text(at: str) -> None:
    return None


# workers, clients, tests


async def use(job: Job[Any], call_next: CallNext) -> None:
    assert_type(await counted(job, call_next), int)
    worker = Worker(handlers, Settings(concurrency=2))
    assert_type(await worker.drain(budget=5), DrainResult)
    assert_type(worker.stats(), dict[str, Any])
    async with JobClient() as client, worker as running:
        assert_type(running, Worker)
        assert_type(await client.enqueue("x", {"a": 1}, delay=3), JobId)
        assert_type(await client.status("1"), JobStatus)
        options: JobOptions = {"lifo": True, "deduplication": Deduplication("x", ttl=5)}
        await client.enqueue("x", **options)
        await client.enqueue("x", backoff=Fixed(5), keep_failed="none")
        assert_type(await client.schedule("x", "x", {"a": 1}, every=60, attempts=2), JobId)
        assert_type(await client.schedules(), list[Schedule])
        assert_type(await client.unschedule("x"), bool)
        await client.schedule("x", "x", every=3, delay=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
        await client.enqueue("x", dealy=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def test_it(worker: RunningWorker) -> None:
    run = await run_handler(handlers, "generate-audio", AudioRequest("a"), attempt=2)
    assert_type(run, HandlerRun)
    assert_type(run.children, tuple[Child, ...])
    assert_type(run.retry_in, float | None)
    assert_type(worker.assert_enqueued("x"), EnqueuedJob)
    assert_type(worker.enqueued, list[EnqueuedJob])
