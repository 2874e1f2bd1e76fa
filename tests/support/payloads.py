"""Types of payloads, as applications write them, and values that may or may not fit."""

from __future__ import annotations

import dataclasses
import enum
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from typing import Annotated, Any, Literal, NewType, NotRequired, Required, TypedDict

import msgspec
import pydantic
import pydantic.dataclasses
from hypothesis import strategies as st

UserId = NewType("UserId", str)


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


def message_of(function: Callable[[Any], object], value: object, error: type[Exception]) -> str:
    """Give the message of the error that a call raises, or nothing; any other error flies."""
    try:
        function(value)
    except error as caught:
        return str(caught)
    return ""
