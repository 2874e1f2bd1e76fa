"""How each schema is written as a TypeScript type."""

from __future__ import annotations

from typing import Any

import pytest

from convolab_worker.handlers.contract.typescript import typescript


def types(**definitions: Any) -> str:
    """What is written of those definitions, without what comes before and behind."""
    document = {"properties": {}, "$defs": definitions}
    return (
        typescript(document)
        .partition('"bullmq";\n')[2]
        .partition("/** The jobs by queue")[0]
        .strip()
    )


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer"}, "number"),
        ({"type": ["boolean", "null"]}, "boolean | null"),
        ({}, "unknown"),
        ({"enum": ["a", 1, None]}, '"a" | 1 | null'),
        ({"const": "a"}, '"a"'),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "array"}, "unknown[]"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, '("a" | "b")[]'),
        (
            {
                "type": "array",
                "prefixItems": [{"type": "string"}, {"type": "number"}],
                "minItems": 2,
                "items": False,
            },
            "[string, number]",
        ),
        (
            {"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "null"}},
            "[(string)?, ...(null)[]]",
        ),
        ({"type": "object"}, "{ [key: string]: unknown }"),
        (
            {"type": "object", "additionalProperties": {"type": "number"}},
            "{ [key: string]: number }",
        ),
        ({"type": "object", "additionalProperties": False}, "Record<string, never>"),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Other"}]}, "string | Other"),
        (
            {"allOf": [{"$ref": "#/$defs/Other"}, {"anyOf": [{"const": 1}, {"const": 2}]}]},
            "Other & (1 | 2)",
        ),
        ({"anyOf": [{"type": "string"}, {}]}, "unknown"),
        ({"not": {}}, "unknown"),
    ],
)
def test_a_schema_is_a_type(schema: dict[str, Any], written: str) -> None:
    """What TypeScript can't say is left out, so that a type is never too narrow."""
    text = types(Thing=schema, Other={"type": "null"})

    is_interface = f"export interface Thing {written}\n" in f"{text}\n"
    assert is_interface or f"export type Thing = {written};" in text


def test_what_is_said_of_a_field_is_its_comment() -> None:
    """Description, limits and default; none of them can end the comment."""
    field = {"type": "integer", "minimum": 1, "default": 3, "description": "How many */ of them."}

    assert types(Thing={"type": "object", "properties": {"count": field}}) == (
        "export interface Thing {\n"
        "  /**\n"
        "   * How many *\\/ of them.\n"
        "   * minimum: 1\n"
        "   * A whole number.\n"
        "   * @default 3\n"
        "   */\n"
        "  count?: number;\n"
        "}"
    )


def test_names_are_names_of_typescript() -> None:
    """Those that it does not take, and those that stand here already, are changed."""
    schema = {
        "type": "object",
        "properties": {"two words": {"$ref": "#/$defs/3D"}, "jobs": {"$ref": "#/$defs/Jobs"}},
        "required": ["jobs"],
    }
    text = types(**{"a-b": schema, "3D": {"type": "null"}, "Jobs": {"type": "null"}})

    assert text == (
        'export interface a_b {\n  "two words"?: _3D;\n  jobs: Jobs_;\n}\n\n'
        "export type _3D = null;\n\nexport type Jobs_ = null;"
    )
