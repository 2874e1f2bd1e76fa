"""Answers in JSON, and the headers that every answer has."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

# They tell no software's version; a browser is not to cache, embed or guess anything.
HEADERS = {
    "Server": "convolab-worker",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def answer(status: int, value: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status,
        text=json.dumps(value),
        content_type="application/json",
        headers={**HEADERS, **(headers or {})},
    )


def failure(status: int, error: str, headers: dict[str, str] | None = None) -> web.Response:
    return answer(status, {"error": error}, headers)


def closing(response: web.Response) -> web.Response:
    """Have the connection closed after this answer: the rest of the request is not read."""
    response.force_close()
    return response


def in_bytes(response: web.Response) -> bytes:
    """Return the bytes of an answer to input that is not a request; the connection closes."""
    body = (response.text or "").encode()
    fields = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {response.status} {response.reason}\r\n{head}\r\n".encode() + body
