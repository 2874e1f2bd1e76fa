"""Reads, and describes, by pydantic: its models, and the types that msgspec refuses.

This module and pydantic are imported only when such a type is registered: an application without
models does not pay for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from convolab_worker.errors import ConfigurationError, InvalidPayload
from convolab_worker.payloads.annotation import annotation_name, has_own_init
from convolab_worker.payloads.problems import (
    ABSENT,
    find,
    printable,
    refused,
    short_path,
    show,
    step,
)
from convolab_worker.payloads.pydantic_models import config_of, fields_of, is_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST_PROBLEMS = 5
"""How many problems one message names; it only hints at further ones."""

_check_syntax = msgspec.json.Decoder(msgspec.Raw).decode


def decoder(
    annotation: Any,
    why_not_msgspec: str,
    decode_any: Callable[[bytes], Any],
    *,
    as_written: bool = False,
) -> Callable[[bytes], Any]:
    """Compile an annotation into a function that reads a job's data by pydantic.

    ``decode_any`` reads JSON unchecked, or raises InvalidPayload. With ``as_written`` fields have
    the names by which their models write them. Raises ConfigurationError if pydantic can't check
    the annotation either, or is not installed.
    """
    adapter = _adapter(annotation, why_not_msgspec)
    validator = _validator_of_written(adapter) if as_written else adapter
    validate, invalid = validator.validate_json, sys.modules["pydantic"].ValidationError
    classes = list(_classes(adapter.core_schema))
    strict = None if any(is_model(cls) and _is_lax(cls) for cls in classes) else True
    for cls in classes:
        if not is_model(cls) and has_own_init(cls):
            msg = f"data: {cls!r} has an __init__ of its own: give it a __post_init__ instead"
            raise ConfigurationError(msg)

    def decode(raw: bytes) -> Any:
        try:
            # pydantic takes NaN and Infinity for JSON.
            _check_syntax(raw)
        except (msgspec.MsgspecError, RecursionError):
            decode_any(raw)
        try:
            return validate(raw, strict=strict)
        except invalid as error:
            raise InvalidPayload(_told(error, decode_any(raw))) from error
        except Exception as error:
            raise refused(error) from error

    return decode


def schema(annotation: Any, why_not_msgspec: str, *, is_result: bool) -> dict[str, Any]:
    """Return pydantic's JSON Schema of what is read as an annotation, or is written of it."""
    adapter = _adapter(annotation, why_not_msgspec)
    from pydantic.errors import PydanticInvalidForJsonSchema
    from pydantic.json_schema import GenerateJsonSchema

    class Generate(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

        def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
            return False  # the title only repeats the field's name

        def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: FBT001
            # pydantic leaves a field with a default out of those that are always written.
            is_written = self.mode == "serialization" and field["type"] != "typed-dict-field"
            return is_written or super().field_is_required(field, total)

    try:
        described: dict[str, Any] = adapter.json_schema(
            mode="serialization" if is_result else "validation", schema_generator=Generate
        )
    except PydanticInvalidForJsonSchema as error:
        msg = f"can't describe {annotation_name(annotation)}: {error}"
        raise ConfigurationError(msg) from error
    return described


def _validator_of_written(adapter: Any) -> Any:
    """Return a validator that reads fields by the names by which their models write them."""
    from pydantic_core import SchemaValidator

    mended = _changed(adapter.core_schema, _with_written_names)
    if mended == adapter.core_schema:
        return adapter
    return SchemaValidator(_changed(mended, _with_own_validator))


_FIELD_KINDS = ("model-field", "dataclass-field", "typed-dict-field")
_NO_SCHEMAS = ("cls", "config", "default", "expected", "metadata", "serialization")


def _changed(part: Any, change: Callable[[dict[str, Any]], Any]) -> Any:
    """Copy a core schema; ``change`` is given each of the schemas in it, inner ones first."""
    if isinstance(part, list | tuple):
        return type(part)(_changed(each, change) for each in part)
    if not isinstance(part, dict):
        return part
    return change(
        {
            key: value if key in _NO_SCHEMAS else _changed(value, change)
            for key, value in part.items()
        }
    )


def _with_written_names(copy: dict[str, Any]) -> Any:
    """Return a schema with the names by which fields are written as those for reading."""
    if copy.get("type") in _FIELD_KINDS:
        copy.pop("validation_alias", None)
        if "serialization_alias" in copy:
            copy["validation_alias"] = copy["serialization_alias"]
    config = copy.get("config")
    if isinstance(config, dict) and copy.get("type") in ("model", "dataclass"):
        # What is written has computed fields too, which no field reads.
        left_out = ("extra_fields_behavior", "validate_by_alias", "validate_by_name")
        copy["config"] = {key: config[key] for key in config if key not in left_out}
        if config.get("extra_fields_behavior") == "allow":
            copy["config"]["extra_fields_behavior"] = "allow"
    return copy


def _with_own_validator(copy: dict[str, Any]) -> Any:
    """Return a schema of which pydantic makes a validator anew.

    pydantic uses a class's own validator, whatever the schema says; so each class is replaced by a
    subclass, which has none.
    """
    if copy.get("type") not in ("model", "dataclass"):
        return copy
    cls = copy["cls"]

    def restore(instance: Any) -> Any:
        object.__setattr__(instance, "__class__", cls)
        return instance

    # Made by type itself: a model's own metaclass would give it a validator, too.
    copy["cls"] = type.__new__(type(cls), cls.__name__, (cls,), {"__slots__": ()})
    function = {"type": "no-info", "function": restore}
    around = {"type": "function-after", "function": function, "schema": copy}
    return {**around, "ref": copy.pop("ref")} if "ref" in copy else around


def _adapter(annotation: Any, why_not_msgspec: str) -> Any:
    name = annotation_name(annotation)
    try:
        from pydantic import TypeAdapter
    except ImportError:
        msg = (
            f"data: can't validate {name}: msgspec: {why_not_msgspec}; change the type, "
            "or install pydantic, which may be able to"
        )
        raise ConfigurationError(msg) from None
    try:
        adapter = TypeAdapter(annotation)
        if hasattr(adapter, "rebuild"):  # since pydantic 2.10; needless before
            adapter.rebuild(raise_errors=True)
    except Exception as error:
        msg = (
            f"data: can't validate {name}: change the type to one that msgspec or pydantic takes; "
            f"msgspec: {why_not_msgspec}; pydantic: {str(error).partition(chr(10))[0]}"
        )
        raise ConfigurationError(msg) from error
    return adapter


def _is_lax(cls: Any) -> bool:
    """Say whether a model, or a field of it, asks for ``strict=False``."""
    rules = [rule for field in fields_of(cls).values() for rule in field.metadata]
    return config_of(cls).get("strict") is False or any(
        getattr(rule, "strict", None) is False for rule in rules
    )


def _classes(schema: Any) -> Iterator[type]:
    """Yield the models and dataclasses of a schema."""
    parts = schema if isinstance(schema, list | tuple) else ()
    if isinstance(schema, dict):
        if schema.get("type") in ("model", "dataclass"):
            yield schema["cls"]
        parts = tuple(part for key, part in schema.items() if key not in ("default", "metadata"))
    for part in parts:
        yield from _classes(part)


def _told(error: Any, value: Any) -> str:
    details = error.errors(include_url=False, include_context=False)
    # If a union's member has another Literal, it was not the member that was meant.
    mistagged = {
        detail["loc"][:-1]
        for detail in details
        if detail["type"] == "literal_error" and find(value, detail["loc"][:-1]) is ABSENT
    }
    meant = [
        detail
        for detail in details
        if not any(detail["loc"][: len(member)] == member for member in mistagged)
    ]
    problems = list(dict.fromkeys(_problem(detail, value) for detail in meant or details))
    if len(problems) > _MOST_PROBLEMS:
        problems[_MOST_PROBLEMS:] = ["and more"]
    return printable("; ".join(problems))


def _problem(detail: dict[str, Any], value: Any) -> str:
    """Put one of pydantic's problems in our words."""
    kind, places = detail["type"], detail["loc"]
    path = "data"
    for place in places:
        value_there = find(value, [place])
        if value_there is not ABSENT:
            path, value = path + step(place), value_there
        elif kind == "missing" and place is places[-1]:
            path += step(place)
        # Other parts name a member of a union, which is not a place in the data.
    path = short_path(path)
    if kind == "missing":
        return f"{path}: required field is missing"
    if kind == "extra_forbidden":
        return f"{path}: unknown field"
    if kind == "json_invalid":
        return f"{path}: {detail['msg']}"
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if text.startswith("Input should be "):
        text = f"expected {text.removeprefix('Input should be ')}"
    return f"{path}: {text[:300]}, got {show(detail['input'])}"
