"""Compiles annotations into checks: unions, arrays, objects, dataclasses, TypedDicts.

Every check returns the converted value, or Problems. A payload that fits raises nothing and
builds no path.
"""

from __future__ import annotations

import collections.abc as cabc
import dataclasses
import inspect
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NotRequired, Required, Union

from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.validation import models
from convolab_worker.payloads.validation.names import annotation_name, field_annotations
from convolab_worker.payloads.validation.problems import Problems, refused, step, unexpected
from convolab_worker.payloads.validation.scalars import NULL, Check, Plan, same, scalar_plan

if TYPE_CHECKING:
    from collections.abc import Callable

_ANY_KIND: frozenset[type] = frozenset({str, int, float, bool, NULL, list, dict})
_ARRAY: frozenset[type] = frozenset({list})
_OBJECT: frozenset[type] = frozenset({dict})
_ARRAYS: dict[Any, Callable[[list[Any]], Any]] = {
    list: same,
    cabc.Sequence: same,
    cabc.MutableSequence: same,
    cabc.Collection: same,
    cabc.Iterable: same,
    tuple: tuple,
    set: set,
    cabc.MutableSet: set,
    frozenset: frozenset,
    cabc.Set: frozenset,
}
_OBJECTS = (dict, cabc.Mapping, cabc.MutableMapping)
_SUPPORTED = (
    "a dataclass, TypedDict, msgspec.Struct or pydantic model, Any, str, int, float, bool, None, "
    "datetime, date, time, UUID, Enum, Literal, a union, list, tuple, set, or dict with text keys"
)

_Seen = dict[type, Plan]
"""The classes that are being compiled; they may refer to themselves."""


class _Field(NamedTuple):
    name: str
    check: Check
    required: bool


def compile_plan(annotation: Any, where: str, seen: _Seen) -> Plan:
    """Compile an annotation, found at ``where``, or raise ConfigurationError."""
    bare = _unwrapped(annotation)
    if bare is Any or bare is object or bare is inspect.Parameter.empty:
        return Plan(same, "anything", _ANY_KIND)
    if plan := scalar_plan(bare, where):
        return plan
    origin = typing.get_origin(bare) or bare
    if origin is Union or origin is types.UnionType:
        return _union([compile_plan(member, where, seen) for member in typing.get_args(bare)])
    if isinstance(origin, type) and (plan := _class_plan(bare, origin, where, seen)):
        return plan
    msg = f"{where}: can't validate {annotation_name(annotation)}; expected {_SUPPORTED}"
    raise ConfigurationError(msg)


def _class_plan(annotation: Any, origin: type, where: str, seen: _Seen) -> Plan | None:
    if origin in _ARRAYS:
        return _array(annotation, origin, where, seen)
    if origin in _OBJECTS:
        return _mapping(annotation, where, seen)
    if model := models.model_check(annotation, origin, where):
        return Plan(model, _object_name(origin), _ANY_KIND)
    if dataclasses.is_dataclass(annotation) or hasattr(annotation, "__required_keys__"):
        return _record(origin, seen)
    return None


def _unwrapped(annotation: Any) -> Any:
    """Remove what does not change the type: Annotated, Required, NewType, ``type`` aliases."""
    while True:
        if _is_wrapper(typing.get_origin(annotation)):
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return NULL if annotation is None else annotation


def _is_wrapper(origin: Any) -> bool:
    # ReadOnly is Python 3.13's, and typing_extensions' before.
    return (
        origin in (Annotated, Required, NotRequired) or getattr(origin, "_name", "") == "ReadOnly"
    )


def _object_name(cls: type) -> str:
    return f"an object ({cls.__name__})"


def _union(members: list[Plan]) -> Plan:
    expected = " or ".join(dict.fromkeys(member.expected for member in members))
    checks = {kind: _checks_of_kind(members, kind) for kind in _ANY_KIND}

    def check(value: Any) -> Any:
        candidates = checks.get(type(value), [])
        if len(candidates) == 1:
            return candidates[0](value)
        failures: list[Problems] = []
        for candidate in candidates:
            result = candidate(value)
            if result.__class__ is not Problems:
                return result
            failures.append(result)
        if all(failure[0][0] == "" for failure in failures):
            return unexpected(expected, value)
        # Several kinds of object fit the value's kind: report on the one that was probably meant.
        return min(failures, key=lambda failure: (failure.mistagged, len(failure)))

    return Plan(check, expected, frozenset().union(*(member.kinds for member in members)))


def _checks_of_kind(members: list[Plan], kind: type) -> list[Check]:
    # The member of exactly this type comes first: 1 for float | int is an int.
    ordered = sorted(members, key=lambda member: member.expected != kind.__name__)
    return [member.check for member in ordered if kind in member.kinds]


def _array(annotation: Any, origin: type, where: str, seen: _Seen) -> Plan:
    items = typing.get_args(annotation)
    make = _ARRAYS[origin]
    if origin is tuple and hasattr(annotation, "__args__") and items[-1:] != (...,):
        plans = [compile_plan(item, f"{where}[{index}]", seen) for index, item in enumerate(items)]
        return _fixed_array([plan.check for plan in plans])
    check_item = compile_plan(items[0] if items else Any, f"{where}[]", seen).check

    def check(value: Any) -> Any:
        if type(value) is not list:
            return unexpected("list", value)
        result = _checked(value, [check_item] * len(value))
        if result.__class__ is Problems:
            return result
        try:
            return make(result)
        except TypeError:
            return unexpected("list without lists or objects in it, to make a set", value)

    return Plan(check, "list", _ARRAY)


def _fixed_array(checks: list[Check]) -> Plan:
    expected = f"list of exactly {len(checks)}"

    def check(value: Any) -> Any:
        if type(value) is not list or len(value) != len(checks):
            return unexpected(expected, value)
        result = _checked(value, checks)
        return result if result.__class__ is Problems else tuple(result)

    return Plan(check, expected, _ARRAY)


def _checked(values: list[Any], checks: list[Check]) -> list[Any]:
    """Check each value by its check; Problems (which is a list too) if some don't fit."""
    results = []
    problems = Problems()
    for index, value in enumerate(values):
        result = checks[index](value)
        if result.__class__ is Problems:
            problems.add(step(index), result)
            if problems.enough:
                break
        results.append(result)
    return problems or results


def _mapping(annotation: Any, where: str, seen: _Seen) -> Plan:
    key_type, value_type = typing.get_args(annotation) or (Any, Any)
    key_plan = compile_plan(key_type, f"{where} (key)", seen)
    if str not in key_plan.kinds:
        msg = f"{where}: can't validate {annotation_name(annotation)}: keys in JSON are text"
        raise ConfigurationError(msg)
    check_key = key_plan.check
    check_value = compile_plan(value_type, f"{where}[]", seen).check

    def check(value: Any) -> Any:
        if type(value) is not dict:
            return unexpected("dict", value)
        results: dict[Any, Any] = {}
        problems = Problems()
        for key, item in value.items():
            name, result = check_key(key), check_value(item)
            if name.__class__ is Problems:
                problems.add(step(key) + " (key)", name)
            elif result.__class__ is Problems:
                problems.add(step(key), result)
            else:
                results[name] = result
            if problems.enough:
                break
        return problems or results

    return Plan(check, "dict", _OBJECT)


def _record(cls: type, seen: _Seen) -> Plan:
    """Compile a dataclass or TypedDict, which may refer to itself."""
    if cls in seen:
        return seen[cls]
    expected = _object_name(cls)
    checks: list[Check] = []

    def check_itself(value: Any) -> Any:
        return checks[0](value)

    seen[cls] = Plan(check_itself, expected, _OBJECT)
    if dataclasses.is_dataclass(cls):
        fields, construct = _dataclass_fields(cls, seen), _constructor(cls)
    else:
        fields, construct = _typed_dict_fields(cls, seen), same
    checks.append(_record_check(fields, construct, expected))
    seen[cls] = Plan(checks[0], expected, _OBJECT)
    return seen[cls]


def _dataclass_fields(cls: type, seen: _Seen) -> list[_Field]:
    where = cls.__name__
    annotations = field_annotations(cls, where)
    for name, annotation in annotations.items():
        if annotation is dataclasses.InitVar or isinstance(annotation, dataclasses.InitVar):
            msg = f"{where}.{name}: can't validate an InitVar; expected a field"
            raise ConfigurationError(msg)
    return [
        _Field(
            field.name,
            compile_plan(annotations[field.name], f"{where}.{field.name}", seen).check,
            required=field.default is field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(cls)
        if field.init
    ]


def _typed_dict_fields(cls: Any, seen: _Seen) -> list[_Field]:
    where = cls.__name__
    return [
        _Field(
            name,
            compile_plan(annotation, f"{where}.{name}", seen).check,
            _is_required(annotation, by_class=name in cls.__required_keys__),
        )
        for name, annotation in field_annotations(cls, where).items()
    ]


def _is_required(annotation: Any, *, by_class: bool) -> bool:
    """Read Required and NotRequired here: a class whose annotations are text can't know them."""
    while _is_wrapper(origin := typing.get_origin(annotation)):
        if origin is Required or origin is NotRequired:
            return origin is Required
        annotation = typing.get_args(annotation)[0]
    return by_class


def _constructor(cls: Callable[..., Any]) -> Check:
    def construct(found: dict[str, Any]) -> Any:
        try:
            return cls(**found)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - __post_init__ may raise anything
            return refused(error)

    return construct


def _record_check(fields: list[_Field], construct: Check, expected: str) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not dict:
            return unexpected(expected, value)
        found: dict[str, Any] = {}
        problems: Problems | None = None
        for name, check_field, required in fields:
            if name in value:
                result = check_field(value[name])
                if result.__class__ is not Problems:
                    found[name] = result
                    continue
            elif required:
                result = Problems([("", "required field is missing")])
            else:
                continue
            problems = problems or Problems()
            problems.add(step(name), result)
        return problems or construct(found)

    return check
