"""Models with Node's names in both directions: Node to a handler and back, and the reverse."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
import pytest_asyncio
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel
from redis.asyncio import Redis

from convolab_worker import HandlerRegistry, JobClient, JobType, Settings, Worker
from tests.interop.session import NodeSession

pytestmark = pytest.mark.asyncio
SCENARIO = "an open queue"


class Struct(msgspec.Struct, rename="camel"):
    course_id: str
    parts: list[Part]


class Part(msgspec.Struct, rename={"page_count": "pageCount"}):
    page_count: int


class Model(pydantic.BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    course_id: str
    parts: list[ModelPart]


class ModelPart(pydantic.BaseModel):
    page_count: int = Field(alias="pageCount")


class TwoNames(pydantic.BaseModel):
    course_id: str = Field(validation_alias="courseId", serialization_alias="theCourse")
    parts: list[TwoNamesPart]


class TwoNamesPart(pydantic.BaseModel):
    page_count: int = Field(validation_alias="pageCount", serialization_alias="pages")


@pydantic.dataclasses.dataclass(config=ConfigDict(alias_generator=to_camel))
class PydanticDataclass:
    course_id: str
    parts: list[ModelPart]


@dataclass
class Plain:
    courseId: str  # noqa: N815 - dataclasses know no other names
    parts: list[PlainPart]


class PlainPart(TypedDict):
    pageCount: int


class MixedRoot(pydantic.RootModel[list[Model]]):
    """A list of models, as a payload of its own."""


READ = {"courseId": "abc", "parts": [{"pageCount": 3}]}
WRITTEN = {"theCourse": "abc", "parts": [{"pages": 3}]}
# The type, the JSON that it is read from, and the JSON that is written of it.
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "struct": (Struct, READ, READ),
    "model": (Model, READ, READ),
    "model-with-two-names": (TwoNames, READ, WRITTEN),
    "pydantic-dataclass": (PydanticDataclass, READ, READ),
    "dataclass": (Plain, READ, READ),
    "typed-dict": (PlainPart, {"pageCount": 3}, {"pageCount": 3}),
    "list-of-structs": (list[Struct], [READ], [READ]),
    "list-of-two-names": (list[TwoNames], [READ, READ], [WRITTEN, WRITTEN]),
    "root-model": (MixedRoot, [READ], [READ]),
}


@pytest_asyncio.fixture
async def settings(session: NodeSession, server_url: str) -> AsyncIterator[Settings]:
    """Those of a prefix under which Node has the queue "work" open."""
    prefix = f"contract-{uuid.uuid4().hex[:10]}"
    await session.ask("stage", scenario=SCENARIO, prefix=prefix, workerName="node")
    yield Settings(redis_url=server_url, queues=("work",), prefix=prefix)
    await session.ask("forget", prefix=prefix)


async def field(redis: Redis, settings: Settings, job_id: str, name: str) -> Any:
    """What the job's record has, as Node's JSON.parse reads it."""
    any_redis: Any = redis
    return json.loads(await any_redis.hget(f"{settings.prefix}:work:{job_id}", name))


async def test_node_to_a_handler_and_back(
    session: NodeSession, settings: Settings, redis: Redis
) -> None:
    """A handler reads Node's names, and what it returns has those that the model writes."""
    handlers, seen = HandlerRegistry(), {}
    for name, (annotation, _, _) in KINDS.items():

        def echo(job: Any) -> Any:
            seen[job.name] = job.data
            return job.data

        handlers.audio(JobType(name, annotation, annotation))(echo)
    async with JobClient(settings) as client, Worker(handlers, settings):
        for name, (annotation, read, written) in KINDS.items():
            job_id = await session.ask(
                "add", prefix=settings.prefix, queue="work", name=name, data=read, opts={}
            )
            result = await client.result(
                JobType(name, annotation, annotation).job_id(job_id), timeout=10
            )

            assert await field(redis, settings, job_id, "returnvalue") == written, name
            assert result == seen[name], name


async def test_python_to_nodes_worker_and_back(
    session: NodeSession, settings: Settings, redis: Redis
) -> None:
    """What is enqueued has the names that a handler reads, and Node's result is read by those."""
    await session.ask("work", scenario=SCENARIO, prefix=settings.prefix)
    async with JobClient(settings) as client:
        for annotation, read, written in KINDS.values():
            job_type: JobType[Any, Any] = JobType("work", dict[str, Any], annotation)
            told = {"do": {"op": "return", "value": written}}
            result = await client.result(await client.enqueue(job_type, told), timeout=10)

            sent: JobType[Any, Any] = JobType("work", annotation)
            job_id = await client.enqueue(sent, result, delay=3600)
            assert await field(redis, settings, job_id, "data") == read
            assert sent.decode(json.dumps(read).encode()) == result
    await session.ask("rest", prefix=settings.prefix)
