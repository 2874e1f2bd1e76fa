"""Payloads checked against annotations: what fits, what is refused, what the messages say."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime, time
from typing import (
    Any,
    Literal,
    TypeVar,
)

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import typing_extensions
from hypothesis import given, settings

from convolab_worker.errors import ConfigurationError, InvalidPayload
from convolab_worker.payloads.decode import decoder
from tests.support.payloads import (
    SHAPED,
    Card,
    Checked,
    Circle,
    Course,
    Level,
    Line,
    Model,
    Pause,
    Request,
    Speaker,
    Square,
    StrictStruct,
    UserId,
    Voice,
    message_of,
)

T = TypeVar("T")


def read(annotation: object, value: object) -> Any:
    """Read a value's JSON as a handler of that annotation does."""
    return decoder(annotation)(json.dumps(value).encode())


def refusal(annotation: object, value: object) -> str:
    """Give the message with which a value is refused."""
    with pytest.raises(InvalidPayload) as caught:
        read(annotation, value)

    return str(caught.value)


def test_dataclass_takes_every_kind_of_field() -> None:
    """Each supported annotation turns its JSON into the value that a handler expects."""
    token = uuid.uuid4()
    data = {
        "title": "Café",
        "speakers": [{"name": "A"}, {"name": "B", "voice": "low", "added": "later"}],
        "owner": "u1",
        "speed": 2,
        "count": 3,
        "draft": True,
        "mode": 3,
        "pause": "long",
        "level": 4,
        "due": "2026-01-02T03:04:05.678Z",
        "day": "2026-01-02",
        "at": "03:04:05",
        "token": str(token),
        "pair": [1, "x"],
        "marks": [1, 2, 3],
        "tags": ["a", "b", "a"],
        "words": {"un deux": [1], "trois": []},
        "by_pause": {"short": 1},
        "note": "n",
        "extra": {"any": ["thing"]},
        "part": {"title": "one", "speakers": []},
        "unknown": 1,
    }

    course = read(Course, data)

    assert course == Course(
        title="Café",
        speakers=[Speaker("A"), Speaker("B", "low")],
        owner=UserId("u1"),
        speed=2.0,
        count=3,
        draft=True,
        mode=3,
        pause=Pause.LONG,
        level=Level.N4,
        due=datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
        day=date(2026, 1, 2),
        at=time(3, 4, 5),
        token=token,
        pair=(1, "x"),
        marks=(1, 2, 3),
        tags={"a", "b"},
        words={"un deux": [1], "trois": []},
        by_pause={Pause.SHORT: 1},
        note="n",
        extra={"any": ["thing"]},
        part=Course(title="one", speakers=[]),
    )
    assert type(course.speed) is float
    assert type(course.count) is int


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("speed", "fast", 'data.speed: expected float, got "fast" (str)'),
        ("speed", True, "data.speed: expected float, got true (bool)"),
        ("speed", None, "data.speed: expected float, got null"),
        ("count", True, "data.count: expected int, got true (bool)"),
        ("count", 1.5, "data.count: expected int, got 1.5 (float)"),
        ("count", 1e300, "data.count: expected int, got 1e+300 (float)"),
        ("count", "3", 'data.count: expected int, got "3" (str)'),
        ("draft", 1, "data.draft: expected bool, got 1 (int)"),
        ("mode", "x", 'data.mode: expected one of the allowed values, got "x" (str)'),
        ("count", 3.0, "data.count: expected int, got 3.0 (float)"),
        ("pause", [], "data.pause: expected str, got [] (list)"),
        ("pause", "x", 'data.pause: expected one of the allowed values, got "x" (str)'),
        ("level", 7, "data.level: expected one of the allowed values, got 7 (int)"),
        ("due", "soon", 'data.due: invalid RFC3339 encoded datetime, got "soon" (str)'),
        ("token", "u", 'data.token: invalid UUID, got "u" (str)'),
        ("pair", [1], "data.pair: expected array of length 2, got [1] (list)"),
        ("marks", [1, "2"], 'data.marks[1]: expected int, got "2" (str)'),
        ("words", {"a b": ["x"]}, 'data.words["a b"][0]: expected int, got "x" (str)'),
        ("words", {"a": [], "b": [1, "x"]}, 'data.words.b[1]: expected int, got "x" (str)'),
        ("by_pause", {"x": 1}, "data.by_pause (key): expected one of the allowed values, got 'x'"),
        ("part", {"title": "t"}, "data.part.speakers: required field is missing"),
        ("speakers", [{"name": "A"}, {}], "data.speakers[1].name: required field is missing"),
        ("speakers", ["A"], 'data.speakers[0]: expected object, got "A" (str)'),
        ("speakers", {}, "data.speakers: expected array, got {} (dict)"),
    ],
)
def test_message_names_path_expected_and_found(field: str, value: object, problem: str) -> None:
    """A refused field is told with its path, what was expected, and what was found."""
    data = {"title": "t", "speakers": [], field: value}

    message = refusal(Course, data)

    assert message == problem


def test_the_first_problem_is_told() -> None:
    """msgspec stops at the first; pydantic tells up to five, and says when there are more."""
    many = refusal(list[int | list[Voice]], ["x"] * 1000)

    assert refusal(Course, {"speakers": [], "speed": "x"}).count("data.") == 1
    assert refusal(list[int], ["x"] * 1000) == 'data[0]: expected int, got "x" (str)'
    assert many.count("expected a valid integer") == 3
    assert many.endswith("; and more")


def test_the_wrong_item_is_found_in_dicts_within_dicts() -> None:
    """msgspec does not name the keys of a dict; the first that is wrong is told."""
    data = {f"n{index}": {"a b": 1, "c": 2} for index in range(50)}
    data["n30"]["a b"] = "x"  # type: ignore[assignment]

    assert (
        refusal(dict[str, dict[str, int]], data) == 'data.n30["a b"]: expected int, got "x" (str)'
    )
    assert refusal(dict[str, Checked], {"a": {"speed": 1}, "b": {}}) == (
        "data.b.speed: required field is missing"
    )
    assert refusal(dict[str, int], {f"n{index}": None for index in range(1000)}) == (
        "data.n0: expected int, got null"
    )


def test_shown_values_are_short_and_printable() -> None:
    """However large or odd the found value, the message stays short and is valid UTF-8."""
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    values = ["x" * 10_000, "\ud800", {"k" * 10_000: 1}, list(range(10_000)), 10**3000, deep]

    messages = [refusal(bool, value) for value in values]

    assert all(len(message.encode()) < 160 for message in messages)


def test_long_paths_are_cut() -> None:
    """A path through hundreds of levels does not fill the message."""
    data: dict[str, Any] = {"title": 1, "speakers": []}
    for _ in range(100):
        data = {"title": "t", "speakers": [], "part": data}

    message = refusal(Course, data)

    assert message.endswith(".title: expected str, got 1 (int)")
    assert len(message) < 300


def test_too_deep_data_is_refused_not_a_crash() -> None:
    """Data that nests deeper than the interpreter allows is an InvalidPayload."""
    data = b'{"title":"t","speakers":[],"part":' * 50_000

    for annotation in (Course, Circle | Square, Any):
        with pytest.raises(InvalidPayload, match="^data: nested too deeply$"):
            decoder(annotation)(data)


@pytest.mark.parametrize("annotation", [Any, dict[str, Any], Voice, Circle | Square])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"name": NaN}', "data: expected JSON, got: NaN is not a number in JSON at position 9"),
        (b'{"name": "a', "data: expected JSON, got: Unterminated string"),
        (b'{"name": "\xff"}', "data: expected UTF-8, got invalid start byte at byte 10"),
    ],
)
def test_what_is_not_json_is_told_with_its_position(
    annotation: object, data: bytes, message: str
) -> None:
    """Whichever library reads it."""
    with pytest.raises(InvalidPayload) as caught:
        decoder(annotation)(data)

    assert str(caught.value).startswith(message)


def test_what_json_parse_takes_and_msgspec_does_not_is_read_all_the_same() -> None:
    """Integers of any size, numbers beyond a float's range, and lone surrogates."""
    data = rb'{"a":[123456789012345678901234567890,1e400],"b":"\ud83d"}'

    taken = decoder(dict[str, str | list[int | float]])(data)

    assert taken == {"a": [123456789012345678901234567890, math.inf], "b": "\ud83d"}
    assert decoder(Any)(data) == taken


def test_what_post_init_raises_is_told_and_kept_as_the_cause() -> None:
    """A dataclass that refuses its values is an invalid payload, its own error the cause."""
    with pytest.raises(InvalidPayload) as caught:
        read(dict[str, Checked], {"a": {"speed": -1.0}})

    assert str(caught.value) == "data.a: speed must be positive"
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_dataclass_that_is_more_than_its_fields() -> None:
    """A field with init=False is the dataclass's own; an __init__ would not be called."""

    @dataclasses.dataclass
    class Doubled:
        size: int
        double: int = dataclasses.field(init=False)

        def __post_init__(self) -> None:
            self.double = 2 * self.size

    @dataclasses.dataclass
    class Own:
        size: int

        def __init__(self, size: int) -> None:
            self.size = size + 1

    assert read(Doubled, {"size": 2}).double == 4
    assert read(Doubled, {"size": 2, "double": 7}).double == 4
    for annotation in (Own, list[Own], Own | Circle):
        with pytest.raises(ConfigurationError, match="Own'> has an __init__ of its own: give it"):
            decoder(annotation)


def test_typed_dict_keeps_the_keys_it_names() -> None:
    """Required, NotRequired and total are honoured though the annotations are text."""
    taken = read(Request, {"text": "t", "count": 1, "speed": 1, "unknown": 2})

    assert taken == {"text": "t", "count": 1, "speed": 1.0}
    assert refusal(Request, {"note": 3}) == "data.note: expected str, got 3 (int)"
    assert refusal(Request, {"count": 1}) == "data.text: required field is missing"


@pytest.mark.parametrize(
    ("annotation", "value", "taken"),
    [
        (int | float, 1, 1),
        (float | int, 1, 1),
        (float | int, 1.0, 1.0),
        (int | str | None, "x", "x"),
        (datetime | str, "soon", "soon"),
        (Circle | Square, {"tag": "square", "side": 1}, Square(1.0)),
        (list[int] | dict[str, int], {"a": 1}, {"a": 1}),
        (Literal["a"] | Pause, "long", Pause.LONG),
        (None, None, None),
        (object, {"a": 1}, {"a": 1}),
        (dict, {"a": [1]}, {"a": [1]}),
        (list, [1, "a"], [1, "a"]),
        (tuple, [1, "a"], (1, "a")),
        (tuple[()], [], ()),
        (frozenset[int], [1, 1], frozenset({1})),
    ],
)
def test_unions_and_plain_types(annotation: object, value: object, taken: object) -> None:
    """Of a union the member that fits is used; plain JSON types need no class."""
    result = read(annotation, value)

    assert result == taken
    assert type(result) is type(taken)


def test_union_of_objects_tells_what_is_wrong_with_the_one_that_was_meant() -> None:
    """The member whose tag fits is the one whose problems are told."""
    message = refusal(Circle | Square, {"tag": "square", "side": "wide"})

    assert message == 'data.side: expected a valid number, got "wide" (str)'
    assert refusal(Circle | Square, 3) == "data: expected an object, got 3 (int)"
    assert refusal(int | None, "x") == 'data: expected int | null, got "x" (str)'


def test_literal_does_not_take_true_for_one() -> None:
    """Python's 1 == True makes no Literal or Enum of a bool."""
    assert "expected int, got true" in refusal(Literal[1], True)  # noqa: FBT003
    assert "got true" in refusal(Level, True)  # noqa: FBT003
    assert read(Level, 5) is Level.N5


def test_set_of_lists_is_refused_at_the_job() -> None:
    """Items that can't be in a set are a problem of the data, not a TypeError."""
    assert "unhashable type" in refusal(set[Any], [[1]])


def test_msgspec_struct_is_checked_by_msgspec() -> None:
    """A Struct's own names, bounds and rules hold, its errors in this library's words."""
    line = read(Line, {"spokenText": "hi", "pauses": [1], "byName": {"a": 1}})

    assert line == Line("hi", [1.0], {"a": 1})
    assert refusal(Line, {}) == "data.spokenText: required field is missing"
    assert refusal(Line, {"spokenText": 3}) == "data.spokenText: expected str, got 3 (int)"
    assert refusal(list[Line], [{"spokenText": "", "pauses": [1, "x"]}]) == (
        'data[0].pauses[1]: expected float, got "x" (str)'
    )
    assert refusal(Line, {"spokenText": "", "byName": {"a b": "x"}}) == (
        'data.byName["a b"]: expected int, got "x" (str)'
    )
    assert refusal(Line, None) == "data: expected object, got null"
    assert refusal(StrictStruct, {"count": 0}) == "data.count: expected int >= 1, got 0 (int)"
    assert refusal(StrictStruct, {"cuont": 0}) == "data.cuont: unknown field"
    assert refusal(StrictStruct, {"count": 13}).startswith("data: not thirteen")
    assert refusal(StrictStruct, {"count": 14}) == "data: 'fourteen' (KeyError)"


def test_pydantic_model_is_checked_by_pydantic() -> None:
    """A model's aliases, validators and settings hold, its errors in this library's words."""
    model = read(Model, {"speed": 1, "jlptLevel": 3, "when": "2026-01-02T03:04:05Z"})

    assert (model.speed, model.level, model.when.tzinfo) == (1.0, 3, UTC)
    message = refusal(
        Model,
        {"speed": "fast", "voices": [{"name": 1}, {}], "size": "q", "jlptLevel": 9, "zz": 1},
    )
    problems = message.split("; ")
    assert problems[0].startswith("data.speed: expected a valid number")
    assert problems[0].endswith('got "fast" (str)')
    assert problems[1] == "data.voices[0].name: expected a valid string, got 1 (int)"
    assert problems[2] == "data.voices[1].name: required field is missing"
    assert problems[3].startswith("data.size: expected a valid integer")
    assert problems[5] == "and more"
    assert refusal(Model, {"speed": 1, "zz": 1}) == "data.zz: unknown field"
    assert refusal(Model, {"speed": 1, "jlptLevel": 9}) == (
        "data.jlptLevel: no such level, got 9 (int)"
    )
    assert refusal(Model, {"speed": 1, "jlptLevel": 0}) == "data: 'zero' (KeyError)"
    assert refusal(dict[str, Model], {"a": 3}).startswith("data.a: expected an object")


def test_pydantic_is_strict_unless_a_model_says_otherwise() -> None:
    """Text is not a number; JSON's own forms of dates, sets and enums are what they stand for."""

    class Strict(pydantic.BaseModel):
        count: int
        speed: float = 1.0
        when: datetime | None = None
        tags: set[Pause] = set()
        secret: pydantic.SecretStr | None = None

    class Lax(Strict):
        model_config = pydantic.ConfigDict(strict=False)

    class LaxField(pydantic.BaseModel):
        count: int = pydantic.Field(strict=False)

    full = {"count": 1, "speed": 1, "when": "2026-01-02T03:04:05Z", "tags": ["long"]}
    strict = read(Strict, full)

    assert (strict.speed, strict.when.year, strict.tags) == (1.0, 2026, {Pause.LONG})
    assert refusal(Strict, {"count": "1"}) == 'data.count: expected a valid integer, got "1" (str)'
    assert (
        refusal(Strict, {"count": 1.0}) == "data.count: expected a valid integer, got 1.0 (float)"
    )
    assert read(Lax, {"count": "1"}).count == 1
    assert read(list[LaxField], [{"count": "1"}])[0].count == 1


def test_pydantic_dataclass_is_checked_by_pydantic() -> None:
    """A pydantic dataclass has pydantic's rules, not those of a plain dataclass."""
    card = read(Card, {"width": 3})

    assert card.width == 3
    assert refusal(Card, {"width": 0}) == "data.width: expected greater than 0, got 0 (int)"


@pytest.mark.parametrize("annotation", [Any, object, inspect.Parameter.empty])
def test_no_annotation_passes_data_through(annotation: object) -> None:
    """Any and object take everything as it is."""
    data = {"a": [1, None]}

    assert read(annotation, data) == data


def test_annotations_that_cannot_be_checked_are_refused_at_registration() -> None:
    """A field that JSON can't fill is a ConfigurationError that names the field."""

    class Anything:
        def __init__(self, content: str) -> None: ...

    @dataclasses.dataclass
    class Outer:
        parts: list[Anything]

    @dataclasses.dataclass
    class Unresolved:
        field: Nowhere  # type: ignore[name-defined] # noqa: F821

    class Mixed(msgspec.Struct):
        voice: Voice

    class Unknown(msgspec.Struct):
        field: Nowhere  # type: ignore[name-defined] # noqa: F821

    class Incomplete(pydantic.BaseModel):
        field: Nowhere  # type: ignore[name-defined] # noqa: F821

    refusals: list[tuple[object, str]] = [
        (Anything, "can't validate Anything: change the type to one that msgspec or pydantic"),
        (Outer, "can't validate Outer: .* pydantic: Unable to generate .*Anything"),
        (
            list[Mixed],
            r"validate .*Mixed\]: .* msgspec: <class .*Voice'> is not one of its types",
        ),
        (Line | Circle | Square, "msgspec: Type unions may not contain more than one dataclass"),
        (Unresolved, "can't resolve the annotations of .*Unresolved: name 'Nowhere'"),
        (Unknown, "can't validate Unknown: .* msgspec: name 'Nowhere'"),
        (Incomplete, "can't resolve the annotations of .*Incomplete: name 'Nowhere'"),
        ("Blob", "data: can't validate Blob"),
        (3, "data: can't validate 3"),
    ]
    for annotation, part in refusals:
        with pytest.raises(ConfigurationError, match=part):
            decoder(annotation)


def test_without_pydantic_a_union_of_dataclasses_is_told_to_need_it() -> None:
    """At registration, with what to install or to change."""
    code = (
        "import sys; sys.modules['pydantic'] = None\n"
        "from dataclasses import dataclass\n"
        "from convolab_worker.payloads.decode import decoder\n"
        "A = dataclass(type('A', (), {}))\n"
        "B = dataclass(type('B', (), {}))\n"
        "try: decoder(A | B)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.startswith("ConfigurationError data: can't validate __main__.A | __main__.B")
    assert said.stdout.endswith("change the type, or install pydantic, which may be able to\n")


def test_classes_defined_beside_each_other_in_a_function_are_found() -> None:
    """Text annotations of local classes are resolved while their function runs."""

    @dataclasses.dataclass
    class Leaf:
        size: int

    @dataclasses.dataclass
    class Tree:
        leaves: list[Leaf]
        below: Tree | None = None

    class Model(pydantic.BaseModel):
        leaf: Later

    class Later(pydantic.BaseModel):
        size: int

    tree = read(Tree, {"leaves": [{"size": 1}], "below": {"leaves": []}})
    model = read(Model, {"leaf": {"size": 2}})

    assert tree == Tree([Leaf(1)], Tree([]))
    assert model.leaf.size == 2


def test_aliases_and_backported_forms_are_understood() -> None:
    """typing_extensions' TypedDict and type aliases are read like typing's."""

    class Fixed(typing_extensions.TypedDict):
        name: str
        size: typing_extensions.NotRequired[int]

    ids = typing_extensions.TypeAliasType("ids", list[int])

    assert read(Fixed, {"name": "x"}) == {"name": "x"}
    assert read(dict.__class_getitem__((str, ids)), {"a": [1]}) == {"a": [1]}


def test_unresolved_field_annotation_names_class_and_name() -> None:
    """A dataclass field of an unknown type is a ConfigurationError that names it."""
    broken = dataclasses.make_dataclass("broken", [("field", "Nowhere")])

    with pytest.raises(ConfigurationError, match=r"broken: .*'Nowhere' is not defined"):
        decoder(broken)


DECODERS = {
    str(annotation): decoder(annotation)
    for annotation in (
        Course,
        Request,
        Line,
        Model,
        Card,
        Circle | Square | None,
        dict[Pause, Level] | list[Checked],
        set[Any],
        tuple[datetime | int, str],
        list[date | time | uuid.UUID | float],
    )
}


@pytest.mark.parametrize("name", DECODERS)
@settings(deadline=None)
@given(value=SHAPED)
def test_decoders_take_or_refuse_whatever_comes(name: str, value: object) -> None:
    """A decoder raises InvalidPayload or nothing, its message short and valid UTF-8."""
    message = message_of(DECODERS[name], json.dumps(value).encode(), InvalidPayload)

    assert message == "" or message.startswith("data")
    assert len(message.encode()) < 4000


def test_pydantic_is_imported_for_its_types_only() -> None:
    """A cold start pays only for the library whose types are used."""
    code = (
        "import sys; from convolab_worker.payloads import decode, encode; "
        "decode.decoder(dict[str, int])(b'{}'); encode.encode_json({'a': (1,)})"
    )

    listing = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert "pydantic" not in listing
