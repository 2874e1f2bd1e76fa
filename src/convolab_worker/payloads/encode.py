"""Writes a handler's result, a job's data or its progress as JSON that Node reads as it was meant.

Nothing is coerced in silence. A value may hold None, bool, int, float, str, lists, tuples (as
arrays) and mappings with text keys, and also

- dataclass instances (all their fields), msgspec Structs and pydantic models (as their
  libraries write them, under their aliases), and Enum members (their values);
- datetime, date and time as ISO 8601 text: UTC with a final ``Z`` as JavaScript writes it,
  a naive datetime without an offset; and UUIDs as text.

Refused, with the place named: an int beyond ±(2**53 - 1), which JavaScript would round;
NaN and infinities; bytes; sets; keys that are not text; lone surrogates; anything else.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from enum import Enum
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from convolab_worker.errors import InvalidResult
from convolab_worker.payloads import pydantic_models
from convolab_worker.payloads.problems import ABSENT, printable, short_path, show, step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SAFE_INTEGER = 2**53 - 1
"""The largest integer that JavaScript keeps exactly."""

_PLAIN = frozenset({str, bool, type(None), date, UUID})
_write = msgspec.json.Encoder().encode


class EncodedJson(msgspec.Struct, frozen=True):
    """A value that has been written as JSON already: in another process."""

    text: str

    def decoded(self) -> Any:
        return json.loads(self.text)


def byte_size(text: str) -> int:
    """How many bytes a text has as UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def encode_json(value: Any, what: str = "result") -> str:
    """Return a value as JSON text, written as Node writes it; the module says what is accepted.

    ``what`` names the value in messages: ``result.items[3]``. Raises InvalidResult for a value
    that JSON can't hold.
    """
    if type(value) is EncodedJson:
        return value.text
    return "null" if value is None else _encoded(value, what, to_be_read=False)


def encode_data(value: Any, what: str = "data") -> str:
    """Return a job's data as JSON text: as ``encode_json``, but under the names that handlers read.

    These differ for a pydantic model that has another ``validation_alias`` than
    ``serialization_alias``.
    """
    return _encoded(value, what, to_be_read=True)


def _encoded(value: Any, what: str, *, to_be_read: bool) -> str:
    try:
        if _is_plain(value):
            return _write(value).decode()
    except (RecursionError, TypeError, UnicodeEncodeError):
        # The walk below finds the place of a refused value, and a value that contains itself.
        pass
    try:
        rebuilt = _Rebuilding(to_be_read=to_be_read).plain(value, what)
        try:
            return _write(rebuilt).decode()
        except UnicodeEncodeError:
            rebuilding = _Rebuilding(to_be_read=to_be_read, thorough=True)
            return _write(rebuilding.plain(rebuilt, what)).decode()
    except RecursionError:
        msg = f"{what}: nested too deeply"
        raise InvalidResult(msg) from None


def _is_plain(value: Any) -> bool:
    """Say whether msgspec writes a value as it is meant; it refuses lone surrogates by itself.

    These are loops and not all(...), since this runs for every result and a generator doubles
    its cost.
    """
    kind: type = type(value)
    items: Iterable[Any]
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is list or kind is tuple:
        items = value
    elif parts := _parts_of(kind):
        items = parts(value)
    else:
        return _is_plain_scalar(value)
    for item in items:
        kind = type(item)
        is_plain = (
            kind in _PLAIN
            or (kind is int and -SAFE_INTEGER <= item <= SAFE_INTEGER)
            or (kind is float and isfinite(item))
            or _is_plain(item)
        )
        if not is_plain:
            return False
    return True


def _is_plain_to_the_end(value: Any) -> bool:
    try:
        return _is_plain(value)
    except RecursionError:
        return False


def _is_plain_scalar(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(-SAFE_INTEGER <= value <= SAFE_INTEGER)
    if kind is float:
        return isfinite(value)
    if kind is datetime or kind is time:
        return value.tzinfo is None or value.tzinfo is UTC
    return kind in _PLAIN


@lru_cache(maxsize=1024)
def _parts_of(kind: type) -> Callable[[Any], Iterable[Any]] | None:
    """Return how to get the parts that msgspec writes of an object; None for other values."""
    if issubclass(kind, msgspec.Struct):
        return msgspec.structs.astuple
    if issubclass(kind, Enum):
        return lambda member: (member.value,)
    is_more = issubclass(kind, (Mapping, list, tuple, str, int, float)) or kind is type
    if is_more or not dataclasses.is_dataclass(kind) or pydantic_models.is_model(kind):
        return None
    fields = dataclasses.fields(kind)
    if not all(field.init and _is_stored(kind, field.name) for field in fields):
        # msgspec leaves such a field out.
        return None
    names, count = [field.name for field in fields], len(fields)
    if hasattr(kind, "__slots__"):
        return lambda instance: [getattr(instance, name, ABSENT) for name in names]

    def attributes(instance: Any) -> Iterable[Any]:
        stored = instance.__dict__
        return stored.values() if len(stored) >= count else (ABSENT,)

    return attributes


def _is_stored(kind: type, name: str) -> bool:
    """Say whether instances have an attribute of their own, and no property of the class."""
    found = inspect.getattr_static(kind, name, None)
    return inspect.ismemberdescriptor(found) or not hasattr(type(found), "__set__")


class _Rebuilding:
    """Rebuilds a value from what msgspec writes as it is meant, or raises with the place."""

    def __init__(self, *, to_be_read: bool, thorough: bool = False) -> None:
        self._to_be_read = to_be_read
        self._thorough = thorough
        """Whether lone surrogates are looked for in all parts, which msgspec refuses by itself."""
        self._around: set[int] = set()
        """The ids of the objects that contain the present one."""

    def plain(self, value: Any, path: str) -> Any:
        if isinstance(value, Enum):
            return self.plain(value.value, path)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (str, int, float, datetime, date, time, UUID)):
            return _scalar(value, path)
        if id(value) in self._around:
            raise _invalid(path, "a value that is not inside itself", value)
        self._around.add(id(value))
        opened = self._opened(value, path)
        result: Any
        if opened is not value and not self._thorough and _is_plain_to_the_end(opened):
            result = opened
        elif isinstance(opened, Mapping):
            result = {_key(key, path): self._part(item, path, key) for key, item in opened.items()}
        elif isinstance(opened, list | tuple):
            result = [self._part(item, path, index) for index, item in enumerate(opened)]
        else:
            result = self.plain(opened, path)
        self._around.discard(id(value))
        return result

    def _part(self, item: Any, path: str, key: object) -> Any:
        kind = type(item)
        # The path costs most, and few parts need it.
        if (kind is str and item.isascii()) or (kind is not str and _is_plain_scalar(item)):
            return item
        return self.plain(item, path + step(key))

    def _opened(self, value: Any, path: str) -> Any:
        """Turn an object that is more than JSON into a mapping, a list or a single value."""
        if isinstance(value, Mapping | list | tuple):
            return value
        if isinstance(value, msgspec.Struct):
            return self._dumped(value, self._dump_struct, path, "msgspec")
        if not isinstance(value, type):
            kind: type = type(value)
            if pydantic_models.is_model(kind):
                return self._dumped(value, self._dump_model, path, "pydantic")
            if dataclasses.is_dataclass(value):
                return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        expected = "a JSON value"
        if isinstance(value, bytes | bytearray | memoryview):
            expected = "text (bytes are not JSON; base64 or a URL is)"
        elif isinstance(value, set | frozenset):
            expected = "a list (a set has no order)"
        raise _invalid(path, expected, value)

    def _dumped(self, value: Any, dump: Callable[[Any], Any], path: str, library: str) -> Any:
        try:
            return dump(value)
        except RecursionError:
            raise
        except Exception as error:
            msg = f"{path}: can't be written by {library}: {error}, got {show(value)}"
            raise InvalidResult(printable(msg)) from error

    def _dump_struct(self, value: Any) -> Any:
        # Bytes stay bytes, and are refused afterwards: msgspec would write them as base64.
        kept = (bytes, bytearray, memoryview)
        return msgspec.to_builtins(value, builtin_types=kept, enc_hook=self._dump_model)

    def _dump_model(self, value: Any) -> Any:
        kind: type = type(value)
        if not pydantic_models.is_model(kind):
            msg = f"{kind.__name__} is not one of its types"
            raise TypeError(msg)
        return pydantic_models.dump(value, to_be_read=self._to_be_read)


def _key(key: Any, path: str) -> str:
    name = key.value if isinstance(key, Enum) else key
    if not isinstance(name, str):
        raise _invalid(path, "keys that are text", key)
    return _text(name, path)


def _scalar(value: Any, path: str) -> Any:
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int | float):
        return _number(value, path)
    if isinstance(value, UUID):
        return str(value)
    text = value.isoformat()
    return f"{text.removesuffix('+00:00')}Z" if text.endswith("+00:00") else text


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"text without a lone surrogate (at {error.start})"
        raise _invalid(path, what, value) from None
    return value if type(value) is str else str.__str__(value)


def _number(value: float, path: str) -> float:
    if isinstance(value, int):
        if abs(value) > SAFE_INTEGER:
            what = "an int within ±(2**53 - 1), which JavaScript keeps exactly (send it as text)"
            raise _invalid(path, what, value)
        return int(value)
    if not isfinite(value):
        raise _invalid(path, "a finite number", value)
    return float(value)


def _invalid(path: str, expected: str, value: object) -> InvalidResult:
    return InvalidResult(printable(f"{short_path(path)}: expected {expected}, got {show(value)}"))
