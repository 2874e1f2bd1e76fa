"""What type checkers know of JobType, JobId and enqueueing by either. Checked by two, never run.

A line with an `ignore` must be an error: both checkers complain of one that is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from convolab_worker import Child, HandlerRegistry, Job, JobClient, JobId, JobType, SyncJob
from convolab_worker.testing import RunningWorker

handlers = HandlerRegistry()


@dataclass
class AudioRequest:
    text: str


@dataclass
class AudioResult:
    seconds: float


class Line(TypedDict):
    speaker: str


# a declaration


GENERATE_AUDIO = JobType("generate-audio", AudioRequest, AudioResult, queue="audio", attempts=5)
READ = JobType("read", list[Line], None)
UNION: JobType[int | str, int | None] = JobType("union", int | str, int | None)

assert_type(GENERATE_AUDIO, JobType[AudioRequest, AudioResult])
assert_type(READ, JobType[list[Line], None])
assert_type(JobType("no-result", AudioRequest), JobType[AudioRequest, Any])
assert_type(JobType("anything"), JobType[Any, Any])
assert_type(GENERATE_AUDIO.job_id("1"), JobId[AudioResult])

JobType(7, AudioRequest)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
JobType("x", AudioRequest, attemps=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
JobType("x", AudioRequest, attempts="5")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


# its handler


@handlers.audio(GENERATE_AUDIO, "its-former-name", timeout=300)
async def generate_audio(job: Job[AudioRequest, list[str]]) -> AudioResult:
    assert_type(job.resources, list[str])
    return AudioResult(1.0)


@handlers.audio(GENERATE_AUDIO)
def in_a_thread(job: Job[AudioRequest]) -> AudioResult:
    return AudioResult(1.0)


@handlers.audio(READ)
async def untyped(job: Job[Any]) -> None: ...


@handlers.audio(GENERATE_AUDIO)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
async def another_payload(job: Job[AudioResult]) -> AudioResult:
    return AudioResult(1.0)


@handlers.audio(GENERATE_AUDIO)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
async def another_result(job: Job[AudioRequest]) -> AudioRequest:
    return job.data


@handlers.audio(GENERATE_AUDIO)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
def another_result_in_a_thread(job: Job[AudioRequest]) -> str:
    return ""


# enqueueing


@handlers.image("render")
def render(job: Job[dict[str, int]]) -> int:
    return job.data["lines"]


@handlers.image("draw")
async def draw(job: Job[Line]) -> list[str]:
    return [job.data["speaker"]]


@handlers.image("paint")
def paint(job: SyncJob[AudioRequest]) -> AudioResult:
    return AudioResult(1.0)


async def use(client: JobClient) -> None:
    by_type = await client.enqueue(GENERATE_AUDIO, AudioRequest("a"), delay=3)
    assert_type(by_type, JobId[AudioResult])
    assert_type(await client.result(by_type), AudioResult)
    assert_type(await client.result(by_type, 5), AudioResult)
    assert_type(await client.enqueue(generate_audio, AudioRequest("a")), JobId[AudioResult])
    assert_type(await client.enqueue(in_a_thread, AudioRequest("a")), JobId[AudioResult])
    assert_type(await client.enqueue(render, {"lines": 3}), JobId[int])
    assert_type(await client.enqueue(paint, AudioRequest("a")), JobId[AudioResult])
    assert_type(await client.enqueue(draw, Line(speaker="a")), JobId[list[str]])
    assert_type(await client.enqueue(READ, [Line(speaker="a")]), JobId[None])
    assert_type(await client.enqueue(UNION, 3), JobId[int | None])
    assert_type(await client.enqueue("by-name", {"any": 1}), JobId)
    assert_type(await client.result("text"), Any)
    assert_type(await client.result("text", queue="audio"), Any)
    text: str = by_type
    assert_type(by_type.existed, bool)

    many = await client.enqueue_many(GENERATE_AUDIO, [AudioRequest(text)], priority=1)
    assert_type(many, list[JobId[AudioResult]])
    assert_type(await client.enqueue_many(draw, [Line(speaker="a")]), list[JobId[list[str]]])
    assert_type(await client.enqueue_many([{"name": GENERATE_AUDIO}]), list[JobId])


async def test_it(worker: RunningWorker) -> None:
    assert_type(await worker.run(GENERATE_AUDIO, AudioRequest("a")), AudioResult)
    assert_type(await worker.run(render, {"lines": 3}), int)
    assert_type(await worker.run("by-name", {"any": 1}), Any)
    await worker.run(GENERATE_AUDIO, "a")  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def misuse(client: JobClient, job: Job[Any]) -> None:
    await client.enqueue(GENERATE_AUDIO, {"text": "a"})  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.enqueue(GENERATE_AUDIO)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.enqueue(generate_audio, AudioResult(1.0))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.enqueue(render, {"lines": "3"})  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.enqueue(draw, {"speker": "a"})  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.enqueue(GENERATE_AUDIO, AudioRequest("a"), dealy=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await client.enqueue_many(GENERATE_AUDIO, ["a"])  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    Child(GENERATE_AUDIO, AudioResult(1.0))  # type: ignore[misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    Child(draw, AudioRequest("a"))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    Child(GENERATE_AUDIO)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await job.enqueue_children(
        [Child(paint, AudioRequest("a"), key="a"), Child(draw, Line(speaker="b"))]
    )
