"""What is written is what is read: models whose fields have other names in JSON, as Node's do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from pydantic import AliasChoices, AliasPath, ConfigDict, Field
from pydantic.alias_generators import to_camel

from convolab_worker import Child, HandlerRegistry, Job
from convolab_worker.errors import InvalidResult
from convolab_worker.payloads.decode import decoder
from convolab_worker.payloads.encode import encode_data, encode_json
from convolab_worker.testing import run_handler


class Alias(pydantic.BaseModel):
    course_id: str = Field(alias="courseId")


class Generated(pydantic.BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    course_id: str
    first_part: Generated | None = None
    other_parts: list[Generated] = []

    @pydantic.computed_field
    def in_capitals(self) -> str:
        """No field: the model does not read it."""
        return self.course_id.upper()


class ReadOtherwise(pydantic.BaseModel):
    course_id: str = Field(validation_alias="courseId")
    by_name: dict[str, ReadOtherwise] = Field({}, validation_alias=AliasPath("byName"))
    pair: tuple[Alias, ReadOtherwise] | None = None


class WrittenOtherwise(pydantic.BaseModel):
    course_id: str = Field(serialization_alias="courseId")


class Choices(pydantic.BaseModel):
    course_id: str = Field(validation_alias=AliasChoices(AliasPath("course", "id"), "courseId"))


class ByName(pydantic.BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)

    course_id: str = Field(alias="courseId")


class Nested(pydantic.BaseModel):
    course_id: str = Field(validation_alias=AliasPath("course", "id"))


class Listed(pydantic.RootModel[list[ReadOtherwise]]):
    pass


@pydantic.dataclasses.dataclass
class Card:
    course_id: str = Field(alias="courseId")


class Struct(msgspec.Struct, rename="camel", tag="course", omit_defaults=True):
    course_id: str
    other_parts: list[Struct] = []


@dataclass
class Plain:
    """Holds models, and so is pydantic's to read."""

    alias: Alias
    cards: list[Card]


def _reading(data: dict[str, Any]) -> ReadOtherwise:
    return ReadOtherwise.model_validate(data)


A = {"courseId": "a"}
VALUES: list[tuple[Any, Any, Any]] = [
    (Alias(courseId="a"), A, A),
    (
        Generated(course_id="a", first_part=Generated(course_id="b")),
        {
            "courseId": "a",
            "firstPart": {"courseId": "b", "firstPart": None, "otherParts": []},
            "otherParts": [],
        },
        {
            "courseId": "a",
            "firstPart": {
                "courseId": "b",
                "firstPart": None,
                "otherParts": [],
                "inCapitals": "B",
            },
            "otherParts": [],
            "inCapitals": "A",
        },
    ),
    (
        _reading({"courseId": "a", "byName": {"b": A}, "pair": (Alias(courseId="a"), A)}),
        {
            "courseId": "a",
            "byName": {"b": {"courseId": "a", "byName": {}, "pair": None}},
            "pair": [A, {"courseId": "a", "byName": {}, "pair": None}],
        },
        {
            "course_id": "a",
            "by_name": {"b": {"course_id": "a", "by_name": {}, "pair": None}},
            "pair": [A, {"course_id": "a", "by_name": {}, "pair": None}],
        },
    ),
    (WrittenOtherwise(course_id="a"), {"course_id": "a"}, A),
    (Choices.model_validate(A), A, {"course_id": "a"}),
    (ByName.model_validate({"course_id": "a"}), {"course_id": "a"}, A),
    (
        Listed([_reading(A)]),
        [{"courseId": "a", "byName": {}, "pair": None}],
        [{"course_id": "a", "by_name": {}, "pair": None}],
    ),
    (Card(courseId="a"), A, A),
    (
        Struct("a", [Struct("b")]),
        {"type": "course", **A, "otherParts": [{"type": "course", "courseId": "b"}]},
        {"type": "course", **A, "otherParts": [{"type": "course", "courseId": "b"}]},
    ),
    (Plain(Alias(courseId="a"), [Card(courseId="b")]),)
    + ({"alias": A, "cards": [{"courseId": "b"}]},) * 2,
]
IDS = [type(value).__name__ for value, _, _ in VALUES]


@pytest.mark.parametrize(("value", "data", "result"), VALUES, ids=IDS)
def test_a_model_is_written_under_the_names_that_others_use(
    value: Any, data: Any, result: Any
) -> None:
    """As data by the names that it reads, which Node sends too; as a result by those it writes."""
    assert json.loads(encode_data(value)) == data
    assert json.loads(encode_json(value)) == result
    assert json.loads(encode_data([{"x": value}])) == [{"x": data}]


@pytest.mark.parametrize(("value", "data", "result"), VALUES, ids=IDS)
def test_a_handler_reads_what_was_enqueued_with_its_own_model(
    value: Any, data: Any, result: Any
) -> None:
    """Whether Python or Node has written it."""
    del result
    read = decoder(type(value))

    assert read(encode_data(value).encode()) == value
    assert read(json.dumps(data).encode()) == value


def test_a_field_that_no_key_leads_to_is_refused_as_data() -> None:
    """An AliasPath through several keys can be read, and not be written."""
    value = Nested.model_validate({"course": {"id": "a"}})

    assert encode_json(value) == '{"course_id":"a"}'
    with pytest.raises(InvalidResult, match="Nested.course_id is read by an AliasPath"):
        encode_data(value)


@pytest.mark.asyncio
async def test_data_children_progress_and_results_of_a_handler() -> None:
    """In every direction."""
    handlers = HandlerRegistry()

    @handlers.course("generate")
    async def generate(job: Job[ReadOtherwise]) -> WrittenOtherwise:
        await job.progress(job.data)
        return WrittenOtherwise(course_id=job.data.course_id)

    @handlers.course("ask")
    async def ask(job: Job[list[Alias]]) -> None:
        await job.enqueue_children([Child("generate", _reading(A), key="part")])

    done = await run_handler(handlers, "generate", _reading(A))
    asked = await run_handler(handlers, "ask", [Alias(courseId="a")])
    child = asked.children[0]

    assert done.result == A
    assert done.progress == [{"course_id": "a", "by_name": {}, "pair": None}]
    assert (await run_handler(handlers, child.name, child.data)).result == A
