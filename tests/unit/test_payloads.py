"""Data in and results out: what is taken, what is refused, and what the messages say."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import itertools
import json
import math
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    NotRequired,
    Protocol,
    Required,
    TypedDict,
    TypeVar,
)

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import typing_extensions
from hypothesis import given, settings, strategies as st

from convolab_worker.errors import ConfigurationError, InvalidPayload, InvalidResult
from convolab_worker.payloads.codec import decode_data, encode_json, payload_annotation, validator

if TYPE_CHECKING:
    from collections.abc import Callable

    OnlyForCheckers = int

T = TypeVar("T")
UserId = NewType("UserId", str)


class Job(Generic[T]):
    """Stands for the library's Job, which payloads.py is handed as an argument."""


class Pause(enum.Enum):
    """An Enum of text."""

    SHORT = "short"
    LONG = "long"


class Level(enum.IntEnum):
    """An Enum of numbers."""

    N5 = 5
    N4 = 4


@dataclasses.dataclass
class Speaker:
    """A nested dataclass."""

    name: str
    voice: str | None = None


@dataclasses.dataclass(kw_only=True)
class Course:
    """A dataclass with every supported kind of field."""

    title: str
    speakers: list[Speaker]
    owner: UserId = UserId("nobody")
    speed: float = 1.0
    count: int = 1
    draft: bool = False
    mode: Literal["auto", "manual", 3] = "auto"
    pause: Pause = Pause.SHORT
    level: Level = Level.N5
    due: datetime | None = None
    day: date | None = None
    at: time | None = None
    token: uuid.UUID | None = None
    pair: tuple[int, str] | None = None
    marks: tuple[int, ...] = ()
    tags: set[str] = dataclasses.field(default_factory=set)
    words: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    by_pause: dict[Pause, int] = dataclasses.field(default_factory=dict)
    note: Annotated[str, "anything"] = ""
    extra: Any = None
    part: Course | None = None
    made: str = dataclasses.field(init=False, default="here")


@dataclasses.dataclass
class Checked:
    """A dataclass that checks itself."""

    speed: float

    def __post_init__(self) -> None:
        """Refuse what the type alone allows."""
        if self.speed <= 0:
            msg = "speed must be positive"
            raise ValueError(msg)


class Base(TypedDict, total=False):
    """A TypedDict whose keys may be absent, unless they say otherwise."""

    note: str
    text: Required[str]


class Request(Base):
    """A TypedDict that inherits."""

    count: int
    speed: NotRequired[Annotated[float, "times"]]


class Line(msgspec.Struct, rename="camel"):
    """A Struct whose fields have other names in JSON."""

    spoken_text: str
    pauses: list[float] = []
    by_name: dict[str, int] = {}


class StrictStruct(msgspec.Struct, forbid_unknown_fields=True):
    """A Struct with a bound, a check and no other fields."""

    count: Annotated[int, msgspec.Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        """Refuse what the type alone allows."""
        if self.count == 13:
            msg = "not thirteen"
            raise ValueError(msg)
        if self.count == 14:
            raise KeyError("fourteen")  # noqa: EM101


class Voice(pydantic.BaseModel):
    """A model within a model."""

    name: str


class Model(pydantic.BaseModel):
    """A model with aliases, a union and a validator."""

    model_config = pydantic.ConfigDict(extra="forbid")

    speed: float
    voices: list[Voice] = []
    size: int | list[int] = 1
    when: datetime | None = None
    level: int = pydantic.Field(default=1, alias="jlptLevel")

    @pydantic.field_validator("level")
    @classmethod
    def known(cls, level: int) -> int:
        """Refuse what the type alone allows."""
        if level > 5:
            msg = "no such level"
            raise ValueError(msg)
        if level == 0:
            raise KeyError("zero")  # noqa: EM101
        return level


@pydantic.dataclasses.dataclass
class Card:
    """A pydantic dataclass."""

    width: Annotated[int, pydantic.Field(gt=0)]


@dataclasses.dataclass
class Circle:
    """A member of a union told by its tag."""

    radius: float
    tag: Literal["circle"] = "circle"


@dataclasses.dataclass
class Square:
    """Another member of that union."""

    side: float
    tag: Literal["square"] = "square"


def refusal(annotation: object, value: object) -> str:
    """Give the message with which a value is refused."""
    with pytest.raises(InvalidPayload) as caught:
        validator(annotation)(value)

    return str(caught.value)


# decode_data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":[1,-2.5,true,null,"é\\u00e9"]}', {"a": [1, -2.5, True, None, "éé"]}),
        (b'"\xc3\xa9"', "é"),
        (" \n\t\r7 ", 7),
        ('{"a":1,"a":2}', {"a": 2}),
        ("9007199254740993", 9007199254740993),
        ("1e400", math.inf),
        (r'"\ud83d"', "\ud83d"),
        (r'"\ud83d\ude00"', "\U0001f600"),
    ],
)
def test_decode_reads_what_json_parse_reads(text: str | bytes, value: object) -> None:
    """Everything that JSON.parse takes is read, integers exactly."""
    decoded = decode_data(text)

    assert decoded == value


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"a": tru}', ("Expecting value", "position 6", r"{\"a\": tru}")),
        ("", ("Expecting value at position 0",)),
        ('{"a": "NaN", "b": [NaN]}', ("NaN is not a number", "position 19")),
        ('["\\"NaN", -Infinity]', ("-Infinity is not a number", "position 10")),
        ("Infinity", ("Infinity is not a number", "position 0")),
        (b'{"a": "\xff"}', ("expected UTF-8", "byte 7")),
        (b"\xff\xfe1\x00", ("expected UTF-8", "byte 0")),
        ("\ufeff{}", ("expected JSON", "position 0")),
        ("[" * 200_000, ("nested too deeply",)),
        ("1" * 5000, ("thousands of digits",)),
        ("01", ("Extra data at position 1",)),
        ('"\ud800', ("position 0", "\\ud800")),
        ("x" * 5_000_000, ("position 0",)),
    ],
    ids=itertools.count(),
)
def test_decode_refuses_what_json_parse_refuses(text: str | bytes, parts: tuple[str, ...]) -> None:
    """What is not JSON is an InvalidPayload that says what, where, and shows a short excerpt."""
    with pytest.raises(InvalidPayload, match="^data: ") as caught:
        decode_data(text)

    message = str(caught.value)
    assert all(part in message for part in parts)
    assert len(message.encode()) < 250


# validator


def test_dataclass_takes_every_kind_of_field() -> None:
    """Each supported annotation turns its JSON into the value that a handler expects."""
    token = uuid.uuid4()
    data = {
        "title": "Café",
        "speakers": [{"name": "A"}, {"name": "B", "voice": "low", "added": "later"}],
        "owner": "u1",
        "speed": 2,
        "count": 3.0,
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
        "made": "elsewhere",
        "unknown": 1,
    }

    course = validator(Course)(data)

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
        ("mode", "x", 'data.mode: expected one of "auto", "manual", 3 (int), got "x" (str)'),
        ("pause", [], 'data.pause: expected one of "short", "long", got [] (list)'),
        ("level", 7, "data.level: expected one of 5 (int), 4 (int), got 7 (int)"),
        ("due", "soon", 'data.due: expected datetime as ISO 8601 text or null, got "soon" (str)'),
        ("token", "u", 'data.token: expected UUID as text or null, got "u" (str)'),
        ("pair", [1], "data.pair: expected list of exactly 2 or null, got [1] (list)"),
        ("marks", [1, "2"], 'data.marks[1]: expected int, got "2" (str)'),
        ("words", {"a b": ["x"]}, 'data.words["a b"][0]: expected int, got "x" (str)'),
        ("by_pause", {"x": 1}, 'data.by_pause.x (key): expected one of "short", "long", got "x"'),
        ("part", {"title": "t"}, "data.part.speakers: required field is missing"),
        ("speakers", [{"name": "A"}, {}], "data.speakers[1].name: required field is missing"),
        ("speakers", ["A"], 'data.speakers[0]: expected an object (Speaker), got "A" (str)'),
        ("speakers", {}, "data.speakers: expected list, got {} (dict)"),
    ],
)
def test_message_names_path_expected_and_found(field: str, value: object, problem: str) -> None:
    """A refused field is told with its path, what was expected, and what was found."""
    data = {"title": "t", "speakers": [], field: value}

    message = refusal(Course, data)

    # A member of a union that can tell more than the union does so.
    shown = problem.replace(" or null", "")
    assert message.startswith((problem, shown))


def test_all_problems_are_told_up_to_five() -> None:
    """One message has up to five problems, and says when there are more."""
    few = refusal(Course, {"speakers": [], "speed": "x"})
    many = refusal(list[int], ["x"] * 1000)

    assert few == (
        'data.title: required field is missing; data.speed: expected float, got "x" (str)'
    )
    assert many.count("expected int") == 5
    assert many.endswith("; and more")


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
    data: dict[str, Any] = {"title": "t", "speakers": []}
    for _ in range(5000):
        data = {"title": "t", "speakers": [], "part": data}

    message = refusal(Course, data)

    assert message == "data: nested too deeply"


def test_what_post_init_raises_is_told_and_kept_as_the_cause() -> None:
    """A dataclass that refuses its values is an invalid payload, its own error the cause."""
    with pytest.raises(InvalidPayload) as caught:
        validator(dict[str, Checked])({"a": {"speed": -1.0}})

    assert str(caught.value) == "data.a: speed must be positive (ValueError)"
    assert isinstance(caught.value.__cause__, ValueError)


def test_typed_dict_keeps_the_keys_it_names() -> None:
    """Required, NotRequired and total are honoured though the annotations are text."""
    validate = validator(Request)

    taken = validate({"text": "t", "count": 1, "speed": 1, "unknown": 2})

    assert taken == {"text": "t", "count": 1, "speed": 1.0}
    assert refusal(Request, {"note": 3}) == (
        "data.note: expected str, got 3 (int); data.text: required field is missing; "
        "data.count: required field is missing"
    )


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
    result = validator(annotation)(value)

    assert result == taken
    assert type(result) is type(taken)


def test_union_of_objects_tells_what_is_wrong_with_the_one_that_was_meant() -> None:
    """The member whose tag fits is the one whose problems are told."""
    message = refusal(Circle | Square, {"tag": "square", "side": "wide"})

    assert message == 'data.side: expected float, got "wide" (str)'
    assert refusal(Circle | Square, 3) == (
        "data: expected an object (Circle) or an object (Square), got 3 (int)"
    )
    assert refusal(int | None, "x") == 'data: expected int or null, got "x" (str)'


def test_literal_does_not_take_true_for_one() -> None:
    """Python's 1 == True makes no Literal or Enum of a bool."""
    assert "expected 1 (int), got true" in refusal(Literal[1], True)  # noqa: FBT003
    assert "got true" in refusal(Level, True)  # noqa: FBT003
    assert validator(Level)(5.0) is Level.N5


def test_set_of_lists_is_refused_at_the_job() -> None:
    """Items that can't be in a set are a problem of the data, not a TypeError."""
    assert "to make a set" in refusal(set[Any], [[1]])


def test_msgspec_struct_is_checked_by_msgspec() -> None:
    """A Struct's own names, bounds and rules hold, its errors in this library's words."""
    line = validator(Line)({"spokenText": "hi", "pauses": [1], "byName": {"a": 1}})

    assert line == Line("hi", [1.0], {"a": 1})
    assert refusal(Line, {}) == "data.spokenText: required field is missing"
    assert refusal(Line, {"spokenText": 3}) == "data.spokenText: expected str, got 3 (int)"
    assert refusal(list[Line], [{"spokenText": "", "pauses": [1, "x"]}]) == (
        'data[0].pauses[1]: expected float, got "x" (str)'
    )
    assert refusal(Line, {"spokenText": "", "byName": {"a b": "x"}}) == (
        "data.byName[…]: expected int, got str"
    )
    assert refusal(Line, None) == "data: expected object, got null"
    assert refusal(StrictStruct, {"count": 0}) == "data.count: expected int >= 1, got 0 (int)"
    assert refusal(StrictStruct, {"cuont": 0}) == "data.cuont: unknown field"
    assert refusal(StrictStruct, {"count": 13}).startswith("data: not thirteen")
    assert refusal(StrictStruct, {"count": 14}) == "data: 'fourteen' (KeyError)"


def test_pydantic_model_is_checked_by_pydantic() -> None:
    """A model's aliases, validators and settings hold, its errors in this library's words."""
    model = validator(Model)({"speed": 1, "jlptLevel": 3, "when": "2026-01-02T03:04:05Z"})

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
    assert refusal(dict[str, Model], {"a": 3}).startswith("data.a: expected a valid dictionary")


def test_pydantic_dataclass_is_checked_by_pydantic() -> None:
    """A pydantic dataclass has pydantic's rules, not those of a plain dataclass."""
    card = validator(Card)({"width": 3})

    assert card.width == 3
    assert refusal(Card, {"width": 0}) == "data.width: expected greater than 0, got 0 (int)"


@pytest.mark.parametrize("annotation", [Any, object, inspect.Parameter.empty])
def test_no_annotation_passes_data_through(annotation: object) -> None:
    """Any and object take everything as it is."""
    data = {"a": [1, None]}

    assert validator(annotation)(data) is data


def test_annotations_that_cannot_be_checked_are_refused_at_registration() -> None:
    """A field that JSON can't fill is a ConfigurationError that names the field."""

    @dataclasses.dataclass
    class Blob:
        content: bytes

    @dataclasses.dataclass
    class Secret:
        key: dataclasses.InitVar[str]

    @dataclasses.dataclass
    class Outer:
        blobs: list[Blob]

    class Tree(TypedDict):
        leaf: complex

    class Odd(enum.Enum):
        A = (1, 2)

    class Unknown(msgspec.Struct):
        field: Nowhere  # type: ignore[name-defined] # noqa: F821

    class Incomplete(pydantic.BaseModel):
        field: Nowhere  # type: ignore[name-defined] # noqa: F821

    refusals: list[tuple[object, str]] = [
        (Blob, "Blob.content: can't validate bytes"),
        (Outer, "Blob.content: can't validate bytes"),
        (Secret, "Secret.key: can't validate an InitVar"),
        (Tree, "Tree.leaf: can't validate complex"),
        (Odd, "data: can't validate Odd"),
        (dict[int, str], "data: can't validate dict[int, str]: keys in JSON are text"),
        (list.__class_getitem__(T), "data[]: can't validate ~T"),
        (Unknown, "data: can't validate Unknown: name 'Nowhere'"),
        (Incomplete, "data: can't validate Incomplete"),
        ("Blob", "data: can't validate Blob"),
        (3, "data: can't validate 3"),
        (Literal[b"x"], "can't validate"),
    ]
    for annotation, part in refusals:
        with pytest.raises(ConfigurationError) as caught:
            validator(annotation)

        assert part in str(caught.value)


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

    tree = validator(Tree)({"leaves": [{"size": 1}], "below": {"leaves": []}})
    model = validator(Model)({"leaf": {"size": 2}})

    assert tree == Tree([Leaf(1)], Tree([]))
    assert model.leaf.size == 2


def test_aliases_and_backported_forms_are_understood() -> None:
    """typing_extensions' ReadOnly, TypedDict and type aliases are read like typing's."""

    class Fixed(typing_extensions.TypedDict):
        name: typing_extensions.ReadOnly[str]
        size: typing_extensions.ReadOnly[NotRequired[int]]

    ids = typing_extensions.TypeAliasType("ids", list[int])

    assert validator(Fixed)({"name": "x"}) == {"name": "x"}
    assert validator(dict.__class_getitem__((str, ids)))({"a": [1]}) == {"a": [1]}


def test_unresolved_field_annotation_names_class_and_name() -> None:
    """A dataclass field of an unknown type is a ConfigurationError that names it."""
    broken = dataclasses.make_dataclass("broken", [("field", "Nowhere")])

    with pytest.raises(ConfigurationError, match=r"broken: .*'Nowhere' is not defined"):
        validator(broken)


# payload_annotation


def test_annotation_of_the_first_parameter_is_found() -> None:
    """Job[T] gives T, whatever kind of callable the handler is."""

    async def asynchronous(job: Job[Course]) -> Nowhere:  # type: ignore[name-defined] # noqa: F821
        ...

    def bare(job: Job) -> None: ...  # type: ignore[type-arg]

    def unannotated(job, other: int = 1) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001

    def generic(job: Job[T]) -> None: ...

    def wrapped_in_annotated(job: Annotated[Job[int], "x"]) -> None: ...

    @functools.wraps(asynchronous)
    def wrapper(*args: Any) -> Any: ...

    class Handler:
        def method(self, job: Job[list[Pause]]) -> None: ...

        def __call__(self, job: Job[Line]) -> None: ...

    class AnyJob(Protocol):
        data: Any

    def structural(job: AnyJob) -> None: ...

    expected: list[tuple[Callable[..., Any], object]] = [
        (asynchronous, Course),
        (bare, Any),
        (unannotated, Any),
        (generic, Any),
        (wrapped_in_annotated, int),
        (wrapper, Course),
        (Handler().method, list[Pause]),
        (Handler(), Line),
        (functools.partial(asynchronous), Course),
        (structural, Any),
        (lambda *jobs: None, Any),  # noqa: ARG005
    ]
    found = [payload_annotation(function, Job) for function, _ in expected]

    assert found == [annotation for _, annotation in expected]


def test_local_and_closed_over_names_are_resolved() -> None:
    """A payload class defined in a test or a factory is found, called from it or later."""

    @dataclasses.dataclass
    class Local:
        size: int

    def local(job: Job[Local]) -> None: ...

    def factory() -> Callable[..., Any]:
        @dataclasses.dataclass
        class Inner:
            size: int

        def closed_over(job: Job[Inner]) -> Inner:  # noqa: ARG001
            return Inner(1)

        return closed_over

    assert payload_annotation(local, Job) is Local
    assert payload_annotation(factory(), Job).__name__ == "Inner"  # type: ignore[attr-defined]


def test_job_itself_may_be_imported_for_checkers_only() -> None:
    """`Job` under `if TYPE_CHECKING`, where linters move it, is no obstacle."""
    namespace: dict[str, Any] = {"__name__": "elsewhere", "Course": Course}
    exec("def handler(job: 'Job[Course]'): ...", namespace)  # noqa: S102

    assert payload_annotation(namespace["handler"], Job) is Course


def test_names_not_yet_assigned_are_no_obstacle() -> None:
    """A handler that closes over a name assigned later is read without it."""

    def handler(job: Job[Course]) -> int:  # noqa: ARG001
        return later

    annotation = payload_annotation(handler, Job)
    later = 1

    assert (annotation, handler(Job())) == (Course, later)


def test_annotations_that_are_no_job_are_refused() -> None:
    """What can't be a handler's first parameter is told, function and annotation named."""

    def unresolved(job: Job[OnlyForCheckers]) -> None: ...

    def not_a_job(data: Course) -> None: ...

    def no_parameter() -> None: ...

    class NoFunction:
        __call__ = functools.partial(no_parameter)
        __signature__ = inspect.signature(not_a_job)

    def keyword_only(*, job: Job[int]) -> None: ...

    refusals: list[tuple[Callable[..., Any], str]] = [
        (unresolved, "unresolved: can't resolve the annotation 'Job[OnlyForCheckers]'"),
        (not_a_job, "not_a_job: data is annotated as Course; expected Job[...]"),
        (no_parameter, "no_parameter: expected a first parameter that takes the job"),
        (NoFunction(), "expected a function, or an object with a __call__"),
        (keyword_only, "keyword_only: expected a first parameter that takes the job"),
    ]
    for function, part in refusals:
        with pytest.raises(ConfigurationError) as caught:
            payload_annotation(function, Job)

        assert part in str(caught.value)


# encode_json


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("é\u2028\x7f\n", '"é\u2028\x7f\\n"'),
        ({"a": [1, 2.5, None, "x"]}, '{"a":[1,2.5,null,"x"]}'),
        ((1, (2,)), "[1,[2]]"),
        (Pause.LONG, '"long"'),
        ({"level": Level.N4, Pause.SHORT: 1}, '{"level":4,"short":1}'),
        (Speaker("A"), '{"name":"A","voice":null}'),
        ([Line("hi", [1.5])], '[{"spokenText":"hi","pauses":[1.5],"byName":{}}]'),
        (Voice(name="A"), '{"name":"A"}'),
        (Card(width=1), '{"width":1}'),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05Z"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (time(3, 4), '"03:04:00"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (2**53 - 1, "9007199254740991"),
        (1.0, "1.0"),
    ],
)
def test_results_are_written_as_node_would(value: object, text: str) -> None:
    """What a handler may return is compact JSON, text unescaped."""
    assert encode_json(value) == text


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ({"items": [0, {"id": 2**53}]}, ("result.items[1].id:", "send it as text", "(int)")),
        ([-(2**53)], ("result[0]:", "±(2**53 - 1)")),
        (Level(5) + 2**60, ("result:",)),
        ([10**5000], ("result[0]: expected an int within",)),
        ((2**53, 1), ("result[0]:", "send it as text")),
        ({"a": math.nan}, ("result.a: expected a finite number, got nan",)),
        ([Speaker("A"), -math.inf], ("result[1]:", "got -inf")),
        ({"a b": b"x" * 999}, ('result["a b"]: expected text (bytes', "(bytes)")),
        ([{1}], ("result[0]: expected a list (a set has no order)",)),
        ({1: 2}, ("result: expected keys that are text, got 1 (int)",)),
        ({"a": {None: 2}}, ("result.a: expected keys that are text, got null",)),
        ({"a": ["\ud83d"]}, ("result.a[0]: expected text without a lone surrogate",)),
        ({"\ud83d": 1}, ("result: expected text without a lone surrogate",)),
        (object, ("result: expected a JSON value, got", "(type)")),
        ({"a": print}, ("result.a: expected a JSON value",)),
        (Speaker, ("result: expected a JSON value",)),
        ([Line("x", by_name={"a": 2**60})], ("result[0].byName.a:",)),
        (Line(b"x"), ("result.spokenText: expected text (bytes",)),  # type: ignore[arg-type]
        (Line(print), ("result: can't be written by msgspec",)),  # type: ignore[arg-type]
        (Voice.model_construct(name=print), ("result: can't be written by pydantic",)),
    ],
)
def test_refused_results_name_place_expected_and_found(
    value: object, parts: tuple[str, ...]
) -> None:
    """A result that is not JSON is an InvalidResult that says where, and what it is."""
    with pytest.raises(InvalidResult) as caught:
        encode_json(value)

    message = str(caught.value)
    assert all(part in message for part in parts)
    assert len(message.encode()) < 300


def test_circular_and_deep_results_are_refused() -> None:
    """A value inside itself is told with its place; one that is only deep, as that."""
    circular: dict[str, Any] = {"name": "x"}
    circular["part"] = [circular]
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    shared = ["x"]

    with pytest.raises(InvalidResult, match=r"progress\.part\[0\]: .* not inside itself"):
        encode_json(circular, "progress")
    with pytest.raises(InvalidResult, match="^result: nested too deeply$"):
        encode_json(deep)
    assert encode_json((shared, shared)) == '[["x"],["x"]]'


# Properties

SAFE = 2**53 - 1
TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    [*(field.name for field in dataclasses.fields(Course)), "text", "spokenText", "tag", "side"]
)
# Half of the names are known ones, so that the checks below them are reached.
SHAPED = st.recursive(
    JSON
    | st.sampled_from(["square", "long", "2026-01-02", "\ud800", 5.0, 10**400, 1e308, math.inf]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | TEXT, inner, max_size=6),
    max_leaves=20,
)
VALIDATORS = {
    str(annotation): validator(annotation)
    for annotation in (
        Course,
        Request,
        Line,
        Model,
        Card,
        Circle | Square | Line | None,
        dict[Pause, Level] | list[Checked],
        set[Any],
        tuple[datetime | int, str],
        list[date | time | uuid.UUID | float],
    )
}


@settings(deadline=None)
@given(value=JSON)
def test_any_json_value_survives_the_round_trip(value: object) -> None:
    """What is written is read back equal, and is what Python's own json reads too."""
    text = encode_json(value)

    assert decode_data(text) == value
    assert decode_data(text.encode()) == value
    assert json.loads(text) == value


def message_of(function: Callable[[Any], object], value: object, error: type[Exception]) -> str:
    """Give the message of the error that a call raises, or nothing; any other error flies."""
    try:
        function(value)
    except error as caught:
        return str(caught)
    return ""


@settings(deadline=None)
@given(text=st.binary() | st.text() | TEXT.map(lambda text: f'{{"a":{text}}}'))
def test_decode_reads_or_refuses_whatever_comes(text: str | bytes) -> None:
    """Garbage is decoded or is an InvalidPayload that can be written as UTF-8."""
    message = message_of(decode_data, text, InvalidPayload)

    assert len(message.encode()) < 400


@pytest.mark.parametrize("name", VALIDATORS)
@settings(deadline=None)
@given(value=SHAPED)
def test_validators_take_or_refuse_whatever_comes(name: str, value: object) -> None:
    """A validator raises InvalidPayload or nothing, its message short and valid UTF-8."""
    message = message_of(VALIDATORS[name], value, InvalidPayload)

    assert message == "" or message.startswith("data")
    assert len(message.encode()) < 4000


@settings(deadline=None)
@given(value=st.recursive(SHAPED | st.binary() | st.sets(st.integers()) | st.uuids(), st.lists))
def test_encode_writes_utf8_or_refuses(value: object) -> None:
    """Whatever is returned is written as UTF-8, or is an InvalidResult."""
    message = message_of(lambda value: encode_json(value).encode(), value, InvalidResult)

    assert len(message.encode()) < 1000


def test_importing_payloads_imports_neither_msgspec_nor_pydantic() -> None:
    """A cold start pays only for the libraries whose types are used."""
    code = "import sys, convolab_worker.payloads.codec as p; p.validator(dict[str, int])({'a': 1})"

    listing = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert not {"msgspec", "pydantic"} & set(listing)
