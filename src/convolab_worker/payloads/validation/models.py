"""Checks msgspec.Struct and pydantic models by their libraries, with messages in our words.

Neither library is imported here: a payload can only have one of their types if the application
has imported the library.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.validation.names import annotation_name, enclosing_names, loaded
from convolab_worker.payloads.validation.problems import (
    MOST_PROBLEMS,
    Problems,
    refused,
    show,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_MISSING = "required field is missing"
_UNKNOWN = "unknown field"
_ABSENT = object()


def model_check(annotation: Any, origin: type, where: str) -> Callable[[Any], Any] | None:
    """Return the check of a msgspec or pydantic type, whose class is ``origin``; else None."""
    struct = loaded("msgspec", "Struct")
    if struct is not None and issubclass(origin, struct):
        return _msgspec_check(annotation, where)
    model = loaded("pydantic", "BaseModel")
    if model is not None and issubclass(origin, model):
        return _pydantic_check(_completed(origin, where).model_validate)
    if hasattr(origin, "__is_pydantic_dataclass__"):
        return _pydantic_check(loaded("pydantic", "TypeAdapter")(annotation).validate_python)
    return None


def _msgspec_check(annotation: Any, where: str) -> Callable[[Any], Any]:
    convert, invalid = loaded("msgspec", "convert"), loaded("msgspec", "ValidationError")

    def check(value: Any) -> Any:
        try:
            return convert(value, annotation, strict=True, str_keys=True)
        except invalid as error:
            return _from_msgspec(error, value)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - __post_init__ may raise anything
            return refused(error)

    try:
        convert(None, annotation)
    except invalid:
        return check
    except Exception as error:
        raise _unresolved(annotation, where, error) from error
    return check


def _from_msgspec(error: Exception, value: Any) -> Problems:
    """Put msgspec's one problem into our words, and add the value where it can be found."""
    text, _, place = str(error).partition(" - at ")
    keys = [
        int(index) if index else name
        for name, index in re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]|\[\.\.\.\]", place)
    ]
    path = "".join(step(key) if key != "" else "[…]" for key in keys)
    if field := re.fullmatch(r"Object (missing required|contains unknown) field `(.*)`", text):
        return Problems([(path + step(field[2]), _UNKNOWN if "unknown" in text else _MISSING)])
    found = _at(value, keys)
    text = text.replace("`", "")
    text = text[:1].lower() + text[1:]
    if found is not _ABSENT and not place.startswith("`key`"):
        text = f"{text.partition(', got ')[0]}, got {show(found)}"
    problems = Problems([(path, text)])
    problems.cause = error.__cause__
    return problems


def _at(value: Any, keys: list[Any]) -> Any:
    for key in keys:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return _ABSENT
    return value


def _completed(model: Any, where: str) -> Any:
    """Resolve at registration, not at the first job, what the class statement could not resolve."""
    if not model.__pydantic_complete__:
        names = enclosing_names(model.__qualname__, model.__module__)
        try:
            model.model_rebuild(_types_namespace=names)
        except Exception as error:
            raise _unresolved(model, where, error) from error
    return model


def _pydantic_check(validate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    invalid = loaded("pydantic", "ValidationError")

    def check(value: Any) -> Any:
        try:
            return validate(value)
        except invalid as error:
            details = error.errors(include_url=False, include_context=False)
            return Problems(
                _from_pydantic(detail, value) for detail in details[: MOST_PROBLEMS + 1]
            )
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - a field's validator may raise anything
            return refused(error)

    return check


def _from_pydantic(detail: dict[str, Any], value: Any) -> tuple[str, str]:
    """Put one of pydantic's problems into our words."""
    kind, places = detail["type"], detail["loc"]
    path = ""
    for place in places:
        value_there = _at(value, [place])
        if value_there is not _ABSENT:
            path, value = path + step(place), value_there
        elif kind == "missing" and place is places[-1]:
            path += step(place)
        # Anything else names a member of a union, which is not a place in the data.
    if kind == "missing":
        return path, _MISSING
    if kind == "extra_forbidden":
        return path, _UNKNOWN
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if text.startswith("Input should be "):
        text = f"expected {text.removeprefix('Input should be ')}"
    return path, f"{text}, got {show(detail['input'])}"


def _unresolved(annotation: Any, where: str, error: Exception) -> ConfigurationError:
    msg = (
        f"{where}: can't validate {annotation_name(annotation)}: {error}; "
        "expected names that its module has at run time"
    )
    return ConfigurationError(msg)
