"""Compares the limits that two schemas of one type set, and puts them in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from convolab_worker.handlers.contract.branches import Schema

_SAFE_INTEGER = 2**53 - 1

LIMITS: Mapping[str, str] = {
    "minimum": "numbers from {} on",
    "maximum": "numbers up to {}",
    "exclusiveMinimum": "numbers above {}",
    "exclusiveMaximum": "numbers below {}",
    "multipleOf": "multiples of {}",
    "minLength": "text of at least {} characters",
    "maxLength": "text of at most {} characters",
    "pattern": "text that matches {}",
    "format": "text in the format {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "uniqueItems": "items that differ",
    "minProperties": "at least {} fields",
    "maxProperties": "at most {} fields",
}
"""What a limit lets through, in words."""


def unmet_limits(sent: Schema, taken: Schema) -> list[str]:
    """Return in words the limits of ``taken`` that a value may break although it fits ``sent``."""
    return [*_unmet(sent, taken)]


def _unmet(sent: Schema, taken: Schema) -> Iterator[str]:
    if taken.get("type") == "integer" and sent.get("type") == "number":
        yield "whole numbers"
    for word, words in LIMITS.items():
        if word in taken and not _IS_MET.get(word, _is_equal)(sent, taken, word):
            yield words.format(taken[word])


def _is_equal(sent: Schema, taken: Schema, word: str) -> bool:
    return bool(sent.get(word) == taken[word]) or taken[word] is False


def _is_pattern_met(sent: Schema, taken: Schema, word: str) -> bool:
    # Libraries write different patterns for one format.
    same_format = "format" in taken and sent.get("format") == taken["format"]
    return same_format or _is_equal(sent, taken, word)


def _at_least(sent: Schema, taken: Schema, word: str) -> bool:
    return bool(sent.get(word, 0) >= taken[word])


def _at_most(sent: Schema, taken: Schema, word: str) -> bool:
    return word in sent and bool(sent[word] <= taken[word])


def _is_low_enough(sent: Schema, taken: Schema, word: str) -> bool:
    lowest, limit = _bound(sent, "minimum", "exclusiveMinimum", max), taken[word]
    if lowest is None:
        # Neither side writes an integer that JavaScript can't keep exactly.
        return bool(limit <= -_SAFE_INTEGER)
    is_above = lowest > limit or (lowest == limit and "exclusiveMinimum" in sent)
    return bool(is_above or (lowest == limit and word == "minimum"))


def _is_high_enough(sent: Schema, taken: Schema, word: str) -> bool:
    highest, limit = _bound(sent, "maximum", "exclusiveMaximum", min), taken[word]
    if highest is None:
        return bool(limit >= _SAFE_INTEGER)
    is_below = highest < limit or (highest == limit and "exclusiveMaximum" in sent)
    return bool(is_below or (highest == limit and word == "maximum"))


def _bound(schema: Schema, word: str, exclusive: str, choose: Callable[..., Any]) -> Any:
    known = [schema[each] for each in (word, exclusive) if each in schema]
    return choose(known) if known else None


def _is_multiple(sent: Schema, taken: Schema, word: str) -> bool:
    own = sent.get(word, 1 if sent.get("type") == "integer" else None)
    return own is not None and own % taken[word] == 0


_IS_MET: Mapping[str, Callable[[Schema, Schema, str], bool]] = {
    "minimum": _is_low_enough,
    "exclusiveMinimum": _is_low_enough,
    "maximum": _is_high_enough,
    "exclusiveMaximum": _is_high_enough,
    "multipleOf": _is_multiple,
    "pattern": _is_pattern_met,
    "minLength": _at_least,
    "minItems": _at_least,
    "minProperties": _at_least,
    "maxLength": _at_most,
    "maxItems": _at_most,
    "maxProperties": _at_most,
}
