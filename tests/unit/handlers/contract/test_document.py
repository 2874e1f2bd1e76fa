"""The contract as JSON Schema: what is accepted of a payload, and what is written of a result."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import jsonschema
import msgspec
import pydantic
import pytest
from msgspec import UNSET, Meta, UnsetType
from pydantic.alias_generators import to_camel

from convolab_worker import Fixed, HandlerRegistry, Job, JobType
from convolab_worker.errors import ConfigurationError, InvalidPayload
from convolab_worker.handlers.contract.document import contract_of, jobs_in
from convolab_worker.handlers.contract.draft7 import draft7
from convolab_worker.payloads.decode import decoder
from convolab_worker.payloads.describe import payload_schema, result_schema
from convolab_worker.payloads.encode import encode_json


class Level(Enum):
    EASY = "N5"
    HARD = "N1"


@dataclass
class Line:
    """What one speaker says."""

    text: Annotated[str, Meta(description="The words.", min_length=1)]
    level: Level = Level.EASY


@dataclass
class Request:
    """A dialogue.

    With its lines.
    """

    lines: list[Line]
    pair: tuple[int, str] = (1, "a")
    note: str | None = None
    kind: Literal["a", "b"] = "a"
    counts: dict[str, int] = field(default_factory=dict)
    inner: Request | None = None


class Struct(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    the_id: str
    may_be: int | UnsetType = UNSET
    is_on: bool = True


class Sparse(msgspec.Struct, omit_defaults=True):
    a: int
    b: int = 0


class Tagged(msgspec.Struct, tag=True):
    a: int = 0


class Typed(TypedDict):
    a: int
    b: NotRequired[str]


class Model(pydantic.BaseModel):
    """A model."""

    model_config = pydantic.ConfigDict(alias_generator=to_camel)

    course_id: str = pydantic.Field(description="Which one.")
    count: int = 3

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.count * 2


class TwoNames(pydantic.BaseModel):
    value: int = pydantic.Field(validation_alias="in", serialization_alias="out")


def document(**by_type: Any) -> dict[str, Any]:
    """The contract of handlers that take those, and return the same."""
    handlers = HandlerRegistry()
    for name, annotation in by_type.items():
        handlers.audio(JobType(name, annotation, annotation))(_handler())
    return contract_of(handlers, ["audio"]).document


def _handler() -> Any:
    def handler(job: Any) -> Any:
        """Return it."""
        return job.data

    return handler


# payloads and results


def required(schema: dict[str, Any], name: str) -> list[str]:
    described = schema["$defs"][name] if name in schema.get("$defs", {}) else schema
    return sorted(described.get("required", []))


@pytest.mark.parametrize(
    ("annotation", "name", "read", "written"),
    [
        (Request, "Request", ["lines"], ["counts", "inner", "kind", "lines", "note", "pair"]),
        (Struct, "Struct", ["theId"], ["isOn", "theId"]),
        (Sparse, "Sparse", ["a"], ["a"]),
        (Tagged, "Tagged", ["type"], ["a", "type"]),
        (Typed, "Typed", ["a"], ["a"]),
        (Model, "Model", ["courseId"], ["count", "courseId", "double"]),
        (TwoNames, "TwoNames", ["in"], ["out"]),
        (list[Model], "Model", ["courseId"], ["count", "courseId", "double"]),
    ],
)
def test_what_has_a_default_may_be_left_out_and_is_always_written(
    annotation: Any, name: str, read: list[str], written: list[str]
) -> None:
    assert required(payload_schema(annotation), name) == read
    assert required(result_schema(annotation), name) == written


def test_optional_is_not_nullable() -> None:
    """A field that may be left out takes null only if its type says so."""
    properties = payload_schema(Struct)["$defs"]["Struct"]["properties"]
    note = payload_schema(Request)["$defs"]["Request"]["properties"]["note"]

    assert properties["isOn"] == {"type": "boolean", "default": True}
    assert properties["mayBe"] == {"type": "integer"}
    assert note["anyOf"] == [{"type": "string"}, {"type": "null"}]


def test_docstrings_and_fields_metadata_are_descriptions() -> None:
    definitions = payload_schema(Request)["$defs"]

    assert definitions["Request"]["description"] == "A dialogue.\n\nWith its lines."
    assert definitions["Line"]["properties"]["text"]["description"] == "The words."
    assert payload_schema(Model)["properties"]["courseId"]["description"] == "Which one."


# A value that fits each type, and one that does not.
SAMPLES: list[tuple[Any, Any, Any]] = [
    (Request, {"lines": [{"text": "a", "level": "N1"}]}, {"lines": [{"text": ""}]}),
    (Request, {"lines": [], "pair": [1, "b"]}, {"lines": [], "pair": [1]}),
    (Request, {"lines": [], "inner": {"lines": []}}, {"lines": [], "inner": {}}),
    (Struct, {"theId": "a"}, {"theId": "a", "more": 1}),
    (Struct, {"theId": "a", "mayBe": 1}, {"theId": "a", "mayBe": None}),
    (Typed, {"a": 1}, {"a": 1, "b": None}),
    (Model, {"courseId": "a"}, {"course_id": "a"}),
    (TwoNames, {"in": 1}, {"out": 1}),
    (list[Model | int], [{"courseId": "a"}, 1], ["1"]),
    (int | None, None, "1"),
    (Annotated[int, Meta(ge=1)], 1, 0),
]


@pytest.mark.parametrize(("annotation", "good", "bad"), SAMPLES)
def test_the_schema_says_what_the_worker_accepts(annotation: Any, good: Any, bad: Any) -> None:
    """What it lets through the handler gets, and what it does not the handler refuses."""
    for schema in (document(work=annotation), draft7(document(work=annotation))):
        payload = schema["properties"]["audio"]["properties"]["work"]["properties"]["payload"]
        validator = jsonschema.validators.validator_for(schema)
        validator.check_schema(schema)
        named = {key: schema[key] for key in ("$schema", "$defs", "definitions") if key in schema}
        judge = validator(
            {**payload, **named} if "$ref" not in payload else {**named, "allOf": [payload]}
        )
        assert judge.is_valid(good)
        assert not judge.is_valid(bad)
    decoder(annotation)(json.dumps(good).encode())
    with pytest.raises(InvalidPayload):
        decoder(annotation)(json.dumps(bad).encode())


@pytest.mark.parametrize(
    "value",
    [
        Request([Line("a")], inner=Request([])),
        Struct("a"),
        Sparse(1),
        Tagged(),
        Model.model_validate({"courseId": "a"}),
        TwoNames.model_validate({"in": 3}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_schema_says_what_is_written(value: Any) -> None:
    """Under the names that Node reads; and every field that is written is described."""
    schema = document(work=type(value))
    job = schema["properties"]["audio"]["properties"]["work"]
    written = json.loads(encode_json(value))

    result = {"$defs": schema["$defs"], **job["properties"]["result"]}
    jsonschema.validate(written, result)
    described = schema["$defs"][job["properties"]["result"]["$ref"].rpartition("/")[2]]
    assert {*written} <= {*described["properties"]}


# the document


def test_a_job_has_its_handlers_limits_and_policy() -> None:
    """As annotations, in the words of BullMQ's options; the description is the docstring."""
    handlers = HandlerRegistry()

    @handlers.audio(
        "speak", timeout=30, concurrency=2, rate="30/m", attempts=5, backoff=Fixed(2, 0)
    )
    async def speak(job: Job[Typed]) -> str:
        """Say it."""
        return job.data["b"]

    (job,) = jobs_in(contract_of(handlers, ["audio"]).document).values()
    assert job["description"] == "Say it."
    assert job["x-convolab"] == {
        "kind": "audio",
        "timeout": 30,
        "concurrency": 2,
        "rate": "30/m",
        "attempts": 5,
        "backoff": {"type": "fixed", "delay": 2000},
    }


def test_a_handler_of_any_queue_is_described_for_each() -> None:
    """And one of a queue for that alone, whether the worker is said to serve it or not."""
    handlers = HandlerRegistry()
    handlers.audio("anywhere")(_handler())
    handlers.audio("here", "also-here", queue="own")(_handler())

    found = jobs_in(contract_of(handlers, ["a", "b"]).document)

    assert sorted(found) == [
        ("a", "anywhere"),
        ("b", "anywhere"),
        ("own", "also-here"),
        ("own", "anywhere"),
        ("own", "here"),
    ]


def test_types_of_one_name_are_kept_apart() -> None:
    """Those of two modules, and one that is written otherwise than read; equal ones are one."""

    def other() -> Any:
        @dataclass
        class Line:
            number: int

        return Line

    found = document(one=Line, two=other(), three=list[Line])

    assert sorted(found["$defs"]) == ["Level", "Line", "LineInput", "LineOutput"]
    payload = found["properties"]["audio"]["properties"]["two"]["properties"]["payload"]
    assert "number" in found["$defs"][payload["$ref"].rpartition("/")[2]]["properties"]


def test_what_cannot_be_described_may_be_anything() -> None:
    """With a remark; it is the result alone, since such a payload can't be registered."""
    handlers = HandlerRegistry()

    @handlers.audio("odd")
    async def odd(job: Job[int]) -> pytest.Item: ...  # type: ignore[empty-body]

    found = contract_of(handlers, ["a"])

    assert jobs_in(found.document)["a", "odd"]["properties"]["result"] == {}
    assert [text[:40] for text in found.remarks] == ["a, odd: the result is not described: dat"]


def test_properties_may_be_called_like_keywords() -> None:
    """A field called default, enum or const is described as any other."""
    odd = TypedDict("odd", {"default": Line, "enum": Line, "$ref": Line, "const": Line})

    found = document(one=odd, two=list[Line])

    described = found["$defs"]["odd"]["properties"]
    assert {part["$ref"] for part in described.values()} == {"#/$defs/Line"}


def test_times_have_their_formats() -> None:
    """A datetime without a time zone is taken too where the type does not say that it has one."""
    assert payload_schema(Annotated[dt.datetime, Meta(tz=True)])["format"] == "date-time"
    assert "format" not in payload_schema(dt.datetime)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "the document: expected a JSON Schema of an object"),
        ({"properties": {"q": True}}, "q: expected a JSON Schema of an object"),
        ({"properties": {"q": {"properties": {"n": {"type": "string"}}}}}, "q, n: expected a JSON"),
        (
            {"properties": {"q": {"properties": {"n": {"properties": {"a": {}}}}}}},
            "q, n: .*neither",
        ),
    ],
)
def test_a_document_of_another_form_is_refused(given: Any, message: str) -> None:
    """The message says where it differs."""
    with pytest.raises(ConfigurationError, match=message):
        jobs_in(given)
