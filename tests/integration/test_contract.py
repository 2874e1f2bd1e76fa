"""Jobs that are added by their declaration or handler: checked first, and their results typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis

from convolab_worker import Child, HandlerRegistry, Job, JobClient, JobType, Worker
from convolab_worker.connection.commands.usage import Purpose
from convolab_worker.errors import InvalidPayload, InvalidResult
from convolab_worker.testing import RunningWorker, worker_fixture
from examples.convolab.api import create_app
from examples.convolab.jobs import GENERATE_COURSE
from examples.convolab.payloads import COURSE, CourseRequest, CourseResult

pytestmark = pytest.mark.asyncio
handlers = HandlerRegistry()
worker = worker_fixture(handlers)


@dataclass
class AudioRequest:
    text: str


@dataclass
class AudioResult:
    seconds: float


GENERATE_AUDIO = JobType("generate-audio", AudioRequest, AudioResult, attempts=3, backoff=2)


@handlers.audio(GENERATE_AUDIO)
async def generate_audio(job: Job[AudioRequest]) -> AudioResult:
    """As long as the text."""
    return AudioResult(len(job.data.text))


@handlers.audio("list-audio")
async def list_audio(job: Job[list[AudioRequest]]) -> list[AudioResult]:
    """Each as long as its text."""
    return [AudioResult(len(request.text)) for request in job.data]


@handlers.course("course")
async def course(job: Job[AudioRequest]) -> dict[str, Any]:
    """Two parts."""
    done = await job.children_results()
    if not done:
        await job.enqueue_children(
            [
                Child(GENERATE_AUDIO, job.data, key="one"),
                Child(list_audio, [job.data], key="list"),
            ]
        )
    return done


@handlers.audio("lies")
async def lies(job: Job[None]) -> AudioResult:  # noqa: ARG001
    """Return what its annotation does not say."""
    return {"second": 1}  # type: ignore[return-value]


async def test_a_declared_job_is_run_and_its_result_read(worker: RunningWorker) -> None:
    """As the type that was declared; the id may have been text in between."""
    job_id = await worker.client.enqueue(GENERATE_AUDIO, AudioRequest("hello"))
    again = GENERATE_AUDIO.job_id(str(job_id))

    assert await worker.client.result(job_id, timeout=10) == AudioResult(5.0)
    assert await worker.client.result(again, timeout=10) == AudioResult(5.0)
    assert await worker.client.result(str(job_id), timeout=10) == {"seconds": 5.0}


async def test_a_job_gets_the_options_of_its_declaration(
    client: JobClient, redis: Redis, queue_name: str
) -> None:
    """Written as Node reads them; those of the call come first."""
    many = await client.enqueue_many(GENERATE_AUDIO, [AudioRequest("a")], attempts=1, priority=3)
    one = await client.enqueue(GENERATE_AUDIO, AudioRequest("a"))

    backoff = {"type": "fixed", "delay": 2000}
    found = [await redis.hget(f"bull:{queue_name}:{each}", "opts") for each in (*many, one)]
    assert [json.loads(opts or "") for opts in found] == [
        {"attempts": 1, "backoff": backoff, "priority": 3},
        {"attempts": 3, "backoff": backoff},
    ]


async def test_a_handler_is_enqueued_as_itself(worker: RunningWorker) -> None:
    """Its return annotation says what the result is; many too."""
    job_id = await worker.client.enqueue(list_audio, [AudioRequest("a"), AudioRequest("ab")])
    many = await worker.client.enqueue_many(
        generate_audio, [AudioRequest("abc"), AudioRequest("abcd")]
    )

    assert await worker.client.result(job_id, timeout=10) == [AudioResult(1.0), AudioResult(2.0)]
    results = [await worker.client.result(each, timeout=10) for each in many]
    assert results == [AudioResult(3.0), AudioResult(4.0)]


async def test_children_by_declaration_and_by_handler(worker: RunningWorker) -> None:
    result = await worker.run(course, AudioRequest("ab"))

    assert result == {"one": {"seconds": 2.0}, "list": [{"seconds": 2.0}]}


async def test_an_id_knows_its_queue(worker: RunningWorker) -> None:
    """A client of other queues finds the job all the same."""
    declared = JobType("elsewhere", AudioRequest, queue="elsewhere")

    job_id = await worker.client.enqueue(declared, AudioRequest("a"))

    assert (await worker.client.status(job_id)).queue == "elsewhere"
    assert (await worker.client.status(declared.job_id(str(job_id)))).state == "waiting"


async def test_nothing_is_sent_of_data_that_does_not_fit(worker: RunningWorker) -> None:
    """Of many, not even those that do."""
    wrong: Any = {"txt": "a"}

    with pytest.raises(InvalidPayload, match="data.text: required field is missing"):
        await worker.client.enqueue(generate_audio, wrong)
    with pytest.raises(InvalidPayload, match="job 1: generate-audio: data.text: required field"):
        await worker.client.enqueue_many(GENERATE_AUDIO, [AudioRequest("a"), wrong])
    with pytest.raises(InvalidPayload, match="job 0: generate-audio: data.text: required field"):
        await worker.client.enqueue_many([{"name": GENERATE_AUDIO, "data": wrong}])
    assert worker.client.counter.sent[Purpose.ENQUEUE] == 0


async def test_a_result_that_does_not_fit_is_an_error(worker: RunningWorker) -> None:
    """It is not handed over as what it is not."""
    job_id = await worker.client.enqueue(lies, None)

    with pytest.raises(InvalidResult, match="result.seconds: required field is missing"):
        await worker.client.result(job_id, timeout=10)


async def test_an_api_adds_and_reads_jobs_by_their_declarations(
    running: Callable[..., AbstractAsyncContextManager[tuple[Worker, JobClient]]],
    queue_name: str,
) -> None:
    """That of the example: it refuses what the handler would, and reads results as they were."""
    courses = HandlerRegistry()

    @courses.course(GENERATE_COURSE)
    async def generate_course(job: Job[CourseRequest]) -> CourseResult:
        file, made = job.data.courseId, {"page": "c/index.html", "pictures": [], "seconds": 2}
        texts = dict.fromkeys(("courseId", "title", "lesson", "dialogue", "course"), file)
        return cast("CourseResult", {**texts, **made})

    async with (
        running(courses, prefix=queue_name, queues=(COURSE,)) as (_, client),
        TestClient(TestServer(create_app(client.settings))) as api,
    ):
        added = await api.post("/courses", json={"courseId": "c", "speed": 0.5})
        made = await api.get(f"/courses/{(await added.json())['jobId']}")
        refused = await api.post("/courses", json={"courseId": "c", "speed": 9})
        unknown = await api.get("/courses/nothing")

        assert added.status == 202
        assert await made.json() == {"page": "c/index.html", "seconds": 2.0}
        assert (refused.status, unknown.status) == (422, 404)
        assert "data.speed: expected float <= 2.0, got 9" in (await refused.json())["error"]
