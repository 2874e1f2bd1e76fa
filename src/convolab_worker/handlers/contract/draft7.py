"""Writes a document of draft 2020-12 in the words of draft 7, for tools that know only that."""

from __future__ import annotations

from typing import Any

DIALECT = "http://json-schema.org/draft-07/schema#"
_MAPS = {
    "properties": "properties",
    "patternProperties": "patternProperties",
    "$defs": "definitions",
}
_LISTS = ("anyOf", "oneOf", "allOf")
_SCHEMAS = ("additionalProperties", "propertyNames", "not", "if", "then", "else", "contains")


def draft7(schema: Any) -> Any:
    """Return a schema in draft 7, by which the same values are valid."""
    if not isinstance(schema, dict):
        return schema
    copy: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$schema":
            copy[key] = DIALECT
        elif key == "$ref":
            copy[key] = value.replace("#/$defs/", "#/definitions/")
        elif key in _MAPS:
            copy[_MAPS[key]] = {name: draft7(each) for name, each in value.items()}
        elif key in _LISTS:
            copy[key] = [draft7(each) for each in value]
        elif key == "prefixItems":
            copy["items"] = [draft7(each) for each in value]
        elif key == "items":
            copy["additionalItems" if "prefixItems" in schema else "items"] = draft7(value)
        else:
            copy[key] = draft7(value) if key in _SCHEMAS else value
    if "$ref" in copy and len(copy) > 1:  # draft 7 ignores all other keywords next to it
        copy["allOf"] = [{"$ref": copy.pop("$ref")}]
    return copy
