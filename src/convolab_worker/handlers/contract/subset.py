"""Compares two JSON Schemas: finds what one side may send and the other does not take.

A field that the sender's schema does not list is taken as never sent, although JSON Schema allows
it: producers are typed. What can't be judged counts as not taken.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from convolab_worker.handlers.contract.branches import Located, branches
from convolab_worker.handlers.contract.limits import LIMITS, unmet_limits
from convolab_worker.payloads.problems import step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from convolab_worker.handlers.contract.branches import Roots, Schema

    Branch = tuple[Schema, Roots]

_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_MOST_VALUES = 6
# Keywords that are compared here, or that exclude no value.
_KNOWN = frozenset(
    {
        "type", "enum", "const", "properties", "required", "additionalProperties", "items",
        "prefixItems", "additionalItems", "patternProperties", "propertyNames", "contentEncoding",
        "contentMediaType", "discriminator", "externalDocs", "xml",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sides:
    """How messages call the two sides, and what the sender does."""

    sender: str
    sends: str
    send: str
    receiver: str


@dataclass(frozen=True, slots=True)
class Misfit:
    """A place, as ``.items[].text``, and what is sent there that is not taken.

    ``is_new`` says that the receiver does not know a field that it need not know.
    """

    path: str
    text: str
    is_new: bool = False


@dataclass
class Comparison:
    """Compares what ``sides.sender`` may send with what ``sides.receiver`` takes.

    With ``tells_new`` fields that the receiver does not know are told too, though it takes them.
    """

    sides: Sides
    tells_new: bool = False
    _known: dict[tuple[int, int], list[Misfit]] = field(default_factory=dict)
    _kept: list[object] = field(default_factory=list)
    """Schemas whose ids are in ``_known``: no other object may get the same id."""

    def misfits(self, sender: Located, receiver: Located) -> list[Misfit]:
        """Return what does not fit; nothing if every value that may be sent is taken."""
        key = id(sender.schema), id(receiver.schema)
        if key not in self._known:
            self._kept += [sender.schema, receiver.schema]
            self._known[key] = []  # a type that contains itself fits if all else does
            takes = branches(receiver)
            found = [
                misfit for branch in branches(sender) for misfit in self._unmatched(branch, takes)
            ]
            self._known[key] = [*dict.fromkeys(found)]
        return self._known[key]

    def _unmatched(self, branch: Branch, takes: list[Branch]) -> list[Misfit]:
        """Return why none of the receiver's alternatives takes one of the sender's."""
        schema, _ = branch
        values = _values(schema)
        if values is not None:
            bad = [value for value in values if not any(_accepts(value, t) for t, _ in takes)]
            return [self._refused(_listed(bad), takes)] if bad else []
        alike = [other for other in takes if _may_be_alike(schema, other[0])]
        if not alike:
            return [self._refused(_words(schema), takes)]
        meant = [other for other in alike if not _differ_by_tag(schema, other[0])]
        attempts = [self._fit(branch, other) for other in meant or alike]
        # The alternative that is nearly right gives the most helpful message.
        return min(attempts, key=lambda found: sum(not misfit.is_new for misfit in found))

    def _refused(self, sent: str, takes: list[Branch]) -> Misfit:
        taken = " or ".join(dict.fromkeys(_words(schema) for schema, _ in takes)) or "nothing"
        sides = self.sides
        return Misfit("", f"{sides.sender} may {sides.send} {sent}, {sides.receiver} takes {taken}")

    def _fit(self, sent: Branch, taken: Branch) -> list[Misfit]:
        schema, other = sent[0], taken[0]
        if _values(other) is not None:
            return [self._refused(_words(schema), [taken])]
        unknown = [word for word in other if _is_unknown(word) and other[word] != schema.get(word)]
        if unknown:
            words = " and ".join(f"`{word}`" for word in unknown)
            return [Misfit("", f"{words}: can't be compared")]
        found = [
            Misfit("", f"{self.sides.receiver} takes {words} only, "
                   f"{self.sides.sender} may {self.sides.send} others")
            for words in unmet_limits(schema, other)
        ]  # fmt: skip
        if other.get("type") == "object":
            found += self._object_misfits(sent, taken)
        elif other.get("type") == "array":
            found += self._array_misfits(sent, taken)
        return found

    def _object_misfits(self, sent: Branch, taken: Branch) -> list[Misfit]:
        (schema, roots), (other, other_roots) = sent, taken
        sent_fields, fields = schema.get("properties", {}), other.get("properties", {})
        found = [
            Misfit(step(name), self._missing(is_known=name in sent_fields))
            for name in other.get("required", ())
            if name not in schema.get("required", ())
        ]
        for name, part in sent_fields.items():
            inner = _part_for(name, other)
            if inner is False:
                text = (
                    f"{self.sides.sender} may {self.sides.send} it, "
                    f"{self.sides.receiver} refuses fields that it does not know"
                )
                found.append(Misfit(step(name), text))
            elif name not in fields and self.tells_new and inner in (True, {}):
                found.append(Misfit(step(name), "new", is_new=True))
            else:
                found += self._inside(step(name), Located(part, roots), Located(inner, other_roots))
        return found + self._other_fields(sent, taken)

    def _missing(self, *, is_known: bool) -> str:
        sides = self.sides
        how = "may leave it out" if is_known else f"never {sides.sends} it"
        return f"{sides.receiver} needs it, {sides.sender} {how}"

    def _other_fields(self, sent: Branch, taken: Branch) -> list[Misfit]:
        """Compare the fields that the sender's schema does not name."""
        (schema, roots), (other, other_roots) = sent, taken
        is_map = "properties" not in schema
        rest = schema.get("additionalProperties", is_map)
        if rest is False:
            return []
        others = other.get("additionalProperties", True)
        if others is False:
            text = f"{self.sides.receiver} refuses fields that it does not know"
            return [Misfit("", f"{self.sides.sender} may {self.sides.send} any field, {text}")]
        found = self._inside(".*", Located(rest, roots), Located(others, other_roots))
        for name, part in other.get("properties", {}).items():
            if name not in schema.get("properties", {}):
                found += self._inside(step(name), Located(rest, roots), Located(part, other_roots))
        return found

    def _array_misfits(self, sent: Branch, taken: Branch) -> list[Misfit]:
        (schema, roots), (other, other_roots) = sent, taken
        first, rest = _items(schema)
        other_first, other_rest = _items(other)
        most = schema.get("maxItems", float("inf"))
        found: list[Misfit] = []
        for place in range(max(len(first), len(other_first)) + 1):
            item = first[place] if place < len(first) else rest
            expected = other_first[place] if place < len(other_first) else other_rest
            if place >= most or item is False:
                break
            if expected is False:
                if "maxItems" in other:  # the limits compare that
                    return found
                text = f"{self.sides.receiver} takes no more than {place} items, "
                text += f"{self.sides.sender} may {self.sides.send} more"
                return [*found, Misfit("", text)]
            is_rest = place >= len(first) and place >= len(other_first)
            key = "[]" if is_rest else f"[{place}]"
            found += self._inside(key, Located(item, roots), Located(expected, other_roots))
        return found

    def _inside(self, key: str, sender: Located, receiver: Located) -> list[Misfit]:
        """Compare parts of both, which are at ``key`` there."""
        return [
            replace(misfit, path=key + misfit.path) for misfit in self.misfits(sender, receiver)
        ]


def _is_unknown(word: str) -> bool:
    return word not in _KNOWN and word not in LIMITS and not word.startswith("x-")


def _items(schema: Schema) -> tuple[list[Any], Any]:
    """Return the schemas of the first items, and that of the others; also by draft 7's words."""
    items = schema.get("items", True)
    if isinstance(items, list):
        return items, schema.get("additionalItems", True)
    return schema.get("prefixItems", []), items


def _part_for(name: str, schema: Schema) -> Any:
    """Return the schema of a field; False if it is refused, and True if it may be anything."""
    if name in schema.get("properties", {}):
        return schema["properties"][name]
    for pattern, part in schema.get("patternProperties", {}).items():
        if re.search(pattern, name):
            return part
    return schema.get("additionalProperties", True)


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return [*found] if isinstance(found, list) else None


def _may_be_alike(schema: Schema, other: Schema) -> bool:
    kind, expected = schema.get("type"), other.get("type")
    return expected is None or kind == expected or (kind, expected) in _ALIKE


def _differ_by_tag(schema: Schema, other: Schema) -> bool:
    """Say whether two objects have a field that says which of a union's members they are."""
    fields, others = schema.get("properties", {}), other.get("properties", {})
    tags = [(_tag(fields[name]), _tag(others[name])) for name in fields if name in others]
    return any(tag and other_tag and tag != other_tag for tag, other_tag in tags)


def _tag(part: Any) -> list[Any] | None:
    values = _values(part) if isinstance(part, dict) else None
    return values if values is not None and len(values) == 1 else None


_ALIKE = {("integer", "number"), ("number", "integer")}


def _accepts(value: Any, schema: Schema) -> bool:
    """Say whether a single value fits one alternative."""
    values = _values(schema)
    if values is not None:
        return any(_is_same(value, each) for each in values)
    kind = schema.get("type")
    if kind is not None and kind not in _types_of(value):
        return False
    plain = {"minimum": value, "maximum": value} if _types_of(value) & {"number"} else {}
    if isinstance(value, str):
        plain = {"minLength": len(value), "maxLength": len(value)}
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and re.search(pattern, value):
            plain["pattern"] = pattern
    elif isinstance(value, (list, dict)):
        return kind is None and not schema
    return not unmet_limits(plain, schema)


def _is_same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _types_of(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, (int, float)):
        return {"number", "integer"} if value == int(value) else {"number"}
    return {
        "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
    }


def _words(schema: Schema) -> str:
    values = _values(schema)
    if values is not None:
        return _listed(values)
    return _WORDS.get(schema.get("type", ""), "anything")


def _listed(values: Iterable[Any]) -> str:
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    if len(texts) > _MOST_VALUES:
        texts[_MOST_VALUES - 1 :] = [f"{len(texts) - _MOST_VALUES + 1} others"]
    return " or ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
