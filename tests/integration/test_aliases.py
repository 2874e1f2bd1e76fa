"""Models with Node's names, through a real server: what is written is what is read."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from convolab_worker import Child, HandlerRegistry, Job
from convolab_worker.errors import JobFailed
from convolab_worker.testing import RunningWorker, assert_enqueued, worker_fixture

pytestmark = pytest.mark.asyncio
handlers = HandlerRegistry()
worker = worker_fixture(handlers)


class CourseRequest(pydantic.BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    course_id: str
    part_count: int = 1


class AudioRequest(pydantic.BaseModel):
    text_to_say: str = Field(validation_alias="textToSay")


class Audio(pydantic.BaseModel):
    seconds_long: float = Field(alias="secondsLong")


@handlers.course("generate-course")
async def generate_course(job: Job[CourseRequest]) -> list[Audio]:
    """Ask for audio, and return what it came to."""
    done = await job.children_results()
    if not done:
        part = AudioRequest.model_validate({"textToSay": job.data.course_id})
        await job.enqueue_children([Child("generate-audio", part, key="a")])
    return [Audio.model_validate(audio) for audio in done.values()]


@handlers.audio("generate-audio")
async def generate_audio(job: Job[AudioRequest]) -> Audio:
    """As long as the text."""
    return Audio(secondsLong=len(job.data.text_to_say))


NODES: list[Any] = [{"courseId": "abc", "partCount": 1}, {"courseId": "abc", "added": "later"}]


@pytest.mark.parametrize("data", [CourseRequest(course_id="abc"), *NODES], ids=["ours", "n1", "n2"])
async def test_a_job_its_child_and_their_results(worker: RunningWorker, data: object) -> None:
    """Whether Python or Node has enqueued it."""
    result = await worker.run("generate-course", data)

    assert result == [{"secondsLong": 3.0}]
    assert_enqueued("generate-audio", data={"textToSay": "abc"})


async def test_many_jobs_are_written_as_one_is(worker: RunningWorker) -> None:
    """Under the names that Node sends."""
    model = CourseRequest(course_id="abc", part_count=2)

    await worker.client.enqueue_many([{"name": "generate-course", "data": model}] * 2)

    jobs = [job for job in worker.enqueued if job.name == "generate-course"]
    assert [job.data for job in jobs] == [{"courseId": "abc", "partCount": 2}] * 2


async def test_what_does_not_fit_is_told_by_the_name_that_was_sent(worker: RunningWorker) -> None:
    """Not by the one that Python has for it."""
    with pytest.raises(JobFailed, match="data.courseId: expected a valid string, got 3"):
        await worker.run("generate-course", json.loads('{"courseId": 3}'))
