"""Checks of single values: text, numbers, dates, Literal and Enum."""

from __future__ import annotations

import typing
from collections.abc import Callable
from datetime import date, datetime, time
from enum import Enum
from typing import Any, Literal, NamedTuple

from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.validation.names import annotation_name, loaded
from convolab_worker.payloads.validation.problems import quote, show, unexpected

Check = Callable[[Any], Any]
"""Returns the converted value, or Problems."""

SAFE_INTEGER = 2**53 - 1
"""The largest integer that JavaScript keeps exactly."""

NULL = type(None)


class Plan(NamedTuple):
    """How to check one annotation: the check, its words, and the kinds of JSON that it accepts."""

    check: Check
    expected: str
    kinds: frozenset[type]


def same(value: Any) -> Any:
    """Accept anything."""
    return value


def scalar_plan(annotation: Any, where: str) -> Plan | None:
    """Compile the annotation of a single value; None for any other annotation."""
    if typing.get_origin(annotation) is Literal:
        return _literal(annotation, where)
    if not isinstance(annotation, type):
        return None
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if annotation in (datetime, date, time):
        return _from_text(f"{annotation.__name__} as ISO 8601 text", annotation.fromisoformat)
    if annotation is loaded("uuid", "UUID"):
        return _from_text("UUID as text", annotation)
    return _enum(annotation, where) if issubclass(annotation, Enum) else None


def _exactly(kind: type, expected: str) -> Plan:
    def check(value: Any) -> Any:
        return value if type(value) is kind else unexpected(expected, value)

    return Plan(check, expected, frozenset({kind}))


def _int(value: Any) -> Any:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) <= SAFE_INTEGER:
        return int(value)
    return unexpected("int", value)


def _float(value: Any) -> Any:
    if type(value) is float:
        return value
    try:
        return float(value) if type(value) is int else unexpected("float", value)
    except OverflowError:
        return unexpected("float", value)


_NUMBER: frozenset[type] = frozenset({int, float})
_SCALARS: dict[type, Plan] = {
    str: _exactly(str, "str"),
    bool: _exactly(bool, "bool"),
    NULL: _exactly(NULL, "null"),
    int: Plan(_int, "int", _NUMBER),
    float: Plan(_float, "float", _NUMBER),
}


def _from_text(expected: str, convert: Callable[[str], Any]) -> Plan:
    def check(value: Any) -> Any:
        if type(value) is not str:
            return unexpected(expected, value)
        try:
            return convert(value)
        except (ValueError, OverflowError):
            return unexpected(expected, value)

    return Plan(check, expected, frozenset({str}))


def _literal(annotation: Any, where: str) -> Plan:
    choices = {(type(value), value): value for value in typing.get_args(annotation)}

    def choose(value: Any) -> Any:
        return choices[type(value), value]

    return _one_of(annotation, list(choices.values()), choose, where)


def _enum(annotation: type[Enum], where: str) -> Plan:
    return _one_of(annotation, [member.value for member in annotation], annotation, where)


def _one_of(annotation: Any, values: list[Any], choose: Check, where: str) -> Plan:
    """Return the plan for one of ``values``; ``choose`` turns it into what the handler gets."""
    kinds = frozenset(type(value) for value in values)
    if not kinds or not kinds <= {str, int, float, bool, NULL}:
        msg = (
            f"{where}: can't validate {annotation_name(annotation)}: "
            "expected values that are text, numbers, bools or None"
        )
        raise ConfigurationError(msg)
    if kinds & _NUMBER:
        kinds |= _NUMBER
    names = ", ".join(quote(value) if isinstance(value, str) else show(value) for value in values)
    expected = f"one of {names}" if len(values) > 1 else names

    def check(value: Any) -> Any:
        if type(value) in kinds:
            whole = type(value) is float and value.is_integer()
            try:
                return choose(int(value) if whole else value)
            except Exception:  # noqa: BLE001, S110 - an Enum's own _missing_ may raise anything
                pass
        problems = unexpected(expected, value)
        problems.mistagged = True
        return problems

    return Plan(check, expected, kinds)
