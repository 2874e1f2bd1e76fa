"""Writes pydantic's models, without importing pydantic here."""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import Any

from convolab_worker.payloads.problems import ABSENT

_SCALARS = frozenset({str, int, float, bool, type(None)})


@lru_cache(maxsize=1024)
def is_model(cls: type) -> bool:
    """Say whether a class is a pydantic model or a pydantic dataclass."""
    return hasattr(cls, "__pydantic_decorators__")


def dump(value: Any, *, to_be_read: bool) -> Any:
    """Return a model as JSON's types, under the names that others use.

    ``to_be_read`` says that a handler is to read it with the same model: then fields have the
    names by which the model reads them, where those differ from the names by which it writes.
    """
    options = {"mode": "json", "by_alias": True, "round_trip": to_be_read}
    if hasattr(value, "model_dump"):
        dumped = value.model_dump(**options)
    else:
        dumped = type(value).__pydantic_serializer__.to_python(value, **options)
    return _mended(value, dumped, to_be_read=to_be_read)


def _mended(value: Any, dumped: Any, *, to_be_read: bool) -> Any:
    """Go through a value and its dump side by side, and mend what the dump has changed."""
    kind: type = type(value)
    if is_model(kind):
        return _mended_model(value, dumped, to_be_read=to_be_read)
    if dumped is None and isinstance(value, float) and not isfinite(value):
        return value  # pydantic writes null for NaN; the caller refuses it.
    same_size = isinstance(dumped, dict | list) and len(dumped) == len(value)
    if same_size and isinstance(dumped, dict) and isinstance(value, dict):
        pairs = zip(dumped.items(), value.values(), strict=True)
        return {key: _mended(item, part, to_be_read=to_be_read) for (key, part), item in pairs}
    if same_size and isinstance(dumped, list) and isinstance(value, list | tuple):
        return [
            _mended(item, part, to_be_read=to_be_read)
            for item, part in zip(value, dumped, strict=True)
        ]
    return dumped


def _mended_model(value: Any, dumped: Any, *, to_be_read: bool) -> Any:
    if not isinstance(dumped, dict):
        root = getattr(value, "root", ABSENT)
        return dumped if root is ABSENT else _mended(root, dumped, to_be_read=to_be_read)
    kind: type = type(value)
    mended = {}
    for field, written, read in _field_names(kind):
        if written not in dumped:
            continue
        name = read if to_be_read else written
        if name is None:
            msg = f"{kind.__name__}.{field} is read by an AliasPath, and by no single key"
            raise TypeError(msg)
        item, part = getattr(value, field), dumped.pop(written)
        if type(item) not in _SCALARS or (part is None and item is not None):
            part = _mended(item, part, to_be_read=to_be_read)
        mended[name] = part
    # The others are computed fields, and those that the model does not declare.
    return {**dumped, **mended} if dumped else mended


@lru_cache(maxsize=1024)
def _field_names(cls: Any) -> list[tuple[str, str, str | None]]:
    """List a model's fields with the names by which it writes and reads each."""
    by_name = config_of(cls).get("validate_by_alias") is False
    return [
        (
            name,
            field.serialization_alias or name,
            name if by_name else _read_name(cls, name, field.validation_alias),
        )
        for name, field in fields_of(cls).items()
    ]


def _read_name(cls: Any, name: str, alias: Any) -> str | None:
    """Return the key under which a model looks for a field, the first if there are several."""
    choices = [] if alias is None else getattr(alias, "choices", [alias])
    for choice in choices:
        keys = getattr(choice, "path", [choice])
        if len(keys) == 1:
            return str(keys[0])
    config = config_of(cls)
    by_name = config.get("validate_by_name") or config.get("populate_by_name")
    return name if by_name or not choices else None


def config_of(cls: Any) -> Any:
    return getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", {})


def fields_of(cls: Any) -> Any:
    # Until pydantic 2.10 models had model_fields alone.
    return getattr(cls, "__pydantic_fields__", None) or cls.model_fields
