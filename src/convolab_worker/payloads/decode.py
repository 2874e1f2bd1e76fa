"""Reads the JSON of a job's data and checks it against the handler's annotation.

msgspec reads what it can check, straight from the bytes; pydantic reads its own models and the
types that msgspec refuses. docs/handlers.md has the rules.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from convolab_worker.errors import InvalidPayload, InvalidResult
from convolab_worker.payloads.annotation import (
    is_anything,
    is_more_than_its_fields,
    resolve_local_classes,
)
from convolab_worker.payloads.problems import (
    ABSENT,
    find,
    printable,
    quote,
    refused,
    short_path,
    show,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EXCERPT = 20
"""How many characters before and after an error its message shows."""

_read_anything = msgspec.json.Decoder().decode


class _NotANumberError(ValueError):
    """The text has NaN or Infinity, which Python's json accepts and JSON.parse does not."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotANumberError(name)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def decoder(annotation: object) -> Callable[[bytes], Any]:
    """Compile an annotation into a function that reads, checks and converts a job's data.

    The function raises InvalidPayload, which names the place from ``data`` on. An annotation that
    can't be checked raises ConfigurationError here.
    """
    return _compiled(annotation, as_written=False)


def result_decoder(annotation: object) -> Callable[[bytes], Any]:
    """Compile an annotation into a function that reads a result as ``encode_json`` has written it.

    The function raises InvalidResult, which names the place from ``result`` on. An annotation that
    can't be checked raises ConfigurationError here.
    """
    read = _compiled(annotation, as_written=True)

    def decode(raw: bytes) -> Any:
        try:
            return read(raw)
        except InvalidPayload as error:
            problems = [part.removeprefix("data") for part in str(error).split("; data")]
            raise InvalidResult("; ".join(f"result{problem}" for problem in problems)) from error

    return decode


def _compiled(annotation: object, *, as_written: bool) -> Callable[[bytes], Any]:
    if is_anything(annotation):
        return decode_data
    resolve_local_classes(annotation)
    refusal = msgspec_refusal(annotation)
    if refusal is not None:
        from convolab_worker.payloads import pydantic_types  # most handlers need no pydantic

        return pydantic_types.decoder(annotation, refusal, decode_data, as_written=as_written)
    read = msgspec.json.Decoder(annotation).decode

    def decode(raw: bytes) -> Any:
        try:
            return read(raw)
        except Exception:  # noqa: BLE001 - a __post_init__ may raise anything
            return _second_look(raw, annotation)

    return decode


def decode_data(text: str | bytes) -> Any:
    """Return the value that the JSON text of a job's data means.

    It differs from ``JSON.parse`` in one way: an integer of any size stays exact. Raises
    InvalidPayload, with the position and an excerpt, for text that is not JSON, for text that
    nests too deeply, and for bytes that are not UTF-8.
    """
    try:
        return _read_anything(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # Unlike msgspec, JSON.parse takes lone surrogates and 1e400; and msgspec shows no excerpt.
        return _decode_slowly(text)


def _decode_slowly(text: str | bytes) -> Any:
    document = ""
    try:
        document = text.decode() if isinstance(text, bytes) else text
        return _decoder.decode(document)
    except UnicodeDecodeError as error:
        near = error.object[max(error.start - _EXCERPT, 0) : error.start + _EXCERPT]
        what = f"{error.reason} at byte {error.start}, near {near!r}"
        msg = f"data: expected UTF-8, got {what}"
        raise InvalidPayload(msg) from None
    except json.JSONDecodeError as error:
        raise _not_json(error.msg, error.doc, error.pos) from None
    except _NotANumberError as error:
        problem = f"{error} is not a number in JSON"
        raise _not_json(problem, document, _first_constant(document)) from None
    except RecursionError:
        msg = "data: nested too deeply"
    except ValueError:
        msg = "data: expected JSON, got a number of thousands of digits"
    raise InvalidPayload(msg) from None


def _not_json(problem: str, document: str, position: int) -> InvalidPayload:
    near = quote(document[max(position - _EXCERPT, 0) : position + _EXCERPT])
    msg = f"data: expected JSON, got: {problem} at position {position}, near {near}"
    return InvalidPayload(printable(msg))


def _first_constant(document: str) -> int:
    """Return where the first NaN or Infinity outside text is; all before it is JSON."""
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)', document):
        if match[1]:
            return match.start()
    return 0


def msgspec_refusal(annotation: Any) -> str | None:
    """Say why msgspec can't check an annotation; None if it can."""
    try:
        msgspec.json.Decoder(annotation)
        for node in nodes(msgspec.inspect.type_info(annotation), set()):
            cls = getattr(node, "cls", None)
            if isinstance(node, msgspec.inspect.CustomType):
                return f"{cls!r} is not one of its types"
            if hasattr(cls, "__is_pydantic_dataclass__"):
                return f"{cls!r} is pydantic's"
            if isinstance(node, msgspec.inspect.DataclassType) and is_more_than_its_fields(cls):
                return f"{cls!r} has an __init__ of its own, or a field with init=False"
    except Exception as error:  # noqa: BLE001 - resolving an annotation runs the user's code
        return str(error)
    return None


def nodes(node: Any, seen: set[int]) -> Iterator[Any]:
    """Yield msgspec's description of a type, and of all types in it."""
    if isinstance(node, tuple | list):
        for part in node:
            yield from nodes(part, seen)
    elif isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field) and id(node) not in seen:
        seen.add(id(node))
        yield node
        for name in node.__struct_fields__:
            if name not in ("default", "default_factory"):
                yield from nodes(getattr(node, name), seen)


def _second_look(raw: bytes, annotation: Any) -> Any:
    """Read again, slowly, what msgspec refused: as JSON.parse would, or to say what is wrong.

    Raises InvalidPayload for what does not fit.
    """
    value = _decode_slowly(raw)
    try:
        return _converted(value, annotation)
    except msgspec.ValidationError as error:
        raise InvalidPayload(_told(error, value, annotation)) from error.__cause__ or error
    except RecursionError:
        msg = "data: nested too deeply"
        raise InvalidPayload(msg) from None
    except Exception as error:
        raise refused(error) from error


def _converted(value: Any, annotation: Any) -> Any:
    return msgspec.convert(value, annotation, strict=True, str_keys=True)


def _told(error: msgspec.ValidationError, value: Any, annotation: Any) -> str:
    """Put msgspec's problem in our words, with the value that was found, if it is there."""
    message = str(error)
    text, _, place = message.partition(" - at `")
    keys = [
        int(index) if index else name or None
        for name, index in re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]|\[\.\.\.\]", place)
    ]
    while None in keys:
        keys[keys.index(None)] = _key_of(keys, message, value, annotation)
    path = "data" + "".join("[…]" if key is ABSENT else step(key) for key in keys)
    if field := re.fullmatch(r"Object (missing required|contains unknown) field `(.*)`", text):
        problem = "unknown field" if "unknown" in field[1] else "required field is missing"
        return printable(f"{short_path(path + step(field[2]))}: {problem}")
    if error.__cause__ is not None:
        # The message of an error that the user's __post_init__ raised.
        return printable(f"{short_path(path)}: {text[:300]}")
    text = text.replace("`", "")
    if text.startswith("Invalid enum value"):
        text = f"expected one of the allowed values, got {text[19:]}"
    found = find(value, keys)
    if place.startswith("key`"):
        path += " (key)"
    elif found is not ABSENT:
        text = f"{text.partition(', got ')[0]}, got {show(found)}"
    return printable(f"{short_path(path)}: {text[:1].lower()}{text[1:300]}")


def _key_of(keys: list[Any], message: str, value: Any, annotation: Any) -> Any:
    """Find the first wrong key, which msgspec does not tell, by halving the dict that has it."""
    items = find(value, keys[: keys.index(None)])
    if not isinstance(items, dict):
        return ABSENT

    def is_among(part: list[tuple[str, Any]]) -> bool:
        items.clear()
        items.update(part)
        return _problem(value, annotation) == message

    everything = list(items.items())
    suspects = everything
    while len(suspects) > 1:
        half = len(suspects) // 2
        suspects = suspects[:half] if is_among(suspects[:half]) else suspects[half:]
    is_found = is_among(suspects)
    items.clear()
    items.update(everything)
    return suspects[0][0] if is_found else ABSENT


def _problem(value: Any, annotation: Any) -> str:
    try:
        _converted(value, annotation)
    except Exception as error:  # noqa: BLE001 - a __post_init__ may raise anything
        return str(error)
    return ""
