"""Whether a worker takes what an API sends, and the API what the worker returns; in which words."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal

import jsonschema
import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Meta

from convolab_worker import HandlerRegistry, JobType
from convolab_worker.errors import ConfigurationError, InvalidPayload
from convolab_worker.handlers.contract.branches import Located
from convolab_worker.handlers.contract.compatibility import compare
from convolab_worker.handlers.contract.document import contract_of
from convolab_worker.handlers.contract.draft7 import draft7
from convolab_worker.handlers.contract.subset import Comparison, Sides
from convolab_worker.payloads.decode import decoder

SIDES = Sides("the API", "sends", "send", "the worker")


def fields(*names_types_defaults: Any) -> Any:
    """A dataclass with those fields."""
    return make_dataclass("Request", names_types_defaults)


def contract(*jobs: tuple[str, Any, Any]) -> dict[str, Any]:
    """The document of handlers of those names, payloads and results."""
    handlers = HandlerRegistry()
    for name, payload, result in jobs:

        def handler(job: Any) -> Any:
            return job.data

        handlers.audio(JobType(name, payload, result))(handler)
    return contract_of(handlers, ["audio"]).document


def told(old: Any, new: Any) -> tuple[list[str], list[str]]:
    """What breaks, and what does not, between a worker's contract then and now."""
    changes = compare(old, new)
    texts = [(change.breaks, f"{change.path}: {change.text}".lstrip(": ")) for change in changes]
    return [text for breaks, text in texts if breaks], [
        text for breaks, text in texts if not breaks
    ]


def payloads(old: Any, new: Any) -> tuple[list[str], list[str]]:
    return told(contract(("work", old, int)), contract(("work", new, int)))


def results(old: Any, new: Any) -> tuple[list[str], list[str]]:
    return told(contract(("work", int, old)), contract(("work", int, new)))


TEXT = ("text", str)


@dataclass
class Line:
    text: str


@dataclass
class OtherLine:
    text: int


# jobs that were enqueued before a deploy


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            fields(TEXT),
            fields(TEXT, ("voice", str)),
            "payload.voice: the worker needs it, the API never sends it",
        ),
        (
            fields(TEXT, ("voice", str, field(default="a"))),
            fields(TEXT, ("voice", str)),
            "payload.voice: the worker needs it, the API may leave it out",
        ),
        (
            fields(("speed", float)),
            fields(("speed", int)),
            "payload.speed: the worker takes whole numbers only, the API may send others",
        ),
        (
            fields(("speed", float)),
            fields(("speed", str)),
            "payload.speed: the API may send a number, the worker takes text",
        ),
        (
            fields(("note", str | None)),
            fields(("note", str)),
            "payload.note: the API may send null, the worker takes text",
        ),
        (
            fields(("kind", Literal["a", "b"])),
            fields(("kind", Literal["b", "c"])),
            'payload.kind: the API may send "a", the worker takes "b" or "c"',
        ),
        (
            fields(("kind", str)),
            fields(("kind", Literal["b", "c"])),
            'payload.kind: the API may send text, the worker takes "b" or "c"',
        ),
        (
            fields(("speed", Annotated[float, Meta(ge=0, le=2)])),
            fields(("speed", Annotated[float, Meta(ge=0, le=1)])),
            "payload.speed: the worker takes numbers up to 1 only, the API may send others",
        ),
        (
            fields(("lines", list[Line])),
            fields(("lines", list[OtherLine])),
            "payload.lines[].text: the API may send text, the worker takes a whole number",
        ),
        (
            fields(("pair", tuple[int, int])),
            fields(("pair", tuple[int, str])),
            "payload.pair[1]: the API may send a whole number, the worker takes text",
        ),
        (
            fields(("pair", list[int])),
            fields(("pair", Annotated[list[int], Meta(min_length=2)])),
            "payload.pair: the worker takes at least 2 items only, the API may send others",
        ),
        (
            fields(("by_name", dict[str, int])),
            fields(("by_name", dict[str, str])),
            "payload.by_name.*: the API may send a whole number, the worker takes text",
        ),
        (
            fields(TEXT),
            msgspec.defstruct("Request", [("other", str, "")], forbid_unknown_fields=True),
            "payload.text: the API may send it, the worker refuses fields that it does not know",
        ),
        (
            Any,
            fields(TEXT),
            "payload: the API may send anything, the worker takes an object",
        ),
        (
            fields(("text", Annotated[str, Meta(pattern="^a")])),
            fields(("text", Annotated[str, Meta(pattern="^b")])),
            "payload.text: the worker takes text that matches ^b only, the API may send others",
        ),
    ],
)
def test_what_a_worker_would_refuse_breaks(old: Any, new: Any, message: str) -> None:
    """Each with its place, and in words that say which side has to do what."""
    breaks, _ = payloads(old, new)

    assert breaks == [message]


@pytest.mark.parametrize(
    ("old", "new", "notes"),
    [
        (
            fields(TEXT),
            fields(TEXT, ("voice", str, field(default="a"))),
            ["payload.voice: new, and may be left out"],
        ),
        (fields(TEXT, ("voice", str)), fields(TEXT), ["payload.voice: the worker ignores it"]),
        (
            fields(("speed", int)),
            fields(("speed", float)),
            ["payload.speed: the worker takes more than the API sends"],
        ),
        (
            fields(("note", str)),
            fields(("note", str | None)),
            ["payload.note: the worker takes more than the API sends"],
        ),
        (fields(TEXT), fields(TEXT), ["unchanged"]),
        (dict[str, Any], dict[str, Any], ["unchanged"]),
    ],
)
def test_what_does_not_break_is_told_too(old: Any, new: Any, notes: list[str]) -> None:
    assert payloads(old, new) == ([], notes)


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


@dataclass
class OtherTree:
    name: int
    children: list[OtherTree] = field(default_factory=list)


def test_types_that_have_themselves_in_them_are_compared() -> None:
    assert payloads(Tree, Tree) == ([], ["unchanged"])
    breaks, _ = payloads(Tree, OtherTree)
    problem = "the API may send text, the worker takes a whole number"
    assert breaks == [f"payload.name: {problem}", f"payload.children[].name: {problem}"]


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Cat(msgspec.Struct, tag="cat"):
    name: str


class OtherCat(msgspec.Struct, tag="cat"):
    name: int


def test_unions_are_compared_member_by_member() -> None:
    """The member that is meant is the one whose tag is the same."""
    assert payloads(Dog, Dog | Cat)[0] == []
    assert payloads(Dog | Cat, Dog)[0] == [
        'payload.type: the API may send "cat", the worker takes "dog"'
    ]
    assert payloads(Dog | Cat, Dog | OtherCat)[0] == [
        "payload.name: the API may send text, the worker takes a whole number"
    ]


# results


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            fields(("seconds", float)),
            fields(("length", float)),
            "result.seconds: the API needs it, the worker never returns it",
        ),
        (
            fields(("seconds", float)),
            fields(("seconds", float | None)),
            "result.seconds: the worker may return null, the API takes a number",
        ),
        (str, list[str], "result: the worker may return a list, the API takes text"),
    ],
)
def test_what_the_api_does_not_expect_of_a_result_breaks(old: Any, new: Any, message: str) -> None:
    breaks, _ = results(old, new)

    assert breaks == [message]


def test_a_result_may_have_more_and_be_narrower() -> None:
    old, new = fields(("a", float | None)), fields(("a", int), ("b", int))

    assert results(old, new) == (
        [],
        [
            "result.b: new: the API does not read it yet",
            "result.a: the API takes more than the worker returns",
        ],
    )


# jobs


def test_a_job_that_is_gone_breaks() -> None:
    """What it seems to be called now is named, or the queue where one of that name is."""
    old = contract(("make-audio", fields(TEXT), int), ("draw", int, int))
    new = contract(("make-the-audio", fields(TEXT), int), ("speak", str, int))

    breaks, fine = told(old, new)

    renamed = "if it is called make-the-audio now, register it under its former name, too"
    assert breaks == ["no handler takes it", f"no handler takes it; {renamed}"]
    assert fine == ["new: the API does not send it yet"] * 2


def test_a_job_on_another_queue_is_found() -> None:
    old = contract(("draw", int, int))
    new = {**old, "properties": {"images": old["properties"]["audio"]}}

    breaks, _ = told(old, new)

    assert breaks == ["no handler takes it on this queue; there is one on images"]


def test_a_former_name_is_a_name() -> None:
    """Registered behind the new one, it keeps the jobs of before the deploy running."""
    handlers = HandlerRegistry()
    handlers.audio("new-name", "work")(lambda job: job.data)  # pragma: no branch

    breaks, _ = told(contract(("work", Any, Any)), contract_of(handlers, ["audio"]).document)

    assert breaks == []


# other documents


def test_a_document_in_draft_7_is_read_as_well() -> None:
    """Its definitions, its lists of items, and what stands beside a reference."""
    request = fields(("pair", tuple[int, str]), ("tree", Tree))
    old = contract(("work", request, request))

    assert told(draft7(old), old) == ([], ["unchanged"])
    assert told(old, draft7(old)) == ([], ["unchanged"])


def test_a_schema_may_bring_its_own_definitions() -> None:
    """Libraries write one document a type: a reference in it means what is in that document."""
    inner = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"text": {"$ref": "#/$defs/Text"}, "next": {"$ref": "#"}},
        "required": ["text"],
        "$defs": {"Text": {"type": "string"}},
    }
    job = {"properties": {"payload": inner, "result": {"type": "integer"}}}
    api = {"properties": {"audio": {"properties": {"work": job}}}}

    assert told(api, contract(("work", fields(TEXT), int)))[0] == []
    assert told(api, contract(("work", fields(("text", int)), int)))[0] == [
        "payload.text: the API may send text, the worker takes a whole number"
    ]


def test_what_cannot_be_compared_breaks() -> None:
    """A word that is not known may narrow the type down; the same word on both sides does not."""
    old = contract(("work", list[int], int))
    new = copy.deepcopy(old)
    job = new["properties"]["audio"]["properties"]["work"]["properties"]
    job["payload"] = {"type": "array", "items": {"type": "integer"}, "contains": {"const": 1}}

    assert told(old, new)[0] == ["payload: `contains`: can't be compared"]
    assert told(new, new)[0] == []


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"$ref": "#/$defs/Nothing"}, "'#/\\$defs/Nothing' leads nowhere"),
        ({"$ref": "https://example.com/schema"}, "leads nowhere in this document"),
        ({"$ref": "#/$defs/Loop"}, "only leads to itself"),
    ],
)
def test_a_document_that_cannot_be_read_is_an_error(payload: Any, message: str) -> None:
    new = contract(("work", int, int))
    old = copy.deepcopy(new)
    old["$defs"] = {"Loop": {"$ref": "#/$defs/Loop"}}
    old["properties"]["audio"]["properties"]["work"]["properties"]["payload"] = payload

    with pytest.raises(ConfigurationError, match=message):
        compare(old, new)


# whatever the types are

SCALARS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 2},
        {"type": "string", "maxLength": 1},
        {"type": "integer"},
        {"type": "integer", "minimum": 0},
        {"type": "number"},
        {"type": "number", "exclusiveMaximum": 2},
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["string", "null"]},
        {"enum": ["a", "bc", 1, None]},
        {"const": "a"},
        {"type": "integer", "enum": [0, 1]},
        {},
    ]
)
NAMES = ["a", "b", "c"]


def objects(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda properties, required, closed: {
            "type": "object",
            "properties": properties,
            "required": sorted({*required} & {*properties}),
            **({"additionalProperties": False} if closed else {}),
        },
        st.dictionaries(st.sampled_from(NAMES), parts, min_size=1, max_size=3),
        st.lists(st.sampled_from(NAMES)),
        st.booleans(),
    )


def larger(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.lists(parts, min_size=1, max_size=2)
    return st.one_of(
        objects(parts),
        st.builds(lambda items: {"type": "array", "items": items}, parts),
        st.builds(
            lambda first, closed: {
                "type": "array",
                "prefixItems": first,
                "minItems": len(first),
                **({"items": False} if closed else {}),
            },
            pairs,
            st.booleans(),
        ),
        st.builds(lambda some: {"anyOf": some}, pairs),
        st.builds(lambda part: {"allOf": [part]}, parts),
        st.builds(lambda values: {"type": "object", "additionalProperties": values}, parts),
    )


SCHEMAS = st.recursive(SCALARS, larger, max_leaves=6)
VALUES = st.recursive(
    st.sampled_from(["", "a", "bc", 0, 1, 2.5, -1, True, None]),
    lambda parts: st.one_of(
        st.lists(parts, max_size=3), st.dictionaries(st.sampled_from(NAMES), parts, max_size=3)
    ),
    max_leaves=6,
)


def closed(schema: Any) -> Any:
    """The schema with no field that it does not name, which is what producers send."""
    if not isinstance(schema, dict):
        return schema
    copied = {key: closed(value) for key, value in schema.items()}
    for key in ("anyOf", "allOf", "prefixItems"):
        if key in schema:
            copied[key] = [closed(part) for part in schema[key]]
    if "properties" in schema:
        copied["properties"] = {name: closed(part) for name, part in schema["properties"].items()}
        copied["additionalProperties"] = False
    return copied


@given(SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=5, max_size=10))
def test_what_fits_the_sender_fits_the_receiver_unless_it_was_told(
    sent: Any, taken: Any, values: list[Any]
) -> None:
    """jsonschema is the judge."""
    if Comparison(SIDES).misfits(Located(sent, ()), Located(taken, ())):
        return
    sender = jsonschema.Draft202012Validator(closed(sent))
    receiver = jsonschema.Draft202012Validator(taken)
    for value in values:
        assert receiver.is_valid(value) or not sender.is_valid(value)


@given(SCHEMAS)
def test_every_type_fits_itself(schema: Any) -> None:
    """Nothing is said to break where nothing has changed."""
    assert Comparison(SIDES).misfits(Located(schema, ()), Located(schema, ())) == []


def test_jobs_of_before_a_deploy_still_parse_if_nothing_breaks() -> None:
    """What the check says is what the handler does."""
    old = fields(TEXT, ("voice", str | None, field(default=None)))
    wider = fields(
        TEXT, ("voice", str | None, field(default=None)), ("speed", float, field(default=1.0))
    )
    narrower = fields(TEXT, ("voice", str, field(default="a")))
    enqueued = b'{"text":"a","voice":null}'

    assert payloads(old, wider)[0] == []
    decoder(wider)(enqueued)
    assert payloads(old, narrower)[0] == [
        "payload.voice: the API may send null, the worker takes text"
    ]
    with pytest.raises(InvalidPayload):
        decoder(narrower)(enqueued)
