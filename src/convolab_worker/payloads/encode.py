"""Writes a handler's result, a job's data or its progress as JSON that Node reads as it was meant.

Nothing is coerced in silence. A value may hold None, bool, int, float, str, lists, tuples (as
arrays) and mappings with text keys, and also

- dataclass instances (all their fields), msgspec Structs and pydantic models (as their
  libraries write them), and Enum members (their values);
- datetime, date and time as ISO 8601 text: UTC with a final ``Z`` as JavaScript writes it,
  a naive datetime without an offset; and UUIDs as text.

Refused, with the place named: an int beyond ±(2**53 - 1), which JavaScript would round;
NaN and infinities; bytes; sets; keys that are not text; lone surrogates; anything else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import date, datetime, time
from enum import Enum
from math import isfinite
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import InvalidResult
from convolab_worker.payloads.validation.names import loaded
from convolab_worker.payloads.validation.problems import printable, show, step, unexpected
from convolab_worker.payloads.validation.scalars import SAFE_INTEGER

if TYPE_CHECKING:
    from collections.abc import Callable

_PLAIN = frozenset({str, float, bool, type(None)})

_write = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode


def encode_json(value: Any, what: str = "result") -> str:
    """Return a value as JSON text, written as Node writes it; the module says what is accepted.

    ``what`` names the value in messages: ``result.items[3]``. Raises InvalidResult for a value
    that JSON can't hold.
    """
    try:
        return _encoded(value, what)
    except RecursionError:
        msg = f"{what}: nested too deeply"
        raise InvalidResult(msg) from None


def _encoded(value: Any, what: str) -> str:
    try:
        plain = _is_plain(value)
    except RecursionError:
        plain = False
    if not plain:
        # This finds the place of what is refused, and a value inside itself.
        value = _plain(value, what, set())
    try:
        text = _write(value)
        if not text.isascii():
            text.encode()
    except ValueError as error:
        # NaN, an infinity or a lone surrogate. They are rare, so only now is the place looked for.
        _plain(value, what, set())
        msg = f"{what}: {error}"
        raise InvalidResult(msg) from None
    return text


def _is_plain(value: Any) -> bool:
    """Return whether json writes a value as it is meant; text and floats are checked afterwards.

    These are loops and not all(...), since this runs for every result and a generator doubles
    its cost.
    """
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is int:
        return bool(-SAFE_INTEGER <= value <= SAFE_INTEGER)
    items = value
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is not list:
        return False
    for item in items:  # noqa: SIM110
        if type(item) not in _PLAIN and not _is_plain(item):
            return False
    return True


def _plain(value: Any, path: str, around: set[int]) -> Any:
    """Rebuild a value from what json writes as it is meant, or raise with the place.

    ``around`` has the ids of the objects that contain this one.
    """
    if isinstance(value, Enum):
        return _plain(value.value, path, around)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int | float):
        return _number(value, path)
    if isinstance(value, datetime | date | time):
        text = value.isoformat()
        return f"{text.removesuffix('+00:00')}Z" if text.endswith("+00:00") else text
    if id(value) in around:
        raise _invalid(path, "a value that is not inside itself", value)
    around.add(id(value))
    opened = _opened(value, path)
    if isinstance(opened, Mapping):
        result: Any = {
            _key(key, path): item if _is_scalar(item) else _plain(item, path + step(key), around)
            for key, item in opened.items()
        }
    elif isinstance(opened, list | tuple):
        result = [
            item if _is_scalar(item) else _plain(item, path + step(index), around)
            for index, item in enumerate(opened)
        ]
    else:
        result = opened
    around.discard(id(value))
    return result


def _is_scalar(value: Any) -> bool:
    """Return whether a part needs no check and so no path, which is what costs most."""
    kind = type(value)
    if kind is str:
        return bool(value.isascii())
    if kind is int:
        return bool(-SAFE_INTEGER <= value <= SAFE_INTEGER)
    return value is None or kind is bool or (kind is float and isfinite(value))


def _opened(value: Any, path: str) -> Any:
    """Turn an object that is more than JSON into a mapping, a list or text."""
    if isinstance(value, Mapping | list | tuple):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for module, name, dump in _DUMPS:
        known = loaded(module, name)
        if known is not None and isinstance(value, known):
            try:
                return dump(value)
            except RecursionError:
                raise
            except Exception as error:
                msg = f"{path}: can't be written by {module}: {error}, got {show(value)}"
                raise InvalidResult(printable(msg)) from error
    expected = "a JSON value"
    if isinstance(value, bytes | bytearray | memoryview):
        expected = "text (bytes are not JSON; base64 or a URL is)"
    elif isinstance(value, set | frozenset):
        expected = "a list (a set has no order)"
    raise _invalid(path, expected, value)


def _dump_struct(value: Any) -> Any:
    # Bytes stay bytes, and are refused afterwards: msgspec would write them as base64.
    return loaded("msgspec", "to_builtins")(
        value, builtin_types=(bytes, bytearray, memoryview), order=None
    )


def _dump_model(value: Any) -> Any:
    return value.model_dump(mode="json")


_DUMPS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("msgspec", "Struct", _dump_struct),
    ("pydantic", "BaseModel", _dump_model),
    ("uuid", "UUID", str),
)


def _key(key: Any, path: str) -> str:
    name = key.value if isinstance(key, Enum) else key
    if not isinstance(name, str):
        raise _invalid(path, "keys that are text", key)
    return _text(name, path)


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"text without a lone surrogate (at {error.start})"
        raise _invalid(path, what, value) from None
    return value


def _number(value: float, path: str) -> float:
    if isinstance(value, int):
        if abs(value) > SAFE_INTEGER:
            what = "an int within ±(2**53 - 1), which JavaScript keeps exactly (send it as text)"
            raise _invalid(path, what, value)
    elif not isfinite(value):
        raise _invalid(path, "a finite number", value)
    return value


def _invalid(path: str, expected: str, value: object) -> InvalidResult:
    return InvalidResult(unexpected(expected, value).message(path))
