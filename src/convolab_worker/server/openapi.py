"""The OpenAPI description of the wake server."""

from __future__ import annotations

from functools import cache
from typing import Any

_NUMBER = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_RESULT = {
    "type": "object",
    "required": ["status", "processed", "failed", "remaining", "next_due_at"],
    "properties": {
        "status": {"enum": ["drained", "budget"]},
        "processed": {**_NUMBER, "description": "jobs that ended in this drain"},
        "failed": {**_NUMBER, "description": "those of them that failed for good"},
        "remaining": {**_NUMBER, "description": "jobs that wait, delayed ones too"},
        "next_due_at": {
            "type": ["number", "null"],
            "description": "epoch seconds: when there will be something to do, if that is known",
        },
    },
}
_AWAKE = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"const": "awake"},
        "running": {**_NUMBER, "description": "jobs that are running now"},
    },
}
_LINE = {
    "type": "object",
    "properties": {"status": {"enum": ["working", "drained", "budget"]}, "error": _TEXT},
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _TEXT}}
_HEALTH = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"enum": ["ok", "wedged"]}, "problem": _TEXT},
}
_READY = {
    "type": "object",
    "required": ["ready", "state"],
    "properties": {"ready": {"type": "boolean"}, "state": _TEXT},
}
_DEPTHS = {
    "type": "object",
    "required": ["queues", "commands"],
    "properties": {"queues": {"type": "object"}, "commands": _NUMBER},
}
_HOLD = {
    "name": "hold",
    "in": "query",
    "description": "keep the request open until all is done, at most so long: 90, 90s or 5m",
    "schema": _TEXT,
}
_BEARER: list[dict[str, list[str]]] = [{"bearer": []}, {}]


def _answers(**schemas: Any) -> dict[str, Any]:
    """Describe answers, ``s200=schema``, and what any route may answer beside them."""
    return {
        name.removeprefix("s"): {
            "description": _MEANINGS[name],
            "content": {"application/json": {"schema": schema}},
        }
        for name, schema in schemas.items()
    }


_MEANINGS = {
    "s200": "done",
    "s202": "awake: it is being looked for work",
    "s400": "the request is wrong",
    "s401": "the token is missing or wrong",
    "s408": "the body came too slowly",
    "s413": "the body is too large",
    "s429": "too many requests from this client; Retry-After says when",
    "s503": "not now",
}
_REFUSALS = {"s400": _ERROR, "s401": _ERROR, "s408": _ERROR, "s413": _ERROR, "s429": _ERROR}
_PROBE_REFUSALS = {"s400": _ERROR, "s408": _ERROR, "s413": _ERROR}


def _wake(method: str) -> dict[str, Any]:
    answers = _answers(s200=_RESULT, s202=_AWAKE, s503=_ERROR, **_REFUSALS)
    answers["200"]["content"]["application/x-ndjson"] = {"schema": _LINE}
    return {
        "operationId": f"{method}Wake",
        "summary": "look for work at once",
        "parameters": [_HOLD],
        "security": _BEARER,
        "responses": answers,
    }


def _get(name: str, summary: str, answers: dict[str, Any], *, is_open: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": answers}
    if not is_open:
        operation["security"] = _BEARER
    return {"get": operation}


def _depths() -> dict[str, Any]:
    return {
        "operationId": "depths",
        "summary": "count the jobs of each queue, at the cost of commands",
        "security": _BEARER,
        "responses": _answers(s200=_DEPTHS, s503=_ERROR, **_REFUSALS),
    }


def _probe(name: str, summary: str, schema: Any) -> dict[str, Any]:
    answers = _answers(s200=schema, s503=schema, **_PROBE_REFUSALS)
    return _get(name, summary, answers, is_open=True)


@cache
def document() -> dict[str, Any]:
    """Describe every route."""
    metrics = _answers(s503=_ERROR, **_REFUSALS)
    metrics["200"] = {"description": "done", "content": {"text/plain": {"schema": _TEXT}}}
    page = _answers(**_REFUSALS)
    page["200"] = {"description": "done", "content": {"text/html": {"schema": _TEXT}}}
    stream = _answers(s503=_ERROR, **_REFUSALS)
    stream["200"] = {"description": "a stream", "content": {"text/event-stream": {"schema": _TEXT}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "convolab_worker's wake server", "version": "1"},
        "paths": {
            "/wake": {"get": _wake("get"), "post": _wake("post")},
            "/health": _probe("health", "whether jobs are consumed", _HEALTH),
            "/healthz": _probe("healthz", "the same as /health", _HEALTH),
            "/ready": _probe("ready", "whether the worker is connected", _READY),
            "/readyz": _probe("readyz", "the same as /ready", _READY),
            "/metrics": _get("metrics", "counts for Prometheus", metrics, is_open=False),
            "/": _get("index", "the status page", page, is_open=False),
            "/events": _get("events", "what keeps the status page live", stream, is_open=False),
            "/depths": {"post": _depths()},
            "/openapi.json": _get(
                "openapi",
                "this description",
                _answers(s200={"type": "object"}, s429=_ERROR),
                is_open=True,
            ),
        },
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }
