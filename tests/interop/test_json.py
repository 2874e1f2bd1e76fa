"""JSON as Node reads it: the same texts are read, as the same values, and what we write is read."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from convolab_worker.errors import InvalidPayload
from convolab_worker.payloads.decode import decode_data, decoder
from convolab_worker.payloads.encode import encode_json
from tests.support.node import NodeScripts

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(NodeScripts.missing() is not None, reason=str(NodeScripts.missing())),
]

_NUMBERS = ["0", "-0", "7", "1.0", "-2.50", "1e3", "1E-2", "9007199254740993", "1" * 30, "1e400"]
_TEXTS = ['""', '"é\\n\\u00e9"', r'"\ud83d\ude00"', r'"\ud83d"', '"\u2028\x7f"', r'"\"\\\/"']
_KEYS = ['"a"', '"a"', '"1"', '"__proto__"', '"b c"', '"é"']
_WRONG = ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "0x1", "'a'", "undefined", '"\t"']
_BROKEN = ["", "[1,]", '{"a":1,}', "{a:1}", "[1 2]", "[1]]", "\ufeff1", "// x\n1", r'"\x41"', "tru"]


class Texts:
    """Makes up JSON texts; one in a few is not JSON."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one(self, depth: int = 0) -> str:
        """A value's text, with white space."""
        pick = self._random.random()
        if depth > 3 or pick < 0.5:
            plain = [*_NUMBERS, *_TEXTS, "true", "false", "null"]
            wrong = self._random.random() < 0.02
            return self._spaced(self._random.choice(_WRONG + _BROKEN if wrong else plain))
        parts = [self.one(depth + 1) for _ in range(self._random.randrange(4))]
        if pick < 0.75:
            return self._spaced(f"[{','.join(parts)}]")
        items = [f"{self._spaced(self._random.choice(_KEYS))}:{part}" for part in parts]
        return self._spaced(f"{{{','.join(items)}}}")

    def _spaced(self, text: str) -> str:
        return (
            f"{self._random.choice(['', '', ' ', chr(10)])}{text}{self._random.choice(['', ' '])}"
        )


def _read(text: str) -> Any:
    try:
        return decode_data(text.encode())
    except InvalidPayload:
        return InvalidPayload


def _as_node_keeps_it(value: Any) -> Any:
    """Numbers as JavaScript has them; what overflows is written as null."""
    if isinstance(value, dict):
        return {key: _as_node_keeps_it(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_node_keeps_it(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        return None if number in (float("inf"), float("-inf")) else number
    return value


async def test_a_thousand_texts_are_read_as_json_parse_reads_them() -> None:
    """Integers, which we keep exactly, as the numbers that they are in JavaScript."""
    made = Texts(seed=20261126)
    texts = [*_WRONG, *_BROKEN, *_NUMBERS, *_TEXTS, *(made.one() for _ in range(1000))]

    async with await NodeScripts().start("json.mjs") as node:
        answers = await node.ask("parse", texts=texts)

    theirs = [InvalidPayload if text is None else json.loads(text) for text in answers]
    ours = [_read(text) for text in texts]
    wrong = [
        (text, our, their)
        for text, our, their in zip(texts, ours, theirs, strict=True)
        if _as_node_keeps_it(our) != _as_node_keeps_it(their)
    ]
    assert wrong == []
    assert 50 < ours.count(InvalidPayload) < 500


async def test_what_a_typed_decoder_refuses_is_what_json_parse_refuses() -> None:
    """For a type that takes every value."""
    read = decoder(dict[str, Any] | list[Any] | str | int | float | bool | None)
    made = Texts(seed=7)
    texts = [made.one() for _ in range(300)]

    def is_taken(text: str) -> bool:
        try:
            read(text.encode())
        except InvalidPayload:
            return False
        return True

    async with await NodeScripts().start("json.mjs") as node:
        answers = await node.ask("parse", texts=texts)

    assert [is_taken(text) for text in texts] == [text is not None for text in answers]


async def test_node_reads_what_is_written() -> None:
    """Results of every kind, floats of every size among them, arrive as they were."""
    made = random.Random(3)

    class Item(msgspec.Struct, rename="camel"):
        some_number: float
        some_text: str

    values: list[Any] = [
        Item(made.uniform(-1, 1) * 10.0 ** made.randrange(-300, 300), chr(made.randrange(0xD7FF)))
        for _ in range(300)
    ]
    values += [2**53 - 1, -(2**53) + 1, 0.1, 1e21, 5e-324, 1.7976931348623157e308, "\U0001f600"]

    async with await NodeScripts().start("json.mjs") as node:
        answers = await node.ask("parse", texts=[encode_json(value) for value in values])

    theirs = [json.loads(text) for text in answers]
    assert _as_node_keeps_it(theirs) == _as_node_keeps_it(msgspec.to_builtins(values))
