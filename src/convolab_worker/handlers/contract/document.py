"""The contract of an application's handlers as one JSON Schema document.

The document is the schema of an object that has, by queue and job name, a ``payload`` and a
``result``; named types are in ``$defs``. What else is known of a job is in ``x-convolab``, a
keyword that validators ignore.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from convolab_worker.errors import ConfigurationError
from convolab_worker.payloads.describe import REF, payload_schema, result_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from convolab_worker.handlers.registration.handler import Handler
    from convolab_worker.handlers.registration.registry import HandlerRegistry

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ANNOTATIONS = "x-convolab"


class Contract(NamedTuple):
    """The document, and a remark on each type that could not be described."""

    document: dict[str, Any]
    remarks: list[str]


def contract_of(handlers: HandlerRegistry, queues: Iterable[str]) -> Contract:
    """Describe the jobs of a registry. A handler of any queue is described for each of ``queues``.

    A result that can't be described may be anything, and is remarked on.
    """
    named, remarks = _NamedTypes(), []
    by_queue: dict[str, dict[str, Any]] = {}
    own_queues = (handler.queue for handler in handlers if handler.queue is not None)
    for queue in sorted({*queues, *own_queues}):
        for name in handlers.names_on(queue):
            handler = handlers.find(queue, name)
            if handler is None:  # pragma: no cover - names_on has just told of it
                continue
            result, problem = _result_of(handler)
            if problem is not None:
                remarks.append(f"{queue}, {name}: {problem}")
            parts = {
                "payload": named.take(payload_schema(handler.job_type.payload), "Input"),
                "result": named.take(result, "Output"),
            }
            by_queue.setdefault(queue, {})[name] = {**_described(handler), **_object(parts)}
    document = {
        "$schema": DIALECT,
        "title": "Jobs",
        "description": "The payload and the result of each job, by queue and job name.",
        **_object({queue: _object(jobs) for queue, jobs in by_queue.items()}),
        "$defs": named.definitions(),
    }
    return Contract(document, remarks)


def jobs_in(document: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the schemas of a document's jobs by queue and name.

    Raises ConfigurationError for a document that does not have the form of ``contract_of``.
    """
    jobs: dict[tuple[str, str], Mapping[str, Any]] = {}
    for queue, names in _properties(document, "the document").items():
        for name, job in _properties(names, queue).items():
            parts = _properties(job, f"{queue}, {name}")
            if not {"payload", "result"} & {*parts}:
                msg = f"{queue}, {name}: expected the properties payload and result, got neither"
                raise ConfigurationError(msg)
            jobs[queue, name] = job
    return jobs


def _properties(schema: Any, where: str) -> Mapping[str, Any]:
    found = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(found, dict):
        msg = (
            f"{where}: expected a JSON Schema of an object with properties: queues, then job names"
        )
        raise ConfigurationError(msg)
    return found


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _described(handler: Handler) -> dict[str, Any]:
    """Return a handler's docstring, limits and retry policy, under the names that Node uses."""
    text = inspect.getdoc(handler.function) if inspect.isroutine(handler.function) else None
    limits = {
        "kind": handler.kind,
        "timeout": handler.timeout,
        "concurrency": handler.concurrency,
        "rate": None if handler.rate is None else handler.rate.text,
        **handler.defaults,
    }
    known = {what: value for what, value in limits.items() if value is not None}
    return {**({"description": text} if text else {}), ANNOTATIONS: known}


def _result_of(handler: Handler) -> tuple[dict[str, Any], str | None]:
    try:
        return result_schema(handler.job_type.result), None
    except ConfigurationError as error:
        return {}, f"the result is not described: {error}"


class _NamedTypes:
    """The types that have names, each once; two that share a name get different ones."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        """Final names by the text of a definition and all that it refers to."""
        self._definitions: dict[str, Any] = {}

    def take(self, schema: dict[str, Any], suffix: str) -> dict[str, Any]:
        """Return a schema whose own definitions are among those of the document.

        ``suffix`` makes a new name where another type has that name already.
        """
        schema = _named(schema)
        own = schema.pop("$defs", {})
        names = {name: self._name(name, own, suffix) for name in own}

        def renamed(part: Any) -> Any:
            return mapped_refs(part, lambda ref: REF + names[ref.removeprefix(REF)])

        for name, definition in own.items():
            self._definitions.setdefault(names[name], renamed(definition))
        taken: dict[str, Any] = renamed(schema)
        return taken

    def definitions(self) -> dict[str, Any]:
        return dict(sorted(self._definitions.items()))

    def _name(self, name: str, own: Mapping[str, Any], suffix: str) -> str:
        reached = {each: own[each] for each in sorted(_reached(name, own))}
        text = json.dumps([name, reached], sort_keys=True, default=str)
        plain = "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")
        taken = {*self._names.values()}
        candidates = [plain, f"{plain}{suffix}", *(f"{plain}{suffix}{n}" for n in range(2, 1000))]
        free = next(each for each in candidates if each not in taken)
        return self._names.setdefault(text, free)


def _named(schema: dict[str, Any]) -> dict[str, Any]:
    """Move an object with a title to the definitions; pydantic describes some in place."""
    definitions = dict(schema.get("$defs", {}))
    title = schema.get("title")
    if "properties" not in schema or not isinstance(title, str) or title in definitions:
        return {**schema, "$defs": definitions}
    definitions[title] = {key: value for key, value in schema.items() if key != "$defs"}
    return {"$ref": REF + title, "$defs": definitions}


def _reached(name: str, definitions: Mapping[str, Any]) -> set[str]:
    found, left = {name}, [name]
    while left:

        def note(ref: str) -> str:
            other = ref.removeprefix(REF)
            if other not in found:
                found.add(other)
                left.append(other)
            return ref

        mapped_refs(definitions[left.pop()], note)
    return found


_VALUES = ("const", "default", "enum", "examples", "required", ANNOTATIONS)
"""The keywords whose values are data, and no schemas."""
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""The keywords whose values are schemas by name."""


def mapped_refs(part: Any, change: Callable[[str], str]) -> Any:
    """Copy a part of a schema with its references changed."""
    if isinstance(part, list):
        return [mapped_refs(each, change) for each in part]
    if not isinstance(part, dict):
        return part
    copy: dict[str, Any] = {}
    for key, value in part.items():
        if key == "$ref" and isinstance(value, str):
            copy[key] = change(value)
        elif key in _MAPS and isinstance(value, dict):
            copy[key] = {name: mapped_refs(each, change) for name, each in value.items()}
        else:
            copy[key] = value if key in _VALUES else mapped_refs(value, change)
    return copy
