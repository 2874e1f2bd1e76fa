"""Results as JSON: what is written, what is refused, and what the messages say."""

from __future__ import annotations

import dataclasses
import json
import math
import uuid
from collections import UserDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given, settings, strategies as st

from convolab_worker.errors import InvalidResult
from convolab_worker.payloads.decode import decode_data
from convolab_worker.payloads.encode import encode_json
from tests.support.payloads import (
    JSON,
    SHAPED,
    Card,
    Level,
    Line,
    Pause,
    Speaker,
    Voice,
    message_of,
)


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Ratio(float):
    pass


@dataclasses.dataclass
class Shown:
    """A dataclass with a field that only the class has a value for."""

    made: str = dataclasses.field(init=False, default="here")
    _hidden: int = 1


@dataclasses.dataclass
class Computed:
    """A dataclass whose field is a property."""

    half: int

    @property  # type: ignore[no-redef]
    def half(self) -> int:
        """What was given, halved."""
        return self._given // 2

    @half.setter
    def half(self, given: int) -> None:
        self._given = given


@dataclasses.dataclass(slots=True)
class Slotted:
    """A dataclass without a ``__dict__``."""

    text: str
    parts: list[Slotted] = dataclasses.field(default_factory=list)


class Loose(pydantic.BaseModel):
    """A model that takes anything."""

    anything: Any


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
        ([Slotted("x", [Slotted("\ud83d")])], ("result[0].parts[0].text: expected text without",)),
        ([Speaker(2**60)], ("result[0].name: expected an int within",)),  # type: ignore[arg-type]
        ([Speaker({"x"})], ("result[0].name: expected a list (a set",)),  # type: ignore[arg-type]
        ([Loose(anything=["\ud83d"])], ("result[0].anything[0]: expected text without",)),
        ([Number(1), Speaker("\ud83d")], ("result[1].name: expected text without",)),
        (Loose(anything=[math.inf]), ("result.anything[0]: expected a finite number",)),
        (Loose(anything=2**60), ("result.anything: expected an int within",)),
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


FIXED = st.sampled_from([None, UTC, timezone(timedelta(hours=2)), timezone(timedelta(seconds=90))])
ZONES = FIXED | st.just(ZoneInfo("Europe/London"))


@given(moment=st.datetimes(timezones=ZONES) | st.dates() | st.times(timezones=FIXED))
def test_dates_are_written_as_isoformat_writes_them(moment: datetime | date | time) -> None:
    """With a final Z for UTC; whichever way they are written."""
    expected = json.dumps(moment.isoformat().replace("+00:00", "Z"))

    assert encode_json(moment) == expected
    assert encode_json([moment]) == f"[{expected}]"
    assert encode_json([moment, Text("x")]) == f'[{expected},"x"]'


@pytest.mark.parametrize("extra", [[], [Text("x")]], ids=["at-once", "rebuilt"])
def test_objects_are_written_whichever_way_is_taken(extra: list[Any]) -> None:
    """A value that has to be rebuilt is written like one that has not."""
    values = [
        Shown(), Computed(6),
        Slotted("a", [Slotted("b")]), Speaker("A"), Line("hi"), Pause.LONG, (1, 2.5),
        Number(3), Ratio(0.5), Text("é"), uuid.UUID(int=1), UserDict(a=1),
    ]  # fmt: skip

    text = encode_json([*values, *extra])

    assert json.loads(text)[: len(values)] == [
        {"made": "here", "_hidden": 1},
        {"half": 3},
        {"text": "a", "parts": [{"text": "b", "parts": []}]},
        {"name": "A", "voice": None},
        {"spokenText": "hi", "pauses": [], "byName": {}},
        "long",
        [1, 2.5],
        3,
        0.5,
        "é",
        "00000000-0000-0000-0000-000000000001",
        {"a": 1},
    ]


@settings(deadline=None)
@given(value=JSON)
def test_any_json_value_survives_the_round_trip(value: object) -> None:
    """What is written is read back equal, and is what Python's own json reads too."""
    text = encode_json(value)

    assert decode_data(text) == value
    assert decode_data(text.encode()) == value
    assert json.loads(text) == value


@settings(deadline=None)
@given(value=st.recursive(SHAPED | st.binary() | st.sets(st.integers()) | st.uuids(), st.lists))
def test_encode_writes_utf8_or_refuses(value: object) -> None:
    """Whatever is returned is written as UTF-8, or is an InvalidResult."""
    message = message_of(lambda value: encode_json(value).encode(), value, InvalidResult)

    assert len(message.encode()) < 1000
