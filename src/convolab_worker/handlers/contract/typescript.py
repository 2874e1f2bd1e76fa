"""Writes a contract as TypeScript: types of payloads and results, and queues that know them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from convolab_worker.handlers.contract.document import ANNOTATIONS, jobs_in
from convolab_worker.payloads.describe import REF

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_PRIMITIVES = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
}
# Limits that TypeScript's types can't express, and the comments that tell them.
_LIMITS = (
    "format", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems", "contentEncoding",
)  # fmt: skip
_RESERVED = ("Jobs", "QueueName", "JobName", "JobData", "JobResult", "TypedQueue", "TypedJob")

_HEAD = """\
// Written by `convolab-worker schema --typescript`. Write it again instead of changing it.

import type { Job, JobsOptions, JobSchedulerTemplateOptions, Queue, RepeatOptions } from "bullmq";
"""

_TAIL = """\
/** The names of the queues. */
export type QueueName = keyof Jobs;

/** The names of the jobs of a queue. */
export type JobName<Q extends QueueName> = keyof Jobs[Q] & string;

/** The data of a job. */
export type JobData<Q extends QueueName, N extends JobName<Q>> =
  Jobs[Q][N] extends { data: infer Data } ? Data : never;

/** What a job's handler returns. */
export type JobResult<Q extends QueueName, N extends JobName<Q>> =
  Jobs[Q][N] extends { result: infer Result } ? Result : never;

/** A job that was added: `await job.waitUntilFinished(queueEvents)` is its result. */
export type TypedJob<Q extends QueueName, N extends JobName<Q>> =
  Job<JobData<Q, N>, JobResult<Q, N>, string>;

/**
 * BullMQ's Queue, which refuses names and data that no handler takes:
 * `const queue: TypedQueue<"NAME"> = new Queue("NAME", { connection });`
 */
export type TypedQueue<Q extends QueueName> =
  Omit<Queue, "add" | "addBulk" | "upsertJobScheduler" | "name"> & {
    readonly name: string;

    add<N extends JobName<Q>>(
      name: N, data: JobData<Q, N>, opts?: JobsOptions,
    ): Promise<TypedJob<Q, N>>;

    addBulk(
      jobs: {
        [N in JobName<Q>]: { name: N; data: JobData<Q, N>; opts?: JobsOptions }
      }[JobName<Q>][],
    ): Promise<TypedJob<Q, JobName<Q>>[]>;

    upsertJobScheduler<N extends JobName<Q>>(
      id: string,
      repeat: Omit<RepeatOptions, "key">,
      template: { name: N; data: JobData<Q, N>; opts?: JobSchedulerTemplateOptions },
    ): Promise<TypedJob<Q, N>>;
  };
"""


def typescript(document: Mapping[str, Any]) -> str:
    """Return the text of a ``.d.ts`` file for a document of ``contract_of``."""
    definitions = document.get("$defs", {})
    names = _type_names(definitions)
    parts = [_HEAD]
    parts += [_declaration(names[name], schema, names) for name, schema in definitions.items()]
    parts += [_jobs(document, names), _TAIL]
    return "\n".join(parts)


def _type_names(definitions: Mapping[str, Any]) -> dict[str, str]:
    """Give each named type a name that TypeScript takes and that nothing else here has."""
    names: dict[str, str] = {}
    for name in definitions:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        plain = plain if _IDENTIFIER.fullmatch(plain) else f"_{plain}"
        while plain in _RESERVED or plain in names.values():
            plain += "_"
        names[name] = plain
    return names


def _declaration(name: str, schema: Mapping[str, Any], names: Mapping[str, str]) -> str:
    comment = _comment(schema, "")
    if _is_plain_object(schema):
        return f"{comment}export interface {name} {_object(schema, names, '')}\n"
    return f"{comment}export type {name} = {_type(schema, names, '')};\n"


def _jobs(document: Mapping[str, Any], names: Mapping[str, str]) -> str:
    lines = ["/** The jobs by queue and name: their data, and what their handlers return. */"]
    lines.append("export interface Jobs {")
    queue = None
    for (here, name), job in jobs_in(document).items():
        if here != queue:
            lines += [] if queue is None else ["  };"]
            lines.append(f"  {_key(here)}: {{")
            queue = here
        parts = job["properties"]
        lines.append(_comment(job, "    ", _policy(job.get(ANNOTATIONS, {}))).rstrip("\n"))
        lines.append(f"    {_key(name)}: {{")
        for what, part in (("data", parts["payload"]), ("result", parts["result"])):
            lines.append(f"      {what}: {_type(part, names, '      ')};")
        lines.append("    };")
    lines += [] if queue is None else ["  };"]
    return "\n".join([line for line in [*lines, "}"] if line]) + "\n"


def _policy(known: Mapping[str, Any]) -> list[str]:
    """Say a handler's limits in words, one sentence each."""
    said = []
    if "timeout" in known:
        said.append(f"Fails after {known['timeout']:g} s.")
    if "rate" in known:
        said.append(f"Starts at most {known['rate']}.")
    if "attempts" in known:
        backoff = f", with backoff {json.dumps(known['backoff'])}" if "backoff" in known else ""
        said.append(f"Has {known['attempts']} attempts{backoff}.")
    return said


def _comment(schema: Mapping[str, Any], indent: str, more: list[str] | None = None) -> str:
    lines = str(schema.get("description", "")).strip().splitlines() + (more or [])
    limits = [f"{what}: {json.dumps(schema[what])}" for what in _LIMITS if what in schema]
    lines += [", ".join(limits)] if limits else []
    if schema.get("type") == "integer" or {"integer"} & _types(schema):
        lines += ["A whole number."]
    if schema.get("deprecated") is True:
        lines += ["@deprecated"]
    if "default" in schema and schema["default"] is not None:
        lines += [f"@default {json.dumps(schema['default'], ensure_ascii=False)}"]
    lines = [line.replace("*/", "*\\/").rstrip() for line in lines]
    if not lines:
        return ""
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    body = "".join(f"{indent} *{f' {line}' if line else ''}\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n"


def _types(schema: Mapping[str, Any]) -> set[str]:
    found = schema.get("type")
    own = {found} if isinstance(found, str) else {*(found or ())}
    return own.union(*(_types(part) for part in schema.get("anyOf", ()) if isinstance(part, dict)))


def _key(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else json.dumps(name)


def _is_plain_object(schema: Mapping[str, Any]) -> bool:
    others = ("$ref", "allOf", "anyOf", "oneOf", "enum", "const")
    return schema.get("type") == "object" and not any(other in schema for other in others)


def _type(schema: Any, names: Mapping[str, str], indent: str) -> str:
    """Write a schema as a type; what TypeScript can't say is left out: the type is wider."""
    if not isinstance(schema, dict):
        return "never" if schema is False else "unknown"
    parts = [*_narrowings(schema, names, indent)]
    kinds = schema.get("type")
    if not parts and kinds is not None:
        listed = kinds if isinstance(kinds, list) else [kinds]
        parts.append(_union([_of_kind(kind, schema, names, indent) for kind in listed]))
    parts = [part for part in dict.fromkeys(parts) if part != "unknown"]
    if not parts:
        return "unknown"
    return " & ".join(f"({part})" if " | " in part and len(parts) > 1 else part for part in parts)


def _narrowings(schema: Mapping[str, Any], names: Mapping[str, str], indent: str) -> Iterator[str]:
    if "$ref" in schema:
        yield names[schema["$ref"].removeprefix(REF)]
    if "const" in schema:
        yield _literal(schema["const"])
    if "enum" in schema:
        yield _union([_literal(value) for value in schema["enum"]])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            yield _union([_type(part, names, indent) for part in schema[several]])
    for part in schema.get("allOf", ()):
        yield _type(part, names, indent)
    beside = any(word in schema for word in ("anyOf", "oneOf", "allOf", "$ref"))
    if beside and "properties" in schema:
        yield _object(schema, names, indent)


def _literal(value: Any) -> str:
    is_plain = value is None or isinstance(value, (str, int, float, bool))
    return json.dumps(value, ensure_ascii=False) if is_plain else "unknown"


def _union(types: list[str]) -> str:
    different = [*dict.fromkeys(types)]
    return "unknown" if "unknown" in different else " | ".join(different) or "never"


def _of_kind(kind: str, schema: Mapping[str, Any], names: Mapping[str, str], indent: str) -> str:
    if kind == "object":
        return _object(schema, names, indent)
    if kind == "array":
        return _array(schema, names, indent)
    return _PRIMITIVES.get(kind, "unknown")


def _array(schema: Mapping[str, Any], names: Mapping[str, str], indent: str) -> str:
    first, rest = schema.get("prefixItems"), schema.get("items", True)
    if first is None:
        item = _type(rest, names, indent)
        return f"({item})[]" if " | " in item or " & " in item else f"{item}[]"
    needed = schema.get("minItems", 0)
    items = [
        f"({_type(item, names, indent)})?" if place >= needed else _type(item, names, indent)
        for place, item in enumerate(first)
    ]
    if rest is not False and schema.get("maxItems") != len(first):
        item = _type(rest, names, indent)
        items.append(f"...({item})[]")
    return f"[{', '.join(items)}]"


def _object(schema: Mapping[str, Any], names: Mapping[str, str], indent: str) -> str:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    inner = f"{indent}  "
    if not properties:
        if others is False:
            return "Record<string, never>"
        patterns = [*schema.get("patternProperties", {}).values()]
        values = [_type(each, names, indent) for each in ([*patterns] or [others])]
        return f"{{ [key: string]: {_union(values)} }}"
    required = schema.get("required", ())
    lines = []
    for name, part in properties.items():
        comment = _comment(part, inner) if isinstance(part, dict) else ""
        mark = "" if name in required else "?"
        lines.append(f"{comment}{inner}{_key(name)}{mark}: {_type(part, names, inner)};\n")
    if others is True or isinstance(others, dict):
        lines.append(f"{inner}[key: string]: unknown;\n")
    return f"{{\n{''.join(lines)}{indent}}}"
