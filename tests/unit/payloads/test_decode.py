"""The JSON text of a job's data: what is read, what is refused, and what the messages say."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings, strategies as st

from convolab_worker.errors import InvalidPayload
from convolab_worker.payloads.decode import decode_data
from tests.support.payloads import TEXT, message_of


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


@settings(deadline=None)
@given(text=st.binary() | st.text() | TEXT.map(lambda text: f'{{"a":{text}}}'))
def test_decode_reads_or_refuses_whatever_comes(text: str | bytes) -> None:
    """Garbage is decoded or is an InvalidPayload that can be written as UTF-8."""
    message = message_of(decode_data, text, InvalidPayload)

    assert len(message.encode()) < 400
