"""Checks payloads against annotations, which are compiled once into functions.

The rules are the same whether or not msgspec or pydantic is installed:

- Strict: text is never read as a number, a bool is not an int, null is only itself.
- JSON has one number type: where a float is expected, an int becomes a float; where an int is
  expected, a float without a fraction within ±(2**53 - 1) becomes an int.
- Fields that the annotation does not name are ignored, since producers add fields first;
  a TypedDict holds only the keys that it names.
- datetime, date, time and UUID come from text (ISO 8601, or the UUID's usual form).
- Of a union's members that accept the value's kind of JSON, the first that fits is used;
  for a number, the member of exactly its type comes first.
- The metadata of ``Annotated`` is ignored. msgspec and pydantic check their own types, with
  everything that those declare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError, InvalidPayload
from convolab_worker.payloads.validation.compiler import compile_plan
from convolab_worker.payloads.validation.problems import Problems
from convolab_worker.payloads.validation.scalars import same

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["validator"]


def validator(annotation: object) -> Callable[[Any], Any]:
    """Compile the annotation of a job's data into a function that checks and converts.

    The function gets a decoded JSON value and returns what the annotation names, or raises
    InvalidPayload with up to five problems, each with its path from ``data``. Raises
    ConfigurationError for an annotation that can't be checked.
    """
    try:
        check = compile_plan(annotation, "data", {}).check
    except RecursionError:
        msg = f"data: can't validate {annotation!r}: a type alias that contains itself"
        raise ConfigurationError(msg) from None
    if check is same:
        return same

    def validate(value: Any) -> Any:
        try:
            result = check(value)
        except RecursionError:
            msg = "data: nested too deeply"
            raise InvalidPayload(msg) from None
        if result.__class__ is Problems:
            raise InvalidPayload(result.message("data")) from result.cause
        return result

    return validate
