"""Describes the JSON of a payload or a result as JSON Schema, by msgspec or pydantic.

A payload is described as what is accepted, a result as what is written: a field with a default may
be left out of the one, and is always in the other.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.annotation import is_anything, resolve_local_classes
from convolab_worker.payloads.decode import msgspec_refusal, nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

REF = "#/$defs/"
"""What a reference to a named type begins with."""


def payload_schema(annotation: object) -> dict[str, Any]:
    """Return the schema of the data that a handler accepts; its named types are in ``$defs``.

    Raises ConfigurationError for a type that neither library can describe.
    """
    return _schema(annotation, is_result=False)


def result_schema(annotation: object) -> dict[str, Any]:
    """Return the schema of what is written of a handler's result, as ``payload_schema`` does."""
    return _schema(annotation, is_result=True)


def _schema(annotation: Any, *, is_result: bool) -> dict[str, Any]:
    if is_anything(annotation):
        return {}
    annotation = type(None) if annotation is None else annotation
    resolve_local_classes(annotation)
    refusal = msgspec_refusal(annotation)
    if refusal is not None:
        from convolab_worker.payloads import pydantic_types  # most handlers need no pydantic

        return pydantic_types.schema(annotation, refusal, is_result=is_result)
    try:
        schema = msgspec.json.schema(annotation)
    except TypeError as error:
        msg = f"can't describe {annotation}: {error}"
        raise ConfigurationError(msg) from error
    for described in schema.get("$defs", {}).values():
        if "description" in described:
            described["description"] = inspect.cleandoc(described["description"])
    if is_result:
        for described, always in _written_fields(annotation, schema):
            described["required"] = always
    return schema


def _written_fields(
    annotation: Any, schema: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Yield the description of each class with the fields that msgspec always writes."""
    for node in nodes(msgspec.inspect.type_info(annotation), set()):
        if not isinstance(node, msgspec.inspect.DataclassType | msgspec.inspect.StructType):
            continue
        described = _described(node.cls, annotation, schema)
        config = getattr(node.cls, "__struct_config__", None)
        if described.get("type") != "object":
            continue  # a Struct that is written as an array
        omits_defaults = config is not None and config.omit_defaults
        tag = [config.tag_field] if config is not None and config.tag_field else []
        always = [
            field.encode_name
            for field in node.fields
            if field.required or not (omits_defaults or _is_unset(field))
        ]
        yield described, [*tag, *always]


def _is_unset(field: msgspec.inspect.Field) -> bool:
    """Say whether a field's default is UNSET, which is never written: msgspec tells no default."""
    nothing = msgspec.NODEFAULT
    return field.default is nothing and field.default_factory is nothing


def _described(cls: type, annotation: Any, schema: dict[str, Any]) -> dict[str, Any]:
    """Find a class's description in the schema of an annotation that has it."""
    (_, own), _ = msgspec.json.schema_components((annotation, cls), ref_template=f"{REF}{{name}}")
    named = own.get("$ref", "").removeprefix(REF)
    found: dict[str, Any] = schema.get("$defs", {}).get(named, {})
    return found
