"""The OpenAPI description of the wake server."""

from __future__ import annotations

from functools import cache
from typing import Any

from convolab_worker.server.console.orders import ACTIONS, MOST_JOBS

_TEXT = {"type": "string"}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*required], "properties": properties}


def _count(description: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "description": description}


_HOLD_RESULT = _object(
    *("status", "processed", "failed", "remaining", "next_due_at"),
    status={
        "enum": ["drained", "budget"],
        "description": "drained: no job was left to fetch; budget: the time was over first",
    },
    processed=_count("jobs that ended in this drain"),
    failed=_count("those of them that failed for good"),
    remaining=_count("jobs that wait, delayed ones included"),
    next_due_at={
        "type": ["number", "null"],
        "description": "when there will be work again, in epoch seconds; null if not known",
    },
)
_AWAKE = _object("status", status={"const": "awake"}, running=_count("jobs that are running now"))
_PROGRESS_LINE = _object(status={"enum": ["working", "drained", "budget"]}, error=_TEXT)
_ERROR = _object("error", error=_TEXT)
_HEALTH = _object("status", status={"enum": ["ok", "unhealthy"]}, problem=_TEXT)
_READY = _object("ready", "state", ready={"type": "boolean"}, state=_TEXT)
_LOOK = {"type": "object", "properties": {"commands": _count("billable commands it cost")}}
_ACTION = _object(
    *("action", "queue"),
    action={"enum": [*ACTIONS]},
    queue=_TEXT,
    ids={"type": "array", "items": _TEXT, "maxItems": MOST_JOBS},
    state={"type": "string", "description": "the state that the jobs were seen in"},
    reset_attempts={"type": "boolean", "description": "a retry has all attempts again"},
    forget_steps={"type": "boolean", "description": "a retry runs recorded steps anew"},
    name={"type": "string", "description": "the name of a job to enqueue"},
    data={"description": "its data"},
    options={"type": "object", "description": "its delay (seconds), priority and attempts"},
    schedule={"type": "string", "description": "the id of a schedule to remove"},
)
_HOLD = {
    "name": "hold",
    "in": "query",
    "description": "keep the request open until all work is done, at most this long: 90, 90s or 5m",
    "schema": _TEXT,
}
_RETRY = {
    "name": "retry",
    "in": "query",
    "description": "on answers 503 with Retry-After when the time is over and work remains",
    "schema": {"enum": ["on", "off"]},
}
_BEARER: list[dict[str, list[str]]] = [{"bearer": []}, {}]
_BEARER_OR_QSTASH: list[dict[str, list[str]]] = [{"bearer": []}, {"qstash": []}, {}]
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "qstash": {"type": "apiKey", "in": "header", "name": "Upstash-Signature"},
}
_DESCRIPTIONS = {
    200: "success",
    202: "accepted: the worker checks its queues now",
    400: "the request is not valid",
    401: "the token or signature is missing or wrong",
    403: "without a token: sent by a web page of another site, or under a foreign name",
    404: "there is no such job",
    409: "the job is not in a state for that",
    415: "expected JSON",
    408: "the body came too slowly",
    413: "the body is too large",
    417: "an Expect header other than 100-continue",
    429: "too many requests from this client; Retry-After says when to try again",
    503: "not available now",
}
_PROBE_ERRORS = (400, 403, 408, 413, 417)
_ERRORS = (*_PROBE_ERRORS, 401, 429, 503)


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(
    name: str,
    summary: str,
    contents: dict[int, dict[str, Any]],
    *,
    errors: tuple[int, ...] = _ERRORS,
    is_open: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Describe an operation: its ``contents`` by status, and the ``errors`` it may answer with."""
    contents = {**{status: _json(_ERROR) for status in errors}, **contents}
    return {
        "operationId": name,
        "summary": summary,
        **({} if is_open else {"security": _BEARER}),
        **more,
        "responses": {
            str(status): {"description": _DESCRIPTIONS[status], "content": content}
            for status, content in sorted(contents.items())
        },
    }


def _wake(name: str) -> dict[str, Any]:
    held = {**_json(_HOLD_RESULT), "application/x-ndjson": {"schema": _PROGRESS_LINE}}
    contents = {200: held, 202: _json(_AWAKE), 503: _json(_ERROR)}
    return _operation(
        name,
        "wake the worker",
        contents,
        parameters=[_HOLD, _RETRY],
        security=_BEARER_OR_QSTASH,
    )


def _probe(name: str, summary: str, schema: Any) -> dict[str, Any]:
    contents = {200: _json(schema), 503: _json(schema)}
    return {"get": _operation(name, summary, contents, errors=_PROBE_ERRORS, is_open=True)}


def _get(name: str, summary: str, media_type: str) -> dict[str, Any]:
    return {"get": _operation(name, summary, {200: {media_type: {"schema": _TEXT}}})}


def _console() -> dict[str, Any]:
    """Describe the console's routes. What is not from memory says what it cost: ``commands``."""
    looks = {
        "console": ("what the console may do", ()),
        "handlers": ("the worker's handlers", ()),
        "queues": ("the queues: counts, pauses, workers; find=all looks for all", ("find",)),
        "jobs": ("a page of a state's jobs", ("queue", "state", "after", "name", "text")),
        "matching": ("the ids of all jobs that fit", ("queue", "state", "name", "text")),
        "job": ("one job whole", ("queue", "id")),
        "attempts": ("when a job's attempts ran", ("queue", "id")),
        "payload": ("a job's data and result, uncut", ("queue", "id")),
        "failures": ("failed jobs by reason", ("queue",)),
        "schedules": ("the schedules", ("queue",)),
    }
    contents = {200: _json(_LOOK), 404: _json(_ERROR), 503: _json(_ERROR)}
    paths: dict[str, Any] = {
        f"/api/{name}": {
            "get": _operation(
                f"console-{name}",
                summary,
                contents,
                parameters=[{"name": one, "in": "query", "schema": _TEXT} for one in parameters],
            )
        }
        for name, (summary, parameters) in looks.items()
    }
    contents = {**contents, 409: _json(_ERROR), 415: _json(_ERROR)}
    body = {"required": True, "content": _json(_ACTION)}
    acting = _operation("console-actions", "act on jobs or a queue", contents, requestBody=body)
    return {**paths, "/api/actions": {"post": acting}}


@cache
def document() -> dict[str, Any]:
    description = _operation(
        "openapi",
        "this description",
        {200: _json({"type": "object"})},
        errors=(*_PROBE_ERRORS, 429, 503),
        is_open=True,
    )
    stream = "the events that keep the console up to date"
    return {
        "openapi": "3.1.0",
        "info": {"title": "convolab_worker's wake server", "version": "1"},
        "paths": {
            "/wake": {"get": _wake("getWake"), "post": _wake("postWake")},
            "/health": _probe("health", "whether the worker can run jobs", _HEALTH),
            "/healthz": _probe("healthz", "the same as /health", _HEALTH),
            "/ready": _probe("ready", "whether the worker is connected, or asleep", _READY),
            "/readyz": _probe("readyz", "the same as /ready", _READY),
            "/metrics": _get("metrics", "metrics for Prometheus", "text/plain"),
            "/": _get("index", "the console", "text/html"),
            "/events": _get("events", stream, "text/event-stream"),
            **_console(),
            "/openapi.json": {"get": description},
        },
        "components": {"securitySchemes": _SCHEMES},
    }
