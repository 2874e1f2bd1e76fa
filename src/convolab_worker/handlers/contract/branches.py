"""Takes JSON Schemas apart: a schema as its alternatives, each with one type and no reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from convolab_worker.errors import ConfigurationError

Schema = Mapping[str, Any]
Roots = tuple[Schema, ...]
"""The documents that a schema is in, the innermost first; its references are looked up there."""

_NOTES = frozenset(
    {
        "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default",
        "examples", "deprecated", "readOnly", "writeOnly", "x-convolab",
    }
)  # fmt: skip
_MOST_BRANCHES = 2000
_MOST_STEPS = 50


class Located:
    """A schema with the documents that its references are looked up in."""

    __slots__ = ("roots", "schema")

    def __init__(self, schema: Any, roots: Roots) -> None:
        own = schema if isinstance(schema, dict) else {"not": {}} if schema is False else {}
        is_document = any(word in own for word in ("$id", "$schema", "$defs", "definitions"))
        self.schema: Schema = own
        is_outermost = bool(roots) and roots[0] is own
        self.roots = (own, *roots) if is_document and not is_outermost else roots

    def inside(self, part: Any) -> Located:
        """Return a part of this schema."""
        return Located(part, self.roots)

    def referred(self, ref: str) -> Located:
        """Return what a reference means. Raises ConfigurationError for one that leads nowhere."""
        for place, root in enumerate(self.roots):
            found = _pointed(root, ref)
            if found is not None:
                return Located(found, self.roots[place:])
        msg = f"$ref {ref!r} leads nowhere in this document"
        raise ConfigurationError(msg)


def _pointed(root: Schema, ref: str) -> Any:
    address, _, pointer = ref.partition("#")
    if address not in ("", root.get("$id")):
        return None
    found: Any = root
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, dict) else None
    return found


def branches(located: Located, depth: int = 0) -> list[tuple[Schema, Roots]]:
    """Return the alternatives of a schema: a value fits the schema if it fits one of them.

    Each is a schema without references and alternatives, of one type, or of no type if it may be
    anything. Raises ConfigurationError for a schema that refers only to itself, or has thousands of
    alternatives.
    """
    schema, roots = located.schema, located.roots
    if depth > _MOST_STEPS:
        msg = "a $ref that only leads to itself"
        raise ConfigurationError(msg)
    own = {key: value for key, value in schema.items() if key not in _NOTES}
    found: list[tuple[Schema, Roots]] = [({}, roots)]
    for part in _parts(located, own):
        inner = [branch for each in part for branch in branches(each, depth + 1)]
        found = [both for one in found for other in inner if (both := merged(one, other))]
        if len(found) > _MOST_BRANCHES:
            msg = "a schema of thousands of alternatives can't be compared"
            raise ConfigurationError(msg)
    plain = {key: value for key, value in own.items() if key not in _OPENED}
    kinds = own.get("type")
    for_types = [{**plain, "type": kind} for kind in kinds] if isinstance(kinds, list) else [plain]
    if own.get("nullable") is True and isinstance(kinds, str):  # OpenAPI 3.0
        for_types.append({"type": "null"})
    if own.get("not") == {}:  # nothing fits: Draft 2020-12 also writes it as False
        return []
    return [both for one in found for each in for_types if (both := merged(one, (each, roots)))]


_OPENED = ("$ref", "allOf", "anyOf", "oneOf", "nullable")


def _parts(located: Located, own: Schema) -> Iterator[list[Located]]:
    """Yield lists of schemas; a value must fit one of each list."""
    if "$ref" in own:
        yield [located.referred(own["$ref"])]
    for part in own.get("allOf", ()):
        yield [located.inside(part)]
    for several in ("anyOf", "oneOf"):
        if several in own:
            yield [located.inside(part) for part in own[several]]


_LARGER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_SMALLER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def merged(one: tuple[Schema, Roots], other: tuple[Schema, Roots]) -> tuple[Schema, Roots] | None:
    """Return what fits both; None if nothing can."""
    (first, roots), (second, other_roots) = one, other
    if not second:
        return one
    if not first:
        return other
    both: dict[str, Any] = {**first}
    for key, value in second.items():
        both[key] = _both(key, both[key], value) if both.get(key, value) != value else value
    if both.get("type", "") is None:
        return None
    return both, roots if len(roots) >= len(other_roots) else other_roots


def _both(key: str, one: Any, other: Any) -> Any:
    """Return both values of a keyword as one; None for two types that exclude each other."""
    if key == "type":
        return "integer" if {one, other} == {"integer", "number"} else None
    if key == "enum":
        return [each for each in one if each in other]
    if key == "required":
        return sorted({*one, *other})
    if key == "properties":
        common = {name: _all_of(one[name], other[name]) for name in one if name in other}
        return {**one, **other, **common}
    if key in _LARGER:
        return max(one, other)
    return min(one, other) if key in _SMALLER else _all_of(one, other)


def _all_of(one: Any, other: Any) -> Any:
    return one if one == other else {"allOf": [one, other]}
